package gate

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// Where the browser is decides about the cookies, and whether a form is from a page of ours: the
// settings say it, or else the request and trusted servers in front, whose headers are all that is
// left of those that a client sends.
func TestOrigin(t *testing.T) {
	t.Parallel()
	set := &url.URL{Scheme: "https", Host: "console.example.org"}
	for name, c := range map[string]struct {
		set    *url.URL
		host   string
		header map[string]string
		want   string
	}{
		"straight":                        {nil, "proxy.example.org:8009", nil, "http://proxy.example.org:8009"},
		"behind a server that does TLS":   {nil, "proxy.example.org", map[string]string{"X-Forwarded-Proto": "https"}, "https://proxy.example.org"},
		"which changes the host":          {nil, "10.0.0.1:8009", map[string]string{"X-Forwarded-Proto": "https", "X-Forwarded-Host": "proxy.example.org"}, "https://proxy.example.org"},
		"with more than one host":         {nil, "proxy.example.org", map[string]string{"X-Forwarded-Host": "a.example, b.example"}, "http://proxy.example.org"},
		"as set":                          {set, "10.0.0.1:8009", nil, "https://console.example.org"},
		"as set, but on this machine":     {set, "127.0.0.1:8009", nil, "http://127.0.0.1:8009"},
		"as set, on this machine by name": {set, "localhost:8009", nil, "http://localhost:8009"},
		"as set, on this machine by IPv6": {set, "[::1]:8009", nil, "http://[::1]:8009"},
	} {
		g := &Gate{o: Options{URL: c.set}}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = c.host
		for k, v := range c.header {
			r.Header.Set(k, v)
		}
		if got := g.Origin(r).String(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// A form counts if the browser says that it is from where the console is; what a browser does not say
// is no reason to refuse it.
func TestCheckOrigin(t *testing.T) {
	t.Parallel()
	g := &Gate{o: Options{URL: &url.URL{Scheme: "https", Host: "console.example.org"}}}
	for origin, passes := range map[string]bool{
		"": true, "https://console.example.org": true, "https://CONSOLE.example.org": true, "https://10.0.0.1:8009": true,
		"null": false, "https://console.example.org.evil.example": false, "https://evil.example": false, "https://": false, "%": false,
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Host = "10.0.0.1:8009"
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		if err := g.checkOrigin(r); (err == nil) != passes {
			t.Errorf("%q: %v", origin, err)
		}
	}
}
