package proxy

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/interceptors"
)

// ended records what OnUnknownToken was told.
type ended struct {
	mu  sync.Mutex
	all []string
	err error
}

func (e *ended) tell(_ context.Context, who interceptors.Identity, soft bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := string(who.UserID) + " " + string(who.DeviceID) + " " + who.Token.Reveal()
	if soft {
		s += " soft"
	}
	e.all = append(e.all, s)
	return e.err
}

// passThrough returns a handler that forwards, and relayed one that asks and relays.
func passThrough(x *interceptors.Exchange) error { return x.Upstream.Forward(x) }

func relayed(x *interceptors.Exchange) error {
	resp, err := x.Upstream.Do(x, interceptors.Change{})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return x.Upstream.Relay(x, resp)
}

// Attack vector (46, N8): a token that was logged out somewhere else goes on working
// because the proxy has cached it.
//
// Expected: the first 401 that the homeserver gives to it, on whatever path, ends it
// here too; the client gets that answer, and the engine is told (requirement 22.1).
func TestUpstream401EndsATokenAtOnce(t *testing.T) {
	t.Parallel()
	refuse := func(w http.ResponseWriter, soft bool) {
		w.WriteHeader(http.StatusUnauthorized)
		body := `{"errcode":"M_UNKNOWN_TOKEN","error":"gone"`
		if soft {
			body += `,"soft_logout":true`
		}
		_, _ = io.WriteString(w, body+"}")
	}
	for name, path := range map[string]string{
		"straight through": "/_matrix/client/v3/joined_rooms",
		"forwarded":        "/_matrix/client/v3/rooms/!r:hs/messages",
		"relayed":          "/_matrix/client/v3/rooms/!r:hs/threads",
		"unknown path":     "/_matrix/client/v3/novelty",
	} {
		for _, soft := range []bool{false, true} {
			var e ended
			g := newRig(t, func(o *Options) {
				o.Handlers["messages"], o.Handlers["threads"] = passThrough, relayed
				o.OnUnknownToken = e.tell
			})
			get := func(path string) answer { return g.do("GET", path, "", "Authorization: Bearer alice") }
			if a := get("/_matrix/client/v3/sync"); a.StatusCode != 200 {
				t.Fatalf("%s: %d", name, a.StatusCode)
			}
			g.hs.set(func() { g.hs.answer = func(w http.ResponseWriter, _ *http.Request) { refuse(w, soft) } })
			if a := get(path); a.StatusCode != 401 || a.errcode() != "M_UNKNOWN_TOKEN" || strings.Contains(a.body, "soft_logout") != soft {
				t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
			}
			want := "@alice:hs ALICE alice"
			if soft {
				want += " soft"
			}
			if diff := cmp.Diff([]string{want}, e.all); diff != "" {
				t.Errorf("%s: the engine heard (-want +got):\n%s", name, diff)
			}
			if a := get("/_matrix/client/v3/sync"); a.StatusCode != 401 {
				t.Errorf("%s: the token still works: %d", name, a.StatusCode)
			}
		}
	}
}

// Not every 401 is the end of a session: interactive auth asks for a password with it,
// and a locked account keeps its keys (requirement 22.2).
func TestOther401sEndNothing(t *testing.T) {
	t.Parallel()
	var e ended
	g := newRig(t, func(o *Options) { o.OnUnknownToken = e.tell })
	for _, body := range []string{
		`{"flows":[{"stages":["m.login.password"]}],"session":"s"}`,
		`{"errcode":"M_USER_LOCKED","error":"locked","soft_logout":true}`,
		`{"errcode":"M_MISSING_TOKEN"}`,
		`<html>`,
		``,
		strings.Repeat("x", 3*maxWhoami),
	} {
		g.hs.set(func() {
			g.hs.answer = func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, body)
			}
		})
		a := g.do("POST", "/_matrix/client/v3/keys/device_signing/upload", "{}", "Authorization: Bearer alice")
		if a.StatusCode != 401 || a.body != body {
			t.Errorf("%.60s: %d, body of %d bytes", body, a.StatusCode, len(a.body))
		}
	}
	if len(e.all) != 0 {
		t.Errorf("the engine heard %v", e.all)
	}
}

