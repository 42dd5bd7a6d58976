package console

import (
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

func tokenIn(t *testing.T, g got) string {
	t.Helper()
	m := regexp.MustCompile(`name="form_token" value="([^"]+)"`).FindStringSubmatch(g.Body)
	if m == nil {
		t.Fatal("there is no form")
	}
	return m[1]
}

// files returns what the database has on the disk.
func (r *rig) files() (all [][]byte) {
	r.t.Helper()
	names, err := filepath.Glob(filepath.Join(r.dir, "console.db*"))
	if err != nil || len(names) == 0 {
		r.t.Fatalf("no database: %v", err)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, raw)
	}
	return all
}

func (r *rig) consoleURL() *url.URL {
	u, err := url.Parse(r.server.URL + "/_e2ee_proxy/console")
	if err != nil {
		r.t.Fatal(err)
	}
	return u
}

// cookieValue returns the cookie of the session.
func (r *rig) cookieValue() string {
	r.t.Helper()
	for _, c := range r.client.Jar.Cookies(r.consoleURL()) {
		if c.Name == "e2ee-proxy-console" {
			return c.Value
		}
	}
	r.t.Fatal("there is no session")
	return ""
}

func (r *rig) setCookie(name, value string) {
	r.client.Jar.SetCookies(r.consoleURL(), []*http.Cookie{{Name: name, Value: value, Path: "/_e2ee_proxy/console"}})
}

// posts returns every page that changes something.
func (r *rig) posts() (all []string) {
	for at := range r.console.pages {
		if path, ok := strings.CutPrefix(at, "POST "); ok {
			path = strings.NewReplacer("{userId}", "@bob:hs", "{warningId}", "w1", "{flowId}", "flow1", "recovery/{action}", "recovery/create", "people/@bob:hs/{action}", "people/@bob:hs/withdraw", "{action}", "cancel").Replace(path)
			all = append(all, path)
		}
	}
	return all
}

// Attack: another website that the person looks at meanwhile sends forms to the console. Whatever
// it knows or leaves out, nothing is done.
func TestForgedForms(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("bob")
	bobs := r.token("")
	r.client = r.browser()
	before := r.token("/sign-in")
	r.signIn("alice")
	mine := r.token("")
	forged := map[string]func(v url.Values, req *http.Request){
		"no word":                   func(url.Values, *http.Request) {},
		"an invented word":          func(v url.Values, _ *http.Request) { v.Set("form_token", strings.Repeat("A", 43)) },
		"the word of their session": func(v url.Values, _ *http.Request) { v.Set("form_token", bobs) },
		"a word from before":        func(v url.Values, _ *http.Request) { v.Set("form_token", before) },
		"the right word, but sent by another website": func(v url.Values, req *http.Request) {
			v.Set("form_token", mine)
			req.Header.Set("Origin", "https://evil.example")
		},
		"by a page without origin": func(v url.Values, req *http.Request) {
			v.Set("form_token", mine)
			req.Header.Set("Origin", "null")
		},
		"by a neighbour under the same name": func(v url.Values, req *http.Request) {
			v.Set("form_token", mine)
			req.Header.Set("Sec-Fetch-Site", "same-site")
		},
	}
	r.hs.set(func() { r.hs.requests = nil })
	for name, forge := range forged {
		for _, path := range r.posts() {
			v := url.Values{"user": {"alice"}, "password": {"wonderland"}, "access_token": {"alices-token"}}
			req := r.form(path, nil, nil)
			forge(v, req)
			body := strings.NewReader(v.Encode())
			req.Body, req.ContentLength = http.NoBody, int64(body.Len())
			again := r.form(path, v, func(n *http.Request) { n.Header = req.Header })
			if g := r.do(again); g.Status != http.StatusForbidden || !strings.Contains(text(g.Body), "nothing was done") {
				t.Errorf("%s to %s: %d %s", name, path, g.Status, text(g.Body))
			}
		}
	}
	if did := r.accounts.of(alice).did(); len(did) > 0 || len(r.hs.requests) > 0 {
		t.Errorf("something was done: %q %q", did, r.hs.requests)
	}
	r.wantText(r.get(""), 200, "Signed in as @alice:hs")
}

