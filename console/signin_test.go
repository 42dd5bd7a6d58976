package console

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/secret"
)

// Signing in proves who somebody is, and leaves nothing behind: neither a device at the homeserver
// nor anything that could be used again.
func TestSignInLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(r *rig) got{
		"password": func(r *rig) got {
			return r.post("/sign-in", "/sign-in", "user", "alice", "password", "wonderland")
		},
		"single sign-on": func(r *rig) got { return r.sso("sso-@alice:hs", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			g := do(r)
			if g.Status >= 400 {
				t.Fatalf("%d: %s", g.Status, text(g.Body))
			}
			r.wantText(r.get(""), 200, "Signed in as @alice:hs", "All is well")
			r.hs.set(func() {
				if r.hs.made != 1 || len(r.hs.live) != 3 {
					t.Errorf("%d devices were made, and these tokens live: %v", r.hs.made, r.hs.live)
				}
			})
			for _, file := range r.files() {
				for _, secret := range []string{"wonderland", "made-@alice:hs", "sso-@alice:hs", r.cookieValue()} {
					if bytes.Contains(file, []byte(secret)) {
						t.Errorf("%q is in the database", secret)
					}
				}
			}
		})
	}
}

// A device that the homeserver does not end is a reason not to let anybody in: somebody would have
// a device that nobody knows of.
func TestSignInFailsIfTheDeviceStays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.hs.refuse = func(w http.ResponseWriter, path string) bool {
		if path == "POST logout" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		return path == "POST logout"
	}
	r.wantText(r.post("/sign-in", "/sign-in", "user", "alice", "password", "wonderland"), http.StatusBadGateway, "You were not signed in", "log it out there")
	if g := r.get(""); g.Status != http.StatusSeeOther {
		t.Errorf("the console is open: %d", g.Status)
	}
	if n := len(slices.DeleteFunc(slices.Clone(r.hs.requests), func(s string) bool { return s != "POST logout" })); n != 3 {
		t.Errorf("it was tried %d times", n)
	}
}

// Attack: somebody ends a sign-in in the middle, or the answer to it is lost, and a device stays of
// which nobody knows. The sign-in goes on to its end without the browser; what an answer that was lost
// leaves is named, and the next sign-in ends it, because it has the same ID.
func TestInterruptedSignInLeavesNoDevice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, leave := context.WithCancel(t.Context())
	r.hs.set(func() {
		r.hs.refuse = func(_ http.ResponseWriter, path string) bool {
			if path == "POST login" {
				leave()
			}
			return false
		}
	})
	who, err := r.console.gate.ByPassword(ctx, httptest.NewRequest(http.MethodPost, "/", nil), "alice", "192.0.2.1", secret.Bytes("wonderland"))
	if err != nil || who != alice {
		t.Errorf("%s, %v", who, err)
	}
	live := func() (n int) {
		r.hs.set(func() { n = len(r.hs.live) })
		return n
	}
	if n := live(); n != 3 {
		t.Errorf("%d tokens live after a browser has left", n)
	}
	r.hs.set(func() { r.hs.answerLost = true })
	r.wantText(r.post("/sign-in", "/sign-in", "user", "alice", "password", "wonderland"), http.StatusBadGateway, "E2EE_PROXY_CONSOLE", "log it out there")
	if n := live(); n != 4 {
		t.Errorf("%d tokens live after an answer was lost", n)
	}
	r.hs.set(func() { r.hs.answerLost = false })
	r.signIn("alice")
	if n := live(); n != 3 {
		t.Errorf("%d tokens live after the next sign-in", n)
	}
}

// With an access token nothing is made, and the token goes on.
func TestSignInWithToken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if g := r.post("/sign-in", "/sign-in/token", "access_token", "  alices-token\n"); g.Status != http.StatusSeeOther {
		t.Fatalf("%d: %s", g.Status, text(g.Body))
	}
	r.wantText(r.get(""), 200, "Signed in as @alice:hs")
	r.hs.set(func() {
		if r.hs.made != 0 || r.hs.live["alices-token"] != alice {
			t.Error("a device was made, or the token was ended")
		}
	})
}

