package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the homeserver is told of the client's address: nothing that somebody says who is not
// trusted, however it is said.
func TestWhoTheClientIs(t *testing.T) {
	t.Parallel()
	const near, far = "10.0.0.1:99", "203.0.113.7:99"
	for _, c := range []struct {
		name, peer, header, field string
		forwarded                 bool
		want                      string
	}{
		{name: "nobody says anything", peer: far, want: "203.0.113.7"},
		{name: "a stranger says something", peer: far, header: "X-Forwarded-For", field: "198.51.100.1", want: "203.0.113.7"},
		{name: "a stranger says something in the standard's way", peer: far, header: "Forwarded", field: "for=198.51.100.1", forwarded: true, want: "203.0.113.7"},
		{name: "one in front", peer: near, header: "X-Forwarded-For", field: "198.51.100.1", want: "198.51.100.1, 10.0.0.1"},
		{name: "two in front", peer: near, header: "X-Forwarded-For", field: "198.51.100.1, 10.0.0.2", want: "198.51.100.1, 10.0.0.2, 10.0.0.1"},
		// A server that appends passes on what the client wrote.
		{name: "the client wrote a part", peer: near, header: "X-Forwarded-For", field: "6.6.6.6, 198.51.100.1, 10.0.0.2", want: "198.51.100.1, 10.0.0.2, 10.0.0.1"},
		{name: "the client wrote one that is trusted", peer: near, header: "X-Forwarded-For", field: "10.0.0.9, 198.51.100.1", want: "198.51.100.1, 10.0.0.1"},
		{name: "with a port", peer: near, header: "X-Forwarded-For", field: "198.51.100.1:4711", want: "198.51.100.1, 10.0.0.1"},
		{name: "IPv6", peer: near, header: "X-Forwarded-For", field: "2001:db8::1", want: "2001:db8::1, 10.0.0.1"},
		{name: "IPv6 with a port", peer: near, header: "X-Forwarded-For", field: "[2001:db8::1]:4711", want: "2001:db8::1, 10.0.0.1"},
		{name: "rubbish", peer: near, header: "X-Forwarded-For", field: "6.6.6.6, rubbish, 10.0.0.2", want: "10.0.0.2, 10.0.0.1"},
		{name: "empty", peer: near, header: "X-Forwarded-For", field: "", want: "10.0.0.1"},
		{name: "the header that is not read", peer: near, header: "Forwarded", field: "for=6.6.6.6", want: "10.0.0.1"},
		{name: "the other header that is not read", peer: near, header: "X-Forwarded-For", field: "6.6.6.6", forwarded: true, want: "10.0.0.1"},

		{name: "standard", peer: near, header: "Forwarded", field: "for=198.51.100.1", forwarded: true, want: "198.51.100.1, 10.0.0.1"},
		{name: "RFC 7239 section 4", peer: near, header: "Forwarded", field: `For="[2001:db8:cafe::17]:4711"`, forwarded: true, want: "2001:db8:cafe::17, 10.0.0.1"},
		{name: "RFC 7239 section 4, two", peer: near, header: "Forwarded", field: "for=192.0.2.43, for=198.51.100.17", forwarded: true, want: "198.51.100.17, 10.0.0.1"},
		{name: "RFC 7239 section 4, pairs", peer: near, header: "Forwarded", field: "for=192.0.2.60;proto=http;by=203.0.113.43", forwarded: true, want: "192.0.2.60, 10.0.0.1"},
		{name: "standard, two in front", peer: near, header: "Forwarded", field: `for=6.6.6.6, for=198.51.100.1;proto=https,for="10.0.0.2:1" ; by=_x`, forwarded: true, want: "198.51.100.1, 10.0.0.2, 10.0.0.1"},
		{name: "unknown", peer: near, header: "Forwarded", field: "for=6.6.6.6, for=unknown", forwarded: true, want: "10.0.0.1"},
		{name: "hidden", peer: near, header: "Forwarded", field: "for=_gazonk", forwarded: true, want: "10.0.0.1"},
		{name: "without for", peer: near, header: "Forwarded", field: "proto=https", forwarded: true, want: "10.0.0.1"},
		{name: "IPv6 without brackets", peer: near, header: "Forwarded", field: `for="2001:db8::1"`, forwarded: true, want: "10.0.0.1"},
		{name: "a comma in quotes", peer: near, header: "Forwarded", field: `for=198.51.100.1;x=", for=6.6.6.6"`, forwarded: true, want: "198.51.100.1, 10.0.0.1"},
		// What can be read in two ways is not read.
		{name: "quotes that do not end", peer: near, header: "Forwarded", field: `for=198.51.100.1, for="6.6.6.6`, forwarded: true, want: "10.0.0.1"},
		{name: "for twice", peer: near, header: "Forwarded", field: "for=198.51.100.1;for=6.6.6.6", forwarded: true, want: "10.0.0.1"},
		{name: "something behind a value", peer: near, header: "Forwarded", field: `for="198.51.100.1"6.6.6.6`, forwarded: true, want: "10.0.0.1"},
		{name: "too long", peer: near, header: "Forwarded", field: "for=198.51.100.1;x=" + strings.Repeat("x", maxForwarded), forwarded: true, want: "10.0.0.1"},
	} {
		g := newRig(t, func(o *Options) {
			o.TrustedProxies, o.ReadsForwarded = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, c.forwarded
		})
		r := httptest.NewRequest(http.MethodGet, "/_matrix/client/v3/joined_rooms", nil)
		r.RemoteAddr = c.peer
		if c.header != "" {
			r.Header.Set(c.header, c.field)
		}
		g.proxy.ServeHTTP(httptest.NewRecorder(), r)
		all := g.hs.all()
		if len(all) != 1 {
			t.Errorf("%s: the homeserver got %d requests", c.name, len(all))
			continue
		}
		if got := all[0].Header.Get("X-Forwarded-For"); got != c.want || all[0].Header.Get("Forwarded") != "" {
			t.Errorf("%s: the homeserver is told %q and %q, want %q", c.name, got, all[0].Header.Get("Forwarded"), c.want)
		}
	}
}