// Attack: without a session, with an invented one or with one of another database, every page is
// asked for. Nothing of anybody is shown, and nothing done.
func TestPagesNeedASession(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, cookie := range []string{"", strings.Repeat("A", 43), "x", strings.Repeat("A", 5000)} {
		r.client = r.browser()
		if cookie != "" {
			r.setCookie("e2ee-proxy-console", cookie)
		}
		for at, p := range r.console.pages {
			method, path, _ := strings.Cut(at, " ")
			if p.open {
				continue
			}
			path = strings.NewReplacer("{userId}", "@bob:hs", "{warningId}", "w1", "{flowId}", "flow1", "{action}", "show").Replace(path)
			req, err := http.NewRequestWithContext(t.Context(), method, r.server.URL+"/_e2ee_proxy/console"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			g := r.do(req)
			if at, _, _ := strings.Cut(g.Header.Get("Location"), "?"); g.Status != http.StatusSeeOther || at != "/_e2ee_proxy/console/sign-in" {
				t.Errorf("%s with %.10q: %d %s", at, cookie, g.Status, text(g.Body))
			}
		}
	}
	if did := r.accounts.of(alice).did(); len(did) > 0 {
		t.Errorf("something was done: %q", did)
	}
}

// Attack: somebody who has signed in asks for what only administrators see, and for another
// account's device.
func TestNobodySeesMoreThanTheirOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.admins = []id.UserID{alice}
	r.signIn("bob")
	for at, p := range r.console.pages {
		method, path, _ := strings.Cut(at, " ")
		if !p.admin {
			continue
		}
		path = strings.ReplaceAll(path, "{userId}", "@alice:hs")
		var g got
		if method == http.MethodGet {
			g = r.get(path)
		} else {
			g = r.post("", path)
		}
		r.wantText(g, 403, "for administrators")
		if strings.Contains(g.Body, "@bot:hs") || strings.Contains(g.Body, "PHONE") {
			t.Errorf("%s shows something", at)
		}
	}
	if strings.Contains(r.get("").Body, "All accounts") {
		t.Error("the menu offers what is not his")
	}
	r.wantText(r.post("", "/acting", "device_id", "A1"), 404, "no such device")
	r.wantText(r.get(""), 200, "Signed in as @bob:hs , device B1")

	// An administrator who is none any more sees nothing from then on.
	r.client = r.browser()
	r.signIn("alice")
	r.wantText(r.get("/admin"), 200, "@bot:hs")
	r.mu.Lock()
	r.admins = nil
	r.mu.Unlock()
	r.wantText(r.get("/admin"), 403)
}

// Attack: somebody chooses names and messages that would be a page's own code.
func TestNothingFromOthersIsCode(t *testing.T) {
	t.Parallel()
	const evil = `<script>alert(1)</script>"><img src=x onerror=alert(1)>`
	r := newRig(t)
	r.signIn("alice")
	dev := r.accounts.of(alice)
	dev.set(func() {
		dev.warnings = []e2ee.Warning{{ID: evil, UserID: bob, Message: evil}}
		dev.status.Problems = []e2ee.Problem{{Code: evil, Message: evil, Hint: evil}}
		dev.status.OtherDevices = []e2ee.DeviceTrust{{DeviceID: evil}}
		dev.status.Overrides = []e2ee.UserDevice{{UserID: evil, DeviceID: evil}}
		dev.people = []e2ee.Person{{UserID: "@" + evil, State: evil}}
		dev.flows = []e2ee.Verification{{ID: evil, UserID: evil, DeviceID: evil, Message: evil, State: "compare", Emoji: []e2ee.VerificationEmoji{{Symbol: evil, Name: evil}}}}
		dev.trust[bob] = e2ee.UserTrust{UserID: bob, State: evil, CurrentMasterKey: evil, Devices: []e2ee.DeviceTrust{{DeviceID: evil}}}
	})
	for _, page := range []string{"", "/warnings", "/devices", "/exceptions", "/people", "/people/@bob:hs", "/verifications", "/verifications/" + url.PathEscape(evil), "/recovery", "/backup"} {
		g := r.get(page)
		if g.Status != 200 || strings.Contains(g.Body, "<script>alert") || strings.Contains(g.Body, "<img src=x") {
			t.Errorf("%s: %d, or it has code", page, g.Status)
		}
	}
	r.wantText(r.post("/people", "/people", "user_id", evil), 400, "is not a person's ID")
}

// An error that is not for people is not shown to them.
func TestInnerErrorsStayInside(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	dev := r.accounts.of(alice)
	dev.set(func() { dev.fail["status"] = errors.New("dial tcp 10.0.0.7: the secret detail") })
	g := r.get("")
	r.wantText(g, 500, "Something went wrong")
	if strings.Contains(g.Body, "secret detail") {
		t.Error("the page tells too much")
	}
}

// Attack: who has used up the attempts to recover or to reset goes on by another way. All ways count
// together.
func TestGuessingByAnotherWayIsLimited(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	limits := r.console.o.Limits
	for limits.Recover(t.Context(), alice) == nil { // by the control API
	}
	for limits.Reset(t.Context(), alice) == nil {
	}
	r.wantText(r.post("/recovery", "/recovery/enter", "recovery_key", "some passphrase"), 429, "too often")
	r.wantText(r.post("/recovery", "/recovery/reset", "sure", "yes", "password", "guess", "identity", "MasterKeyOf@alice:hs"), 429, "too often")
	if asked := r.accounts.of(alice).did(); len(asked) > 0 {
		t.Errorf("the device was asked to %q", asked)
	}
}

// Attack: somebody at an open browser guesses recovery keys, or passwords for a reset.
func TestGuessingIsLimited(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.signIn("alice")
	dev := r.accounts.of(alice)
	dev.set(func() { dev.fail["recover"], dev.fail["reset"] = e2ee.ErrWrongRecoveryKey, e2ee.ErrWrongPassword })
	for range 5 {
		r.wantText(r.post("/recovery", "/recovery/enter", "recovery_key", "some passphrase"), 403, "Nothing was changed")
		r.wantText(r.post("/recovery", "/recovery/reset", "sure", "yes", "password", "guess", "identity", "MasterKeyOf@alice:hs"), 403, "did not accept the password")
	}
	r.wantText(r.post("/recovery", "/recovery/enter", "recovery_key", "some passphrase"), 429, "too often")
	r.wantText(r.post("/recovery", "/recovery/reset", "sure", "yes", "password", "guess", "identity", "MasterKeyOf@alice:hs"), 429, "too often")
}