// Whatever is typed in wrong is answered in words, on the same page, with the name still there.
func TestSignInRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path   string
		fields []string
		status int
		want   []string
	}{
		"wrong password": {"/sign-in", []string{"user", "alice", "password", "nope"}, 403, []string{"does not accept this user name and password", "try again"}},
		"no password":    {"/sign-in", []string{"user", "alice", "password", ""}, 403, []string{"missing", "Enter both"}},
		"wrong token":    {"/sign-in/token", []string{"access_token", "old"}, 403, []string{"does not know this"}},
		"blanks inside":  {"/sign-in/token", []string{"access_token", "alices -token"}, 403, []string{"no access token", "Copy all of it"}},
		"guest":          {"/sign-in", []string{"user", "guest", "password", "wonderland"}, 403, []string{"Guests have no console"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			g := r.post("/sign-in", c.path, c.fields...)
			r.wantText(g, c.status, c.want...)
			if strings.Contains(g.Body, "nope") || strings.Contains(g.Body, "alices -token") {
				t.Error("a secret is in the page")
			}
			if c.path == "/sign-in" && c.fields[1] == "alice" && !strings.Contains(g.Body, `value="alice"`) {
				t.Error("the name has to be typed again")
			}
			if got := r.get(""); got.Status != http.StatusSeeOther || got.Header.Get("Location") != "/_e2ee_proxy/console/sign-in" {
				t.Errorf("the console is open: %d %s", got.Status, got.Header.Get("Location"))
			}
		})
	}
}

// A homeserver that is down is said to be down.
func TestSignInWithoutHomeserver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.token("/sign-in")
	r.hs.Close()
	r.wantText(r.get("/sign-in"), 200, "does not answer at the moment")
	r.wantText(r.do(r.form("/sign-in", url.Values{"form_token": {token}, "user": {"alice"}, "password": {"wonderland"}}, nil)), 502, "cannot be reached")
}

// Attack: passwords are guessed, of one user from anywhere, and of many from one network.
func TestSignInIsLimited(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, name := range []string{"alice", "@alice:hs", "ALICE", "alice", "@Alice:other"} {
		r.wantText(r.post("/sign-in", "/sign-in", "user", name, "password", "guess"), 403)
	}
	g := r.post("/sign-in", "/sign-in", "user", "alice", "password", "wonderland")
	r.wantText(g, http.StatusTooManyRequests, "tried too often", "Wait")
	if g.Header.Get("Retry-After") == "" {
		t.Error("it does not say how long to wait")
	}
	asked := len(r.hs.requests)
	for i := range 15 {
		r.post("/sign-in", "/sign-in", "user", strings.Repeat("x", i+1), "password", "guess")
	}
	r.wantText(r.post("/sign-in", "/sign-in", "user", "bob", "password", "wonderland"), http.StatusTooManyRequests)
	if len(r.hs.requests) == asked {
		t.Error("nobody else could try")
	}
	r.pass(time.Minute)
	if g := r.post("/sign-in", "/sign-in", "user", "alice", "password", "wonderland"); g.Status != http.StatusSeeOther {
		t.Errorf("after a minute: %d", g.Status)
	}
}

// A session ends after half an hour without use, after 12 hours in any case, and when it is ended.
func TestSessionEnds(t *testing.T) {
	t.Parallel()
	wantOut := func(r *rig, why string) {
		r.t.Helper()
		g := r.get("")
		if at, _, _ := strings.Cut(g.Header.Get("Location"), "?"); g.Status != http.StatusSeeOther || at != "/_e2ee_proxy/console/sign-in" {
			r.t.Errorf("%s: %d", why, g.Status)
		}
	}
	r := newRig(t)
	r.signIn("alice")
	r.pass(29 * time.Minute)
	r.wantText(r.get(""), 200)
	r.pass(29 * time.Minute)
	r.wantText(r.get(""), 200)
	token := r.token("/recovery")
	r.pass(31 * time.Minute)
	wantOut(r, "idle")
	r.wantText(r.get("/sign-in?done=ended"), 200, "Your session has ended", "Sign in again")
	sent := r.do(r.form("/recovery/show", url.Values{"form_token": {token}}, nil))
	if sent.Header.Get("Location") != "/_e2ee_proxy/console/sign-in?done=ended-undone" {
		t.Errorf("a form of an ended session: %d %s", sent.Status, text(sent.Body))
	}
	r.wantText(r.get("/sign-in?done=ended-undone"), 200, "what you sent was not done")
	r.wantDid()

	r.signIn("alice")
	for range 24 {
		r.pass(29 * time.Minute)
		r.wantText(r.get(""), 200)
	}
	r.pass(24 * time.Minute)
	wantOut(r, "after 12 hours")

	// A script that looks by itself does not keep it.
	r.signIn("alice")
	r.pass(20 * time.Minute)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.server.URL+"/_e2ee_proxy/console", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Sec-Fetch-Dest", "empty")
	r.wantText(r.do(req), 200)
	r.pass(20 * time.Minute)
	wantOut(r, "used by a script only")

	r.signIn("alice")
	other := r.browser()
	mine := r.client
	r.client = other
	r.signIn("alice")
	r.wantText(r.post("", "/sign-out"), 303)
	wantOut(r, "signed out")
	r.client = mine
	r.wantText(r.get(""), 200)
	r.client = other
	r.signIn("alice")
	stolen := r.cookieValue()
	r.wantText(r.post("", "/sign-out", "everywhere", "yes"), 303)
	r.client = mine
	wantOut(r, "signed out elsewhere")
	r.client = r.browser()
	r.setCookie("e2ee-proxy-console", stolen)
	wantOut(r, "a copied cookie of an ended session")
}