// When the engine cannot do its part, the client is not told that all is done: it will
// come again with the same token, and so will the end of the session.
func TestSessionEndThatFailsIsNoAnswer(t *testing.T) {
	t.Parallel()
	e := ended{err: io.ErrClosedPipe}
	g := newRig(t, func(o *Options) { o.OnUnknownToken = e.tell })
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN"}`)
		}
	})
	for range 2 {
		if a := g.do("GET", "/_matrix/client/v3/joined_rooms", "", "Authorization: Bearer alice"); a.StatusCode < 500 {
			t.Errorf("got %d %s", a.StatusCode, a.body)
		}
	}
	if diff := cmp.Diff([]string{"  alice", "  alice"}, e.all); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A logout through the proxy ends what is cached of the user before the client hears
// of it; one that the homeserver refused ends nothing.
func TestLogoutEndsCachedIdentities(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 403} {
		g := newRig(t, func(o *Options) { o.Handlers[interceptors.LogoutAll] = relayed })
		g.hs.set(func() { g.hs.tokens["alice2"] = `{"user_id":"@alice:hs","device_id":"ALICE2"}` })
		for _, token := range []string{"alice", "alice2", "bob"} {
			g.do("GET", "/_matrix/client/v3/sync", "", "Authorization: Bearer "+token)
		}
		g.hs.set(func() {
			g.hs.answer = func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.RequestURI, "whoami") {
					w.WriteHeader(http.StatusUnauthorized)
					_, _ = io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN","error":"gone"}`)
					return
				}
				w.WriteHeader(status)
				_, _ = io.WriteString(w, `{}`)
			}
		})
		if a := g.do("POST", "/_matrix/client/v3/logout/all", "{}", "Authorization: Bearer alice"); a.StatusCode != status {
			t.Fatalf("got %d", a.StatusCode)
		}
		for token, ends := range map[string]bool{"alice": true, "alice2": true, "bob": false} {
			want := 200
			if ends && status == 200 {
				want = 401
			}
			if a := g.do("GET", "/_matrix/client/v3/sync", "", "Authorization: Bearer "+token); a.StatusCode != want {
				t.Errorf("after %d, %s: got %d, want %d", status, token, a.StatusCode, want)
			}
		}
	}
}

// Attack vector: a client sends its access token along when it logs in or refreshes, as
// some SDKs do, and the homeserver refuses the password or the refresh token. The token in
// the header works still.
//
// Expected: what such an answer says, it says of the body: the engine hears nothing, and the
// token goes on.
func TestAnswersAboutTheBodySayNothingOfTheToken(t *testing.T) {
	t.Parallel()
	for handler, path := range map[string]string{interceptors.Login: "login", interceptors.Register: "register", interceptors.Refresh: "refresh"} {
		var e ended
		g := newRig(t, func(o *Options) {
			o.Handlers[handler] = relayed
			o.OnUnknownToken = e.tell
		})
		g.do("GET", "/_matrix/client/v3/sync", "", "Authorization: Bearer alice")
		g.hs.set(func() {
			g.hs.answer = func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN","error":"invalid refresh token"}`)
			}
		})
		a := g.do("POST", "/_matrix/client/v3/"+path, "{}", "Authorization: Bearer alice")
		if a.StatusCode != http.StatusUnauthorized || a.errcode() != "M_UNKNOWN_TOKEN" {
			t.Errorf("%s: the client gets %d %s", path, a.StatusCode, a.body)
		}
		if len(e.all) != 0 {
			t.Errorf("%s: the engine heard %v", path, e.all)
		}
		before := g.hs.whoamis()
		if a := g.do("GET", "/_matrix/client/v3/sync", "", "Authorization: Bearer alice"); a.StatusCode != http.StatusOK || g.hs.whoamis() != before {
			t.Errorf("%s: the token gets %d, asked about %d times more", path, a.StatusCode, g.hs.whoamis()-before)
		}
	}
}
