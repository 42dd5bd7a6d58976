package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/console"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
)

// fakePages are Pages with a session of whoever the cookie names.
type fakePages struct{ begun atomic.Int64 }

func (f *fakePages) Begin(r *http.Request, from string) (*http.Request, id.UserID, error) {
	f.begun.Add(1)
	c, err := r.Cookie("session")
	if err != nil {
		return r, "", nil
	}
	if c.Value == "broken" {
		return r, "", errors.New("the secret detail")
	}
	return r.WithContext(context.WithValue(r.Context(), fakeKey{}, from)), id.UserID(c.Value), nil
}

type fakeKey struct{}

func (f *fakePages) Refuse(w http.ResponseWriter, _ *http.Request, why *apierr.Error) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(why.Status)
	_, _ = fmt.Fprintf(w, "<p>%s", why.Public())
}

func withPages(pages Pages, apart bool) func(*Options) {
	return func(o *Options) {
		o.Pages, o.ConsoleApart = pages, apart
		o.Handlers[interceptors.Console] = func(x *interceptors.Exchange) error {
			_, _ = fmt.Fprintf(x.Writer, "page %s %s of %s, seen from %v", x.Request.Method, x.Endpoint.Pattern, x.Identity.UserID, x.Request.Context().Value(fakeKey{}))
			return nil
		}
	}
}

const consoleHome = "/_e2ee_proxy/console"

// Pages are found, with whose session it is; what is refused is a page too.
func TestPages(t *testing.T) {
	t.Parallel()
	g := newRig(t, withPages(&fakePages{}, false))
	a := g.do("GET", consoleHome+"/people/%40bob%3Ahs", "", "Cookie: session=@alice:hs")
	if a.StatusCode != 200 || a.body != "page GET /_e2ee_proxy/console/people/{userId} of @alice:hs, seen from 127.0.0.1" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	for target, want := range map[string]int{
		consoleHome + "/nothing":            http.StatusNotFound,
		consoleHome + "/people/@bob:hs/x/y": http.StatusNotFound,
		consoleHome + "/../v1/status":       http.StatusBadRequest,
	} {
		if a := g.do("GET", target, "", "Cookie: session=@alice:hs"); a.StatusCode != want || want == 404 && !strings.HasPrefix(a.body, "<p>") {
			t.Errorf("%s: %d %s", target, a.StatusCode, a.body)
		}
	}
	a = g.do("GET", consoleHome, "", "Cookie: session=broken")
	if a.StatusCode != 500 || strings.Contains(a.body, "secret detail") || !strings.HasPrefix(a.body, "<p>") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	a = g.do("POST", consoleHome+"/people", strings.Repeat("x", smallBody+1), "Cookie: session=@alice:hs", "Content-Type: application/x-www-form-urlencoded")
	if a.StatusCode != http.StatusRequestEntityTooLarge || !strings.HasPrefix(a.body, "<p>") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if len(g.hs.all()) != 0 || g.hs.whoamis() != 0 {
		t.Error("the homeserver was asked something")
	}
}

// Attack: another website reads the console, with what browsers let it send. No page may be read by
// another origin, also when it is refused.
func TestPagesAreNotForOtherOrigins(t *testing.T) {
	t.Parallel()
	g := newRig(t, withPages(&fakePages{}, false))
	for _, method := range []string{"GET", "POST", "OPTIONS", "HEAD"} {
		for _, target := range []string{consoleHome, consoleHome + "/people", consoleHome + "/nothing", consoleHome + "/events"} {
			a := g.do(method, target, "", "Origin: https://evil.example", "Access-Control-Request-Method: POST", "Cookie: session=broken")
			for name := range a.Header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s %s: %s", method, target, name)
				}
			}
			if method == "OPTIONS" && a.StatusCode < 400 {
				t.Errorf("%s: a preflight is answered with %d", target, a.StatusCode)
			}
		}
	}
}

