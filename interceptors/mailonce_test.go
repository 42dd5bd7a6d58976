package interceptors

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// mailer is a homeserver that invites by e-mail, with what roomMaker has.
type mailer struct {
	*roomMaker
	mu     sync.Mutex
	sent   []string // addresses that were written to
	events []map[string]any
	late   func() // is called before the state is shown
	state  int    // how it answers for the state; 200 unless given
	refuse bool
}

func newMailer(t *testing.T) *mailer {
	t.Helper()
	m := &mailer{roomMaker: newRoomMaker(t)}
	m.add(bob, "m.room.third_party_invite")
	m.add(alice, "m.room.member")
	return m
}

func (m *mailer) add(sender id.UserID, typ string) {
	m.events = append(m.events, map[string]any{"type": typ, "sender": sender, "event_id": fmt.Sprintf("$%d", len(m.events)), "content": map[string]any{}})
}

func (m *mailer) write(address string) {
	m.sent = append(m.sent, address)
	m.add(alice, "m.room.third_party_invite")
}

// Do implements Upstream.
func (m *mailer) Do(x *Exchange, c Change) (*http.Response, error) {
	status, answer := http.StatusOK, any(map[string]any{})
	err := m.step(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if strings.HasSuffix(c.Pattern, "/state") {
			if m.late != nil {
				m.late()
			}
			if answer = m.events; m.state != 0 {
				status = m.state
			}
			return
		}
		raw, _ := io.ReadAll(x.Request.Body)
		var body struct{ Address string }
		if _ = json.Unmarshal(raw, &body); m.refuse {
			status = http.StatusForbidden
			return
		}
		m.write(body.Address)
	})
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(answer)
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(raw)))}, err
}

func (m *mailer) Relay(x *Exchange, resp *http.Response) error {
	return m.step(func() {
		x.Writer.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(x.Writer, resp.Body)
	})
}

// invite makes the request of a client.
func (m *mailer) invite(address, request string, again bool) (int, error) {
	rec := httptest.NewRecorder()
	body := `{"id_server":"id.example","id_access_token":"t","medium":"email","address":"` + address + `"}`
	req := httptest.NewRequestWithContext(m.w.t.Context(), http.MethodPost, "/", strings.NewReader(body))
	err := m.w.handlers[Invite](&Exchange{
		Writer: rec, Request: req, Upstream: m, Devices: m.roomMaker, Identity: m.w.who, RequestID: request, Again: again,
		Endpoint: Endpoint{Pattern: "/_matrix/client/{version}/rooms/{roomId}/invite", Version: "v3", Params: map[string]string{"roomId": "!r:hs.example"}},
	})
	return rec.Code, err
}

func (m *mailer) wantSent(what string, want ...string) {
	m.w.t.Helper()
	if got := fmt.Sprint(m.sent); got != fmt.Sprint(want) {
		m.w.t.Errorf("%s: written to %v, want %v", what, got, want)
	}
}

// Attack 57, for invitations by e-mail: a replica is killed at each point of making one, before and after
// what it does there, and another one makes the request again. The person is written to once,
// whatever the user has invited before, and whatever request the other replica makes first.
func TestMailIsSentOnceWhereverAReplicaDies(t *testing.T) {
	t.Parallel()
	point := 0
	for ; ; point++ {
		finished := false
		for _, late := range []bool{false, true} {
			for _, other := range []bool{false, true} { // that is made first
				for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeForeign} {
					synctest.Test(t, func(t *testing.T) {
						m := newMailer(t)
						m.w.dev.mode = mode
						if _, err := m.invite("before@example.org", "r-0", false); err != nil {
							t.Fatal(err)
						}
						m.steps, m.killAt, m.roomMaker.late = 0, point, late
						if _, err := m.invite("one@example.org", "r-1", false); err == nil {
							finished = true
							return
						}
						m.takeOver()
						if other {
							if _, err := m.invite("other@example.org", "r-2", false); err != nil {
								t.Fatal(err)
							}
						}
						if status, err := m.invite("one@example.org", "r-1", true); err != nil || status != http.StatusOK {
							t.Fatalf("point %d: %d, %v", point, status, err)
						}
						times := map[string]int{}
						for _, address := range m.sent {
							times[address]++
						}
						if len(times) != len(m.sent) || times["one@example.org"] != 1 || (times["other@example.org"] == 1) != other {
							t.Errorf("point %d, late %v, another first %v: written to %v", point, late, other, m.sent)
						}
					})
				}
			}
		}
		if finished {
			break
		}
	}
	if point < 5 {
		t.Errorf("an invitation was made in %d steps", point)
	}
}

// One that is still in the making is waited for; one that the homeserver refuses is told as that; where
// it does not show the room, it is asked all the same; where its answer is none, nothing is done.
func TestMailThatIsLateOrRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMailer(t)
		m.killAt = 3
		if _, err := m.invite("one@example.org", "r-1", false); err == nil {
			t.Fatal("it was not killed")
		}
		m.takeOver()
		shown := 0
		m.late = func() {
			if shown++; shown == 3 {
				m.write("one@example.org")
			}
		}
		if status, err := m.invite("one@example.org", "r-1", true); err != nil || status != http.StatusOK {
			t.Errorf("%d, %v", status, err)
		}
		m.wantSent("late", "one@example.org")
	})
	synctest.Test(t, func(t *testing.T) {
		m := newMailer(t)
		m.refuse = true
		if status, err := m.invite("one@example.org", "r-1", false); err != nil || status != http.StatusForbidden || len(m.w.devices.intents) != 0 {
			t.Errorf("%d, %v, %d are stored", status, err, len(m.w.devices.intents))
		}
		m.refuse, m.state = false, http.StatusForbidden
		if status, err := m.invite("one@example.org", "r-2", false); err != nil || status != http.StatusOK || len(m.w.devices.intents) != 0 {
			t.Errorf("%d, %v, %d are stored", status, err, len(m.w.devices.intents))
		}
		m.wantSent("a room that is not shown", "one@example.org")
		m.state = http.StatusInternalServerError
		if _, err := m.invite("two@example.org", "r-3", false); err == nil {
			t.Error("what was there before is not known, and it was done")
		}
		m.wantSent("a homeserver that fails", "one@example.org")
	})
}
