package interceptors

import (
	"context"
	"net/http"
	"testing"

	"e2ee-proxy/e2ee"
)

func (d *fakeDevice) BeforeJoin(context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready++
}

// Reported by a test on a busy machine: a bot that had just logged in joined a room, and the first
// message after that was never readable for it, because its device had no keys yet when the message
// was sent. A device that the proxy encrypts for has them before a join goes on.
func TestDeviceIsReadyBeforeItJoins(t *testing.T) {
	t.Parallel()
	inRoom := map[string]string{"roomId": encryptedRoom.String()}
	join := call{handler: Join, method: http.MethodPost, pattern: "/rooms/{roomId}/join", params: inRoom, body: `{}`}
	alias := call{handler: JoinByAlias, method: http.MethodPost, pattern: "/join/{roomIdOrAlias}", params: map[string]string{"roomIdOrAlias": "#room:hs"}, body: `{}`}
	delayed := stateCall(encryptedRoom, typeMember, alice.String(), `{"membership":"join"}`)
	delayed.query = "org.matrix.msc4140.delay=9"
	for name, tt := range map[string]struct {
		mode e2ee.Mode
		call call
		want int
	}{
		"a join":                   {e2ee.ModeProxied, join, 1},
		"by an alias":              {e2ee.ModeProxied, alias, 1},
		"as state":                 {e2ee.ModeProxied, stateCall(encryptedRoom, typeMember, alice.String(), `{"membership":"join"}`), 1},
		"as state, later":          {e2ee.ModeProxied, delayed, 0},
		"of somebody else":         {e2ee.ModeProxied, stateCall(encryptedRoom, typeMember, bob.String(), `{"membership":"join"}`), 0},
		"a departure":              {e2ee.ModeProxied, call{handler: Leave, method: http.MethodPost, pattern: "/rooms/{roomId}/leave", params: inRoom, body: `{}`}, 0},
		"with keys of its own":     {e2ee.ModeForeign, join, 0},
		"a token without a device": {e2ee.ModeNone, join, 0},
	} {
		w := newWorld(t, tt.mode)
		w.up.versions = `{"unstable_features":{"org.matrix.msc4140":true}}`
		got := 0
		w.up.respond = func(seen) (int, string) {
			w.dev.mu.Lock()
			defer w.dev.mu.Unlock()
			got = w.dev.ready
			return http.StatusOK, `{}`
		}
		if rec, err := w.do(tt.call); err != nil || rec.Code != http.StatusOK || got != tt.want {
			t.Errorf("%s: %d, %v; made ready %d times before, want %d", name, rec.Code, err, got, tt.want)
		}
	}
}
