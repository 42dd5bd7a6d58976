package console

import (
	"context"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/console/internal/gate"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

const (
	alice = id.UserID("@alice:hs")
	bob   = id.UserID("@bob:hs")
	carol = id.UserID("@carol:hs")
)

// rig is a console before a homeserver that knows some people, with a browser's cookies.
type rig struct {
	t        *testing.T
	console  *Console
	db       *store.DB
	server   *httptest.Server
	hs       *homeserver
	accounts *accounts
	client   *http.Client
	dir      string

	mu     sync.Mutex
	now    time.Time
	admins []id.UserID
	// again reports whether requests may have been done, by a replica that was killed.
	again    bool
	requests int
	// over is what a front proxy says of the browser's connection.
	over string
}

func (r *rig) time() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// pass lets time pass.
func (r *rig) pass(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	key, err := store.NewMasterKey(secret.Bytes(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	db, err := store.Open(t.Context(), store.Options{URL: secret.NewString("sqlite:" + filepath.Join(dir, "console.db")), MasterKeys: store.MasterKeys{Current: key}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{t: t, db: db, dir: dir, hs: newHomeserver(t), accounts: newAccounts(), now: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	at, err := url.Parse(r.hs.URL)
	if err != nil {
		t.Fatal(err)
	}
	limits, err := interceptors.NewLimits(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.console, err = New(Options{
		Limits: limits, Sessions: db, Accounts: r.accounts, Administration: &administration{}, Homeserver: at, Client: r.hs.Client(), Now: r.time,
		Administrators: func() []id.UserID {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.admins
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.server = httptest.NewServer(r.mux())
	t.Cleanup(r.server.Close)
	r.client = r.browser()
	return r
}

// browser returns a client with cookies of its own, which follows no redirects.
func (r *rig) browser() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// mux does what package proxy does: it finds the page, begins the request, and renders errors.
func (r *rig) mux() http.Handler {
	mux := http.NewServeMux()
	for at := range r.console.pages {
		method, path, _ := strings.Cut(at, " ")
		pattern := gate.Path + path
		if path == "/" {
			pattern += "{$}"
		}
		mux.HandleFunc(method+" "+pattern, func(w http.ResponseWriter, req *http.Request) { r.answer(w, req, gate.Path+path) })
	}
	return mux
}

func (r *rig) answer(w http.ResponseWriter, req *http.Request, pattern string) {
	r.mu.Lock()
	if r.over != "" {
		req.Header.Set("X-Forwarded-Proto", r.over)
	}
	if !r.again {
		r.requests++
	}
	request, again := strconv.Itoa(r.requests), r.again
	r.mu.Unlock()
	params := make(map[string]string)
	for _, m := range regexp.MustCompile(`{(\w+)}`).FindAllStringSubmatch(pattern, -1) {
		params[m[1]] = req.PathValue(m[1])
	}
	req, user, err := r.console.Begin(req, "192.0.2.1")
	if err == nil {
		err = r.console.Handler(&interceptors.Exchange{
			Writer: w, Request: req, Identity: interceptors.Identity{UserID: user}, RequestID: request, Again: again,
			Endpoint: interceptors.Endpoint{Pattern: pattern, Params: params},
		})
	}
	if err != nil {
		r.t.Logf("%s %s: %v", req.Method, pattern, err)
		r.console.Refuse(w, req, apierr.NewError(http.StatusInternalServerError, apierr.CodeUnknown, "Something went wrong in the proxy."))
	}
}

// page is what a browser got.
type got struct {
	Status int
	Header http.Header
	Body   string
}

func (r *rig) do(req *http.Request) got {
	r.t.Helper()
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return got{resp.StatusCode, resp.Header, string(body)}
}

func (r *rig) get(path string) got {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.server.URL+gate.Path+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.do(req)
}

// form makes the request of a form; edit may change it.
func (r *rig) form(path string, fields url.Values, edit func(*http.Request)) *http.Request {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.server.URL+gate.Path+path, strings.NewReader(fields.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if edit != nil {
		edit(req)
	}
	return req
}

// token returns the word of the forms on a page.
func (r *rig) token(page string) string {
	r.t.Helper()
	m := regexp.MustCompile(`name="form_token" value="([^"]+)"`).FindStringSubmatch(r.get(page).Body)
	if m == nil {
		r.t.Fatalf("there is no form on %s", page)
	}
	return m[1]
}

// post sends a form that is on a page.
func (r *rig) post(page, path string, fields ...string) got {
	r.t.Helper()
	v := url.Values{"form_token": {r.token(page)}}
	for i := 0; i+1 < len(fields); i += 2 {
		v.Set(fields[i], fields[i+1])
	}
	return r.do(r.form(path, v, nil))
}

// signIn signs a person in with the password that the homeserver knows.
func (r *rig) signIn(user string) {
	r.t.Helper()
	if g := r.post("/sign-in", "/sign-in", "user", user, "password", "wonderland"); g.Status != http.StatusSeeOther {
		r.t.Fatalf("signing in: %d\n%s", g.Status, text(g.Body))
	}
}

// text returns what a person reads of a page.
func text(page string) string {
	page = regexp.MustCompile(`(?s)<head>.*?</head>|<[^>]*>`).ReplaceAllString(page, " ")
	return strings.Join(strings.Fields(html.UnescapeString(page)), " ")
}

func (r *rig) wantText(g got, status int, words ...string) {
	r.t.Helper()
	if g.Status != status {
		r.t.Errorf("status %d, want %d: %s", g.Status, status, text(g.Body))
	}
	for _, w := range words {
		if !strings.Contains(text(g.Body), w) {
			r.t.Errorf("no %q in: %s", w, text(g.Body))
		}
	}
}

// homeserver knows alice, bob and carol, all with the password "wonderland".
type homeserver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	bodies   []string
	live     map[string]id.UserID // by token
	made     int
	refuse   func(w http.ResponseWriter, path string) bool
	// answerLost makes devices, and loses the answer that says so.
	answerLost bool
}

func newHomeserver(t *testing.T) *homeserver {
	h := &homeserver{live: map[string]id.UserID{"alices-token": alice, "phones-token": alice, "bots-token": alice}}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *homeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/_matrix/client/v3/")
	h.requests, h.bodies = append(h.requests, r.Method+" "+path), append(h.bodies, string(body))
	if h.refuse != nil && h.refuse(w, r.Method+" "+path) {
		return
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	say := func(status int, what any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(what)
	}
	switch r.Method + " " + path {
	case "GET login":
		say(200, map[string]any{"flows": []any{map[string]string{"type": "m.login.password"}, map[string]string{"type": "m.login.sso"}}})
	case "POST login":
		var asked struct {
			Type, Password, Token string
			Identifier            struct{ User string }
			Device                string `json:"device_id"`
		}
		_ = json.Unmarshal(body, &asked)
		user := id.UserID(asked.Identifier.User)
		if asked.Type == "m.login.token" {
			if asked.Token == "used" {
				say(403, map[string]string{"errcode": "M_FORBIDDEN", "error": "Invalid login token"})
				return
			}
			user = id.UserID(strings.TrimPrefix(asked.Token, "sso-"))
		} else if asked.Password != "wonderland" {
			say(403, map[string]string{"errcode": "M_FORBIDDEN", "error": "no"})
			return
		}
		if !strings.HasPrefix(string(user), "@") {
			user = "@" + user + ":hs"
		}
		h.made++
		if asked.Device == "" { // it is the homeserver that chooses
			asked.Device = strconv.Itoa(h.made)
		}
		token = "made-" + string(user) + "-" + asked.Device
		h.live[token] = user
		if h.answerLost {
			say(502, "upstream is gone")
			return
		}
		say(200, map[string]any{"user_id": user, "access_token": token, "device_id": asked.Device})
	case "GET account/whoami":
		user, ok := h.live[token]
		if !ok {
			say(401, map[string]string{"errcode": "M_UNKNOWN_TOKEN", "error": "no"})
			return
		}
		of := map[string]id.DeviceID{"alices-token": "A1", "phones-token": "PHONE"}[token]
		say(200, map[string]any{"user_id": user, "device_id": of, "is_guest": user == "@guest:hs"})
	case "POST logout":
		delete(h.live, token)
		say(200, struct{}{})
	default:
		say(404, map[string]string{"errcode": "M_UNRECOGNIZED", "error": "no"})
	}
}

func (h *homeserver) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

var _ Administration = (*administration)(nil)

type administration struct{}

func (administration) Accounts(context.Context, string, e2ee.Page) (*e2ee.OverviewAccounts, error) {
	out := &e2ee.OverviewAccounts{}
	err := json.Unmarshal([]byte(`{"accounts": [
		{"user_id": "@alice:hs", "first_seen": "2026-11-01T10:00:00Z", "identity": "verified", "devices": 2, "other_devices": 1, "warnings": 1, "exceptions": 0},
		{"user_id": "@bot:hs", "first_seen": "2026-11-02T10:00:00Z", "identity": "none", "devices": 1}], "next": "abc"}`), out)
	return out, err
}

func (administration) Account(_ context.Context, _ string, user id.UserID) (*e2ee.OverviewAccount, error) {
	if user != alice {
		return nil, e2ee.ErrNoAccount
	}
	out := &e2ee.OverviewAccount{}
	err := json.Unmarshal([]byte(`{"user_id": "@alice:hs", "identity": "verified", "devices": [{"device_id": "A1", "keys": "proxy", "signed": true, "in_memory_of_this_process": true}, {"device_id": "PHONE", "keys": "client"}]}`), out)
	return out, err
}

func (administration) Exceptions(context.Context, string, e2ee.Page) (*e2ee.OverviewExceptions, error) {
	out := &e2ee.OverviewExceptions{}
	err := json.Unmarshal([]byte(`{"exceptions": [{"account": "@alice:hs", "user_id": "@bob:hs", "device_id": "TEST", "trusted": true, "made_at": "2026-11-02T10:00:00Z", "made_by": "A1"}]}`), out)
	return out, err
}

func (administration) Warnings(context.Context, string, e2ee.Page) (*e2ee.OverviewWarnings, error) {
	out := &e2ee.OverviewWarnings{}
	err := json.Unmarshal([]byte(`{"warnings": [{"account": "@alice:hs", "code": "identity_changed", "user_id": "@bob:hs", "since": "2026-11-02T10:00:00Z"}]}`), out)
	return out, err
}

func (administration) Rollout(context.Context, string, e2ee.Page) (*e2ee.OverviewRollout, error) {
	out := &e2ee.OverviewRollout{}
	err := json.Unmarshal([]byte(`{"of_this_process": true, "accounts": [{"user_id": "@alice:hs", "send": "warn", "receive": "warn", "native": "enforce",
		"would_have": {"since": "2026-11-01T10:00:00Z", "rooms": [{"room_id": "!r:hs", "blocked_by": ["@bob:hs"], "devices_without_key": 3, "messages_held_back": 7, "devices_held_back": 2}]}}],
		"rule_trial_differences": [{"direction": "send", "account": "@alice:hs", "user": "@bob:hs", "rule": "base", "trial_rule": "no-guests", "trial_outcome": "deny", "count": 4, "since": "2026-11-01T10:00:00Z"}]}`), out)
	return out, err
}

func (administration) EndSessions(_ context.Context, _ string, user id.UserID) (*e2ee.EndedSessions, error) {
	out := &e2ee.EndedSessions{UserID: user}
	err := json.Unmarshal([]byte(`{"user_id": "@alice:hs", "devices": [{"device_id": "A1", "outcome": "ended"}]}`), out)
	return out, err
}