// What the browser is given: a cookie that scripts and other websites do not get, and pages that
// nobody keeps, frames or adds to.
func TestCookieAndHead(t *testing.T) {
	t.Parallel()
	for _, over := range []string{"", "https"} {
		r := newRig(t)
		r.over = over
		r.client.Jar = nil
		g := r.get("/sign-in")
		form := cookieOf(t, g, "e2ee-proxy-console-form")
		send := r.form("/sign-in", url.Values{"form_token": {tokenIn(t, g)}, "user": {"alice"}, "password": {"wonderland"}}, func(q *http.Request) { q.AddCookie(form) })
		in := r.do(send)
		session := cookieOf(t, in, "e2ee-proxy-console")
		for _, c := range []*http.Cookie{form, session} {
			if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/_e2ee_proxy/console" || c.Domain != "" || c.Secure != (over == "https") {
				t.Errorf("over %q: %s", over, c)
			}
			if strings.HasPrefix(c.Name, "__Secure-") != c.Secure {
				t.Errorf("over %q: the cookie is called %s", over, c.Name)
			}
		}
		csp := g.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("no %s in %s", want, csp)
			}
		}
		if strings.Contains(csp, "unsafe") || g.Header.Get("Cache-Control") != "no-store" || g.Header.Get("X-Content-Type-Options") != "nosniff" || g.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("head: %v", g.Header)
		}
	}
}

// No page has a script, a style or an event handler in it, which the policy would refuse.
func TestNothingInline(t *testing.T) {
	t.Parallel()
	names, err := assets.ReadDir("templates")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		raw, err := assets.ReadFile("templates/" + n.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, inline := range []string{"<style", "style=", " on", "javascript:"} {
			for at := 0; ; {
				i := strings.Index(string(raw[at:]), inline)
				if i < 0 {
					break
				}
				at += i + len(inline)
				if inline != " on" || strings.HasPrefix(string(raw[at:]), "click") || strings.HasPrefix(string(raw[at:]), "load") {
					t.Errorf("%s has %q", n.Name(), inline)
				}
			}
		}
		if strings.Count(string(raw), "<script") > 0 && n.Name() != "layout.html" {
			t.Errorf("%s has a script", n.Name())
		}
	}
}

func cookieOf(t *testing.T, g got, name string) *http.Cookie {
	t.Helper()
	for _, c := range (&http.Response{Header: g.Header}).Cookies() {
		if strings.TrimPrefix(c.Name, "__Secure-") == name && c.MaxAge > 0 {
			return c
		}
	}
	t.Fatalf("no cookie %s in %v", name, g.Header["Set-Cookie"])
	return nil
}

// sso goes to the homeserver's page and comes back with a word; edit may change the URL.
func (r *rig) sso(word string, edit func(*url.URL)) got {
	r.t.Helper()
	to := r.get("/sign-in/sso")
	at, err := url.Parse(to.Header.Get("Location"))
	if err != nil || at.Path != "/_matrix/client/v3/login/sso/redirect" {
		r.t.Fatalf("sent to %s", to.Header.Get("Location"))
	}
	back, err := url.Parse(at.Query().Get("redirectUrl"))
	if err != nil {
		r.t.Fatal(err)
	}
	q := back.Query()
	q.Set("loginToken", word)
	back.RawQuery = q.Encode()
	if edit != nil {
		edit(back)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, back.String(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.do(req)
}

// Attack: somebody signs in by single sign-on as themselves, and sends another person the URL that
// comes back, so that they type their recovery key into the wrong account.
func TestSingleSignOnOfAnotherBrowser(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var link string
	mallory := r.client
	r.sso("sso-@mallory:hs", func(u *url.URL) { link = u.String(); u.RawQuery = "" })
	r.client = r.browser()
	r.get("/sign-in/sso") // she was on her way herself
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.wantText(r.do(req), 403, "not begun in this browser")
	if r.hs.made != 0 {
		t.Error("the word was used")
	}
	r.client = mallory
	// The word counts once: the cookie is gone with the first answer.
	r.wantText(r.do(req.Clone(t.Context())), 403, "not begun in this browser")
}

// The homeserver does not take the word with which somebody comes back. What the page says is about
// that, and not about a password.
func TestSingleSignOnTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	got := r.sso("used", nil)
	r.wantText(got, 403, "used before, or took too long")
	if strings.Contains(got.Body, "does not accept this user name") {
		t.Errorf("the page says %s", got.Body)
	}
}