// Attack: a client writes X-Real-IP, which the server in front passes on beside the
// X-Forwarded-For that it sets itself. A homeserver that was set up to read X-Real-IP (Dendrite's
// real_ip_header) would take it for the client's address.
func TestRealIPOfTheClient(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ peer, forwardedFor, realIP, want string }{
		{"10.0.0.1:99", "198.51.100.1", "6.6.6.6", "198.51.100.1"},
		{"10.0.0.1:99", "7.7.7.7, 198.51.100.1, 10.0.0.2", "6.6.6.6", "198.51.100.1"},
		{"10.0.0.1:99", "198.51.100.1", "", ""},
		{"10.0.0.1:99", "", "198.51.100.1", "198.51.100.1"}, // all that it says
		{"203.0.113.7:99", "198.51.100.1", "6.6.6.6", ""},
	} {
		g := newRig(t, func(o *Options) { o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
		r := httptest.NewRequest(http.MethodGet, "/_matrix/client/v3/joined_rooms", nil)
		r.RemoteAddr = c.peer
		for name, value := range map[string]string{"X-Forwarded-For": c.forwardedFor, "X-Real-IP": c.realIP} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		g.proxy.ServeHTTP(httptest.NewRecorder(), r)
		if got := g.hs.all()[0].Header.Get("X-Real-IP"); got != c.want {
			t.Errorf("%+v: the homeserver is told %q", c, got)
		}
	}
}

// Whether the client used TLS is told as whoever knows it says.
func TestWhetherTheClientUsedTLS(t *testing.T) {
	t.Parallel()
	told := func(forwarded, own bool, header, field string) string {
		g := newRig(t, func(o *Options) {
			o.TrustedProxies, o.ReadsForwarded = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, forwarded
		})
		target := "http://x/_matrix/client/v3/joined_rooms"
		r := httptest.NewRequest(http.MethodGet, strings.Replace(target, "http", map[bool]string{true: "https", false: "http"}[own], 1), nil)
		r.RequestURI = "/_matrix/client/v3/joined_rooms"
		if header != "" {
			r.Header.Set(header, field)
		}
		g.proxy.ServeHTTP(httptest.NewRecorder(), r)
		return g.hs.all()[0].Header.Get("X-Forwarded-Proto")
	}
	got := []string{
		told(false, false, "", ""),
		told(false, true, "", ""),
		told(false, false, "X-Forwarded-Proto", "https"),
		told(true, false, "X-Forwarded-Proto", "https"),
		told(true, false, "Forwarded", "for=203.0.113.1;proto=HTTPS"),
		told(true, false, "Forwarded", "for=203.0.113.1;proto=evil"),
		// Said by somebody who is not trusted to say it.
		told(true, false, "Forwarded", "for=6.6.6.6;proto=https,for=203.0.113.1;proto=http"),
	}
	if diff := cmp.Diff([]string{"", "https", "https", "", "https", "", "http"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Whatever stands in the field, what comes out are addresses or nothing.
func FuzzForwarded(f *testing.F) {
	for _, seed := range []string{`for=192.0.2.60;proto=http;by=203.0.113.43`, `for="[2001:db8::1]:1", for=_x`, `for="a\"b";x`, `;;,;`, `for=`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, field string) {
		for _, c := range parseForwarded(field) {
			if c.proto != "" && c.proto != "http" && c.proto != "https" {
				t.Errorf("%q gives the protocol %q", field, c.proto)
			}
			if c.addr.IsValid() && (c.addr.Zone() != "" || c.addr.Is4In6()) {
				t.Errorf("%q gives the address %v", field, c.addr)
			}
		}
	})
}
