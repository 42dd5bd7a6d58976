package interceptors

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"e2ee-proxy/e2ee"
)

// passwords is a homeserver that changes passwords.
type passwords struct {
	password string
	// synapse knows the session of an authentication again that was completed once.
	synapse   bool
	completed map[string]bool
	busy      int // how often it says that this is too often
	lost      bool
	requests  int
}

func (p *passwords) Do(x *Exchange, c Change) (*http.Response, error) {
	raw := c.Body
	if raw == nil {
		var err error
		if raw, err = io.ReadAll(x.Request.Body); err != nil {
			return nil, err
		}
	}
	var body struct {
		New  string `json:"new_password"`
		Auth struct{ Type, Session, Password string }
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return nil, err
	}
	p.requests++
	status, answer := http.StatusOK, `{}`
	right := body.Auth.Type == "m.login.password" && body.Auth.Password == p.password
	if right && p.synapse {
		p.completed[body.Auth.Session] = body.Auth.Session != ""
	}
	switch {
	case p.requests > 1 && p.busy > 0:
		p.busy--
		status, answer = http.StatusTooManyRequests, `{"errcode":"M_LIMIT_EXCEEDED"}`
	case body.Auth.Type == "":
		status, answer = http.StatusUnauthorized, `{"session":"s","flows":[{"stages":["m.login.password"]}]}`
	case !right && !p.completed[body.Auth.Session] && p.synapse:
		status, answer = http.StatusUnauthorized, `{"session":"s","errcode":"M_FORBIDDEN","flows":[]}`
	case !right && !p.completed[body.Auth.Session]:
		status, answer = http.StatusForbidden, `{"errcode":"M_FORBIDDEN"}`
	default:
		p.password = body.New
	}
	if p.lost {
		return nil, errKilled
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer))}, nil
}

func (p *passwords) Forward(*Exchange) error { return errors.New("not here") }

func (p *passwords) Relay(x *Exchange, resp *http.Response) error {
	x.Writer.WriteHeader(resp.StatusCode)
	_, err := io.Copy(x.Writer, resp.Body)
	return err
}

// Attack 57, for passwords: a replica is killed before the homeserver changes a password, or after it
// did so, and another one makes the request again, whose old password is the wrong one by then. The
// password is the new one in the end, and the client is told so. With a password that was wrong from
// the start nothing is changed, and nothing of the account ends.
func TestPasswordIsChangedOnce(t *testing.T) {
	t.Parallel()
	const asked = `{"auth":{"type":"m.login.password","session":"s","identifier":{"type":"m.id.user","user":"alice"},"password":"old"},"new_password":"new \"one\""}`
	for _, tt := range []struct {
		name, body  string
		now         string // the password when it is asked for at first
		done, again bool   // whether the homeserver did it before the replica was killed
		busy        int
		status      int
		requests    int // by the second replica, at Dendrite
	}{
		{"before it was done", asked, "old", false, true, 0, 200, 1},
		{"after it was done", asked, "old", true, true, 0, 200, 2},
		{"without a session", strings.ReplaceAll(asked, `"session":"s",`, ``), "old", true, true, 0, 200, 2},
		{"too often", asked, "old", true, true, 3, 200, 5},
		{"a wrong password", asked, "another", false, true, 0, 403, 2},
		{"no replica was killed", asked, "another", false, false, 0, 403, 1},
		{"the first step", `{"new_password":"new"}`, "old", false, true, 0, 401, 1},
		{"the same password", strings.ReplaceAll(asked, `"old"`, `"new \"one\""`), "another", false, true, 0, 403, 1},
		{"no password proves it", strings.ReplaceAll(asked, "m.login.password", "m.login.sso"), "old", false, true, 0, 403, 1},
	} {
		for _, synapse := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, e2ee.ModeProxied)
				p := &passwords{password: tt.now, synapse: synapse, completed: map[string]bool{}}
				change := func(again bool) (int, error) {
					rec := httptest.NewRecorder()
					req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(tt.body))
					err := w.handlers[Password](&Exchange{
						Writer: rec, Request: req, Upstream: p, Devices: w.devices, Identity: w.who, RequestID: "r", Again: again,
						Endpoint: Endpoint{Pattern: "/_matrix/client/{version}/account/password", Version: "v3", Params: map[string]string{}},
					})
					return rec.Code, err
				}
				if tt.done {
					p.lost = true
					if _, err := change(false); !errors.Is(err, errKilled) || p.password == tt.now {
						t.Fatalf("%s: it was not killed: %v", tt.name, err)
					}
				}
				p.lost, p.requests, p.busy = false, 0, tt.busy
				status, err := change(tt.again)
				if synapse && tt.status == http.StatusForbidden {
					tt.status = http.StatusUnauthorized
				}
				if err != nil || status != tt.status || status == 200 && p.password != `new "one"` || status != 200 && p.password != tt.now {
					t.Errorf("%s, synapse %v: %d, %v; the password is %q", tt.name, synapse, status, err, p.password)
				}
				if !synapse && p.requests != tt.requests {
					t.Errorf("%s: %d requests", tt.name, p.requests)
				}
				if ended := slices.ContainsFunc(w.devices.notes, func(c string) bool { return strings.HasPrefix(c, "forget") }); ended != (status == 200) {
					t.Errorf("%s: %q", tt.name, w.devices.notes)
				}
			})
		}
	}
}
