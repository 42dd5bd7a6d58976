package interceptors

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/secret"
)

// withPublicURL makes a world whose proxy has a public URL.
func withPublicURL(t *testing.T, text string) *world {
	t.Helper()
	w := newWorld(t, e2ee.ModeProxied)
	public, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if w.handlers, err = Handlers(Options{PublicURL: public}); err != nil {
		t.Fatal(err)
	}
	return w
}

func loginCall(handler, body string) call {
	return call{handler: handler, method: http.MethodPost, pattern: "/" + handler, body: body}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	const answer = `{"user_id":"@alice:hs.example","access_token":"tok","device_id":"DEV","home_server":"hs.example"}`
	const known = `login @alice:hs.example DEV tok `
	for _, tt := range []struct {
		name, handler, body, query, answer string
		status                             int
		want                               []string
	}{
		{"password", Login, `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"pw"}`, "", answer, 200, []string{known + `"pw"`}},
		{"token", Login, `{"type":"m.login.token","token":"x","password":"not one"}`, "", answer, 200, []string{known + `""`}},
		{"appservice", Login, `{"type":"m.login.application_service"}`, "", answer, 200, []string{known + `""`}},
		{"refused", Login, `{"type":"m.login.password","password":"pw"}`, "", `{"errcode":"M_FORBIDDEN"}`, 403, nil},
		{"no device", Login, `{"type":"m.login.password"}`, "", `{"user_id":"@alice:hs.example","access_token":"tok"}`, 200, nil},
		{"html", Login, `{}`, "", `<html>`, 200, nil},
		{"register", Register, `{"username":"alice","password":"pw","auth":{}}`, "", answer, 200, []string{known + `"pw"`}},
		{"register without login", Register, `{"inhibit_login":true}`, "", `{"user_id":"@alice:hs.example"}`, 200, nil},
		{"register as guest", Register, `{}`, "kind=guest", answer, 200, nil},
		{"register step", Register, ``, "", `{"flows":[],"session":"s"}`, 401, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, e2ee.ModeProxied)
			w.devices.noteErr = errors.New("the engine has trouble") // a login is never held back
			w.up.respond = func(seen) (int, string) { return tt.status, tt.answer }
			c := loginCall(tt.handler, tt.body)
			c.query = tt.query
			rec, err := w.do(c)
			if err != nil || rec.Code != tt.status || rec.Body.String() != tt.answer {
				t.Errorf("got %d %s %v", rec.Code, rec.Body, err)
			}
			if got := w.up.requests(); len(got) != 1 || got[0].body != tt.body || got[0].query != tt.query {
				t.Errorf("upstream got %+v", got)
			}
			if diff := cmp.Diff(tt.want, w.devices.notes); diff != "" {
				t.Errorf("engine (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoginBadBody(t *testing.T) {
	t.Parallel()
	for _, handler := range []string{Login, Register, Refresh} {
		for body, code := range map[string]string{`{`: apierr.CodeNotJSON, `7`: apierr.CodeBadJSON, `{"a":1,"a":2}`: apierr.CodeBadJSON} {
			w := newWorld(t, e2ee.ModeProxied)
			_, err := w.do(loginCall(handler, body))
			wantError(t, err, http.StatusBadRequest, code)
			w.wantNothingUpstream()
		}
	}
}

func TestLoginPointsHere(t *testing.T) {
	t.Parallel()
	w := withPublicURL(t, "https://proxy.example/")
	for answer, want := range map[string]string{
		`{"user_id":"@a:x", "well_known":{"m.homeserver":{"base_url":"https://hs","x":1},"m.identity_server":{"base_url":"https://id"},"org.matrix.msc3575.proxy":{"url":"https://ss"}},"z":1.50}`: `{"user_id":"@a:x","well_known":{"m.homeserver":{"base_url":"https://proxy.example","x":1},"m.identity_server":{"base_url":"https://id"}},"z":1.50}`,
		`{"user_id":"@a:x","well_known":7}`: `{"user_id":"@a:x","well_known":7}`,
		`{"user_id":"@a:x"}`:                `{"user_id":"@a:x"}`,
	} {
		w.up.respond = func(seen) (int, string) { return 200, answer }
		rec, err := w.do(loginCall(Login, `{}`))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, rec.Body.String()); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
	}
}

// A refresh brings a new token for the same device (requirement 22.3).
func TestRefresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	answers := map[string]string{
		"/_matrix/client/v3/login": `{"user_id":"@alice:hs.example","access_token":"t1","device_id":"DEV","refresh_token":"r1"}`,
	}
	w.up.respond = func(s seen) (int, string) { return 200, answers[s.path] }
	do := func(handler, body string) {
		t.Helper()
		if _, err := w.do(loginCall(handler, body)); err != nil {
			t.Fatal(err)
		}
	}
	do(Login, `{"type":"m.login.password","refresh_token":true}`)
	refresh := "/_matrix/client/v3/refresh"
	answers[refresh] = `{"access_token":"t2","refresh_token":"r2"}`
	do(Refresh, `{"refresh_token":"r1"}`)
	do(Refresh, `{"refresh_token":"r1"}`) // the answer was lost: the old one is good still
	answers[refresh] = `{"access_token":"t3"}`
	do(Refresh, `{"refresh_token":"r2"}`)
	do(Refresh, `{"refresh_token":"r2"}`) // no new one: this one is good still
	do(Refresh, `{"refresh_token":"never seen"}`)
	answers[refresh] = `{}`
	do(Refresh, `{"refresh_token":"r2"}`)
	want := []string{`login @alice:hs.example DEV t1 ""`}
	for _, token := range []string{"t2", "t2", "t3", "t3"} {
		want = append(want, "refresh @alice:hs.example DEV "+token)
	}
	if diff := cmp.Diff(want, w.devices.notes); diff != "" {
		t.Errorf("engine (-want +got):\n%s", diff)
	}
}

// The cache holds no token in any form that could be used.
func TestRefreshTokensHoldNoToken(t *testing.T) {
	t.Parallel()
	tokens, err := newRefreshTokens()
	if err != nil {
		t.Fatal(err)
	}
	who := Identity{UserID: alice, DeviceID: "DEV", Token: secret.NewString(canary)}
	tokens.remember(secret.NewString(canary), who)
	tokens.remember(secret.String{}, who)
	got, ok := tokens.owner(secret.NewString(canary))
	if !ok || got.UserID != alice || !got.Token.IsZero() || tokens.known.Len() != 1 {
		t.Errorf("got %+v %v, %d kept", got, ok, tokens.known.Len())
	}
	other, err := newRefreshTokens()
	if err != nil {
		t.Fatal(err)
	}
	if tokens.hash(secret.NewString("a")) == other.hash(secret.NewString("a")) {
		t.Error("two processes hash alike")
	}
}

func TestWellKnown(t *testing.T) {
	t.Parallel()
	const base = "https://proxy.example/matrix"
	own := `{"m.homeserver":{"base_url":"` + base + `"}}`
	get := call{handler: WellKnown, method: http.MethodGet, pattern: "/.well-known/matrix/client"}
	for _, tt := range []struct {
		name, answer, want string
		status             int
		broken             error
	}{
		{"theirs", `{"m.homeserver": {"base_url": "https://hs"}, "org.matrix.msc3575.proxy": {"url": "x"}, "m.tile_server": {"map_style_url": "y"}}`,
			`{"m.homeserver":{"base_url":"` + base + `"},"m.tile_server":{"map_style_url": "y"}}`, 200, nil},
		{"without a homeserver", `{}`, own, 200, nil},
		{"with other members", `{"a":[]}`, `{"a":[],"m.homeserver":{"base_url":"` + base + `"}}`, 200, nil},
		{"none", `{"errcode":"M_NOT_FOUND"}`, own, 404, nil},
		{"html", `<html>`, own, 200, nil},
		{"homeserver is no object", `{"m.homeserver":[]}`, own, 200, nil},
		{"names twice", `{"m.homeserver":{},"m.homeserver":{}}`, own, 200, nil},
		{"away", ``, own, 0, apierr.Unreachable(nil)},
	} {
		w := withPublicURL(t, base+"/")
		w.up.respond = func(seen) (int, string) { return tt.status, tt.answer }
		w.up.broken = tt.broken
		rec, err := w.do(get)
		if err != nil || rec.Code != http.StatusOK {
			t.Fatalf("%s: got %d %v", tt.name, rec.Code, err)
		}
		if diff := cmp.Diff(tt.want, rec.Body.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if rec.Header().Get("ETag") != "" {
			t.Errorf("%s: it has the ETag of another body", tt.name)
		}
	}
	w := newWorld(t, e2ee.ModeProxied) // without a public URL
	w.up.respond = func(seen) (int, string) { return 404, `{"errcode":"M_NOT_FOUND"}` }
	if rec, err := w.do(get); err != nil || rec.Code != 404 {
		t.Errorf("got %d %v", rec.Code, err)
	}
}

// Attack: somebody has signed in to the console with a password that was stolen, and goes on there when
// the user logs out everywhere, changes the password (also where devices stay logged in) or closes the
// account. The homeserver's word counts, and nobody else's sessions end.
func TestConsoleSessionsEnd(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		handler, pattern, body string
		status                 int
		ends                   bool
	}{
		{LogoutAll, "/logout/all", `{}`, 200, true},
		{LogoutAll, "/logout/all", `{}`, 401, false},
		{Password, "/account/password", `{"new_password":"x"}`, 200, true},
		{Password, "/account/password", `{"new_password":"x","logout_devices":false}`, 200, true},
		{Password, "/account/password", `{"new_password":"x"}`, 401, false},
		{Deactivate, "/account/deactivate", `{}`, 200, true},
		{Logout, "/logout", `{}`, 200, false},
	} {
		var ended []id.UserID
		w := withOptions(t, e2ee.ModeProxied, Options{EndConsoleSessions: func(_ context.Context, user id.UserID) error {
			ended = append(ended, user)
			return nil
		}})
		w.who = Identity{UserID: alice, DeviceID: "DEVICE", Token: secret.NewString("token")}
		w.up.respond = func(seen) (int, string) { return tt.status, `{}` }
		if _, err := w.do(call{handler: tt.handler, method: "POST", pattern: tt.pattern, body: tt.body}); err != nil {
			t.Errorf("%s: %v", tt.handler, err)
		}
		var want []id.UserID
		if tt.ends {
			want = []id.UserID{alice}
		}
		if diff := cmp.Diff(want, ended); diff != "" {
			t.Errorf("%s %s %d: sessions ended (-want +got):\n%s", tt.handler, tt.body, tt.status, diff)
		}
	}
}

func TestLogout(t *testing.T) {
	t.Parallel()
	user := alice.String()
	none := Identity{Token: secret.NewString("refused")}
	noDevice := Identity{UserID: alice, Token: secret.NewString("as")}
	full := Identity{UserID: alice, DeviceID: "DEVICE", Token: secret.NewString("token")}
	for _, tt := range []struct {
		handler, method, pattern string
		params                   map[string]string
		body                     string
		who                      Identity
		want                     []string
	}{
		{Logout, "POST", "/logout", nil, ``, full, []string{"forget " + user + " [DEVICE]"}},
		{Logout, "POST", "/logout", nil, `{}`, none, nil},
		{Logout, "POST", "/logout", nil, `{}`, noDevice, nil},
		{LogoutAll, "POST", "/logout/all", nil, `{}`, full, []string{"forget all " + user + " but []"}},
		{LogoutAll, "POST", "/logout/all", nil, `{}`, none, nil},
		{DeleteDevice, "DELETE", "/devices/{deviceId}", map[string]string{"deviceId": "OTHER"}, `{"auth":{}}`, full, []string{"forget " + user + " [OTHER]"}},
		{DeleteDevice, "DELETE", "/devices/{deviceId}", map[string]string{"deviceId": "OTHER"}, ``, noDevice, []string{"forget " + user + " [OTHER]"}},
		{DeleteDevices, "POST", "/delete_devices", nil, `{"devices":["A","B",3,""]}`, full, []string{"forget " + user + " [A B]"}},
		{DeleteDevices, "POST", "/delete_devices", nil, `{"devices":[]}`, full, nil},
		{Password, "POST", "/account/password", nil, `{"new_password":"x"}`, full, []string{"forget all " + user + " but [DEVICE]"}},
		{Password, "POST", "/account/password", nil, `{"new_password":"x","logout_devices":true}`, full, []string{"forget all " + user + " but [DEVICE]"}},
		{Password, "POST", "/account/password", nil, `{"new_password":"x","logout_devices":false}`, full, nil},
		{Password, "POST", "/account/password", nil, `{"new_password":"x"}`, none, nil},
		{Deactivate, "POST", "/account/deactivate", nil, `{"erase":true}`, full, []string{"forget account " + user}},
		{Deactivate, "POST", "/account/deactivate", nil, `{"auth":{}}`, none, nil},
	} {
		c := call{handler: tt.handler, method: tt.method, pattern: tt.pattern, params: tt.params, body: tt.body}
		// A refusal, a step of authentication, soft logout, a locked user: nothing is dropped.
		for _, answer := range []struct {
			status int
			body   string
		}{
			{200, `{}`},
			{401, `{"flows":[],"session":"s"}`},
			{401, `{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}`},
			{401, `{"errcode":"M_USER_LOCKED","soft_logout":true}`},
			{500, `{"errcode":"M_UNKNOWN"}`},
		} {
			w := newWorld(t, e2ee.ModeProxied)
			w.who = tt.who
			w.up.respond = func(seen) (int, string) { return answer.status, answer.body }
			rec, err := w.do(c)
			if err != nil || rec.Code != answer.status || rec.Body.String() != answer.body {
				t.Errorf("%s: got %d %s %v", tt.handler, rec.Code, rec.Body, err)
			}
			if got := w.up.requests(); len(got) != 1 || got[0].body != tt.body || got[0].method != tt.method {
				t.Errorf("%s: upstream got %+v", tt.handler, got)
			}
			want := tt.want
			if answer.status != 200 {
				want = nil
			}
			if diff := cmp.Diff(want, w.devices.notes); diff != "" {
				t.Errorf("%s %s: engine (-want +got):\n%s", tt.handler, tt.body, diff)
			}
		}
	}
}

// Attack: a replica dies while it ends sessions, and the token is refused to the one that does it again,
// because only this session has ended, by something else: a logout at another place, a token that has
// expired, or a homeserver that says so. The keys of other devices stay, and those of this one do where
// the session has not ended.
func TestEndOfSessionsThatIsOnlySupposed(t *testing.T) {
	t.Parallel()
	user := alice.String()
	own := []string{"forget " + user + " [DEVICE]"}
	for _, tt := range []struct {
		handler, pattern string
		status           int
		answer           string
		want             []string
		code             int
	}{
		{Logout, "/logout", 401, `{"errcode":"M_UNKNOWN_TOKEN"}`, own, 200},
		{LogoutAll, "/logout/all", 401, `{"errcode":"M_UNKNOWN_TOKEN"}`, own, 200},
		{Deactivate, "/account/deactivate", 401, `{"errcode":"M_UNKNOWN_TOKEN"}`, own, 200},
		{Logout, "/logout", 401, `{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}`, nil, 401},
		{LogoutAll, "/logout/all", 401, `{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}`, nil, 401},
		{Deactivate, "/account/deactivate", 401, `{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}`, nil, 401},
		{Deactivate, "/account/deactivate", 401, `{"errcode":"M_USER_LOCKED"}`, nil, 401},
		{LogoutAll, "/logout/all", 200, `{}`, []string{"forget all " + user + " but []"}, 200},
		{Deactivate, "/account/deactivate", 200, `{}`, []string{"forget account " + user}, 200},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		w.up.respond = func(seen) (int, string) { return tt.status, tt.answer }
		rec, err := w.do(call{handler: tt.handler, method: http.MethodPost, pattern: tt.pattern, body: `{}`, again: true})
		if err != nil || rec.Code != tt.code {
			t.Errorf("%s, %s: got %d %v", tt.handler, tt.answer, rec.Code, err)
		}
		if diff := cmp.Diff(tt.want, w.devices.notes); diff != "" {
			t.Errorf("%s, %s: engine (-want +got):\n%s", tt.handler, tt.answer, diff)
		}
	}
}

// Keys that could not be dropped are no successful logout.
func TestLogoutNotRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	w.devices.noteErr = errors.New("disk full")
	if _, err := w.do(call{handler: Logout, method: http.MethodPost, pattern: "/logout"}); err == nil {
		t.Error("got no error")
	}
}