// Attack: an access token opens a page, or a page's session the API. Neither counts for the other.
func TestTokensAndSessionsAreApart(t *testing.T) {
	t.Parallel()
	g := newRig(t, withPages(&fakePages{}, false))
	a := g.do("GET", consoleHome+"?access_token=alice", "", "Authorization: Bearer alice")
	if a.body != "page GET /_e2ee_proxy/console of , seen from <nil>" || g.hs.whoamis() != 0 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := g.do("GET", "/_e2ee_proxy/v1/status", "", "Cookie: session=@alice:hs"); a.StatusCode == 200 {
		t.Errorf("the API answers a session: %s", a.body)
	}
}

// A console that is off, or on a listener of its own, is nowhere else; and nothing else is there.
func TestConsoleOfItsOwn(t *testing.T) {
	t.Parallel()
	off := newRig(t, nil)
	if a := off.do("GET", consoleHome, ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("switched off: %d", a.StatusCode)
	}
	g := newRig(t, withPages(&fakePages{}, true))
	if a := g.do("GET", consoleHome, "", "Cookie: session=@alice:hs"); a.StatusCode != http.StatusNotFound || strings.Contains(a.body, "page") {
		t.Errorf("on the clients' listener: %d %s", a.StatusCode, a.body)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- g.proxy.ServeConsole(ctx, ln) }() // ends with stop
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	g.front = &httptest.Server{Listener: ln}
	if a := g.do("GET", consoleHome, "", "Cookie: session=@alice:hs"); a.StatusCode != 200 || !strings.Contains(a.body, "of @alice:hs") {
		t.Errorf("on its own listener: %d %s", a.StatusCode, a.body)
	}
	for _, r := range allRoutes() {
		if r.class == classConsole {
			continue
		}
		version := ""
		for _, v := range []string{"v3", "v1", "r0", "unstable", "v4"} {
			if version == "" && r.versions&versionBit(v) != 0 {
				version = v
			}
		}
		a := g.do(r.method, fill(r.pattern, version), "", bearerAlice)
		if a.StatusCode < 400 {
			t.Errorf("%s %s: %d", r.method, r.pattern, a.StatusCode)
		}
	}
	if len(g.hs.all()) != 0 {
		t.Errorf("the homeserver was asked: %v", g.hs.all())
	}
}

// At each request of the console the process answers that has the account of the session.
func TestPagesAreAnsweredWhereTheAccountIs(t *testing.T) {
	t.Parallel()
	names, made := []string{"a", "b"}, 0
	a, b := pair(t, func(o *Options) {
		name := names[made]
		made++
		withPages(&fakePages{}, false)(o)
		page := o.Handlers[interceptors.Console]
		o.Handlers[interceptors.Console] = func(x *interceptors.Exchange) error {
			x.Writer.Header().Set("X-Said-By", name)
			http.SetCookie(x.Writer, &http.Cookie{Name: "given", Value: "by-" + name})
			return page(x)
		}
	})
	for _, r := range []*replica{a, b} {
		got := r.do("POST", consoleHome+"/people", "user_id=x", "Cookie: session=@alice:hs", "Content-Type: application/x-www-form-urlencoded")
		if got.Header.Get("X-Said-By") != "b" || !strings.Contains(got.body, "of @alice:hs, seen from 127.0.0.1") || got.Header.Get("Set-Cookie") != "given=by-b" {
			t.Errorf("%d %v %s", got.StatusCode, got.Header, got.body)
		}
	}
}

// Every row of the console in the table is a page, and every page has a row.
func TestConsoleHasThePagesOfTheTable(t *testing.T) {
	t.Parallel()
	base, err := url.Parse("http://homeserver.test")
	if err != nil {
		t.Fatal(err)
	}
	limits, err := interceptors.NewLimits(nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := console.New(console.Options{Limits: limits, Homeserver: base, Client: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]bool)
	for _, r := range consoleRoutes() {
		rows[r.method+" "+r.pattern] = true
	}
	for _, at := range c.Pages() {
		if !rows[at] {
			t.Errorf("the table has no row for %s", at)
		}
		delete(rows, at)
	}
	for at := range rows {
		t.Errorf("the console has no page %s", at)
	}
}