func TestUploadKeys(t *testing.T) {
	t.Parallel()
	const deviceKeys, oneTimeKeys = `{"device_keys":{"device_id":"DEVICE"}}`, `{"one_time_keys":{"signed_curve25519:A":{}},"device_keys":null}`
	for _, tt := range []struct {
		name, body string
		refuses    bool
		who        Identity
		status     int
		broken     error
		want       []string
		code       string
	}{
		{name: "its own", body: deviceKeys, status: 200, want: []string{"client keys DEVICE", "settle true"}},
		{name: "its own, refused", body: deviceKeys, status: 400, want: []string{"client keys DEVICE", "settle false"}},
		{name: "its own, no answer", body: deviceKeys, broken: apierr.Unreachable(nil), want: []string{"client keys DEVICE", "settle false"}, code: apierr.CodeUnknown},
		{name: "over ours", body: deviceKeys, refuses: true, want: []string{"client keys DEVICE"}, code: codeKeysHeld},
		{name: "one-time keys", body: oneTimeKeys, status: 200, want: []string{"client keys DEVICE", "settle false"}},
		{name: "one-time keys over ours", body: oneTimeKeys, refuses: true, want: []string{"client keys DEVICE"}, code: codeKeysHeld},
		{name: "fallback key over ours", body: `{"fallback_keys":{"a":{}}}`, refuses: true, want: []string{"client keys DEVICE"}, code: codeKeysHeld},
		{name: "asks for counts", body: `{}`, refuses: true, status: 200},
		{name: "asks for counts, blank", body: ``, refuses: true, status: 200},
		{name: "empty objects", body: `{"device_keys":{},"one_time_keys":{}}`, refuses: true, status: 200},
		{name: "no device", body: deviceKeys, who: Identity{UserID: alice}, status: 200},
		{name: "in two ways", body: `{"device_keys":{},"device_keys":{"a":1}}`, refuses: true, code: apierr.CodeBadJSON},
		{name: "not JSON", body: `{`, code: apierr.CodeNotJSON},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, e2ee.ModeProxied)
			w.devices.refuses, w.up.broken = tt.refuses, tt.broken
			if tt.who.UserID != "" {
				w.who = tt.who
			}
			w.up.respond = func(seen) (int, string) { return tt.status, `{"one_time_key_counts":{}}` }
			rec, err := w.do(call{handler: UploadKeys, method: http.MethodPost, pattern: "/keys/upload", body: tt.body})
			if tt.code != "" {
				if !apierr.HasCode(err, tt.code) {
					t.Errorf("got %v, want %s", err, tt.code)
				}
				if tt.broken == nil {
					w.wantNothingUpstream()
				}
			} else if got := w.up.requests(); err != nil || rec.Code != tt.status || len(got) != 1 || got[0].body != tt.body {
				t.Errorf("got %d %v, upstream %+v", rec.Code, err, got)
			}
			if diff := cmp.Diff(tt.want, w.devices.notes); diff != "" {
				t.Errorf("engine (-want +got):\n%s", diff)
			}
		})
	}
	w := newWorld(t, e2ee.ModeProxied)
	w.devices.refuses = true
	_, err := w.do(call{handler: UploadKeys, method: http.MethodPost, pattern: "/keys/upload", body: deviceKeys})
	if e := shown(t, err, http.StatusForbidden, codeKeysHeld); !strings.Contains(e.Public(), "log in as a new device") {
		t.Errorf("%q does not say what to do", e.Public())
	}
}
