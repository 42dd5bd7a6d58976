package e2ee_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// Report: a homeserver's 429 or 502 while a room key is on its way to devices comes out of a
// send as if the room's encryption could not be determined.
//
// Expected: what the homeserver answered, to what, and how long it asks to wait, can be told
// from the error; of the time in the body and the one in the header, which rounds up, the
// exact one counts, unless the header asks for more. The next try sends the message.
func TestHomeserverRefusesTheRoomKey(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		reply  liar.Reply
		status int
		after  time.Duration
	}{
		"a bad gateway": {liar.Reply{Status: 502, Body: []byte("<html>Bad Gateway</html>")}, 502, 0},
		"a limit":       {liar.Reply{Status: 429, Body: map[string]any{"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 1500}}, 429, 1500 * time.Millisecond},
		"a limit twice": {liar.Reply{
			Status: 429, Header: http.Header{"Retry-After": {"2"}},
			Body: map[string]any{"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 1500},
		}, 429, 1500 * time.Millisecond},
		"a limit in front": {liar.Reply{Status: 429, Header: http.Header{"Retry-After": {"30"}}, Body: []byte("slow down")}, 429, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hs := liar.New(t)
			alice, bob := newPerson(t, hs, "alice", "ALICE"), newPerson(t, hs, "bob", "BOB")
			room := alice.newRoom(bob)
			remove := hs.Intercept(liar.Of(alice.UserID, liar.Is("PUT", "/sendToDevice/m.room.encrypted/")),
				func(*liar.Request, func() liar.Reply) liar.Reply { return tt.reply })
			_, err := alice.trySend(room, "hello")
			up, ok := errors.AsType[*e2ee.UpstreamError](err)
			if !ok || up.Status != tt.status || up.RetryAfter != tt.after || up.Op != "send to devices" {
				t.Fatalf("a send ends with %v (%+v)", err, up)
			}
			remove()
			alice.send(room, "hello")
			bob.awaitRead(room, "hello")
		})
	}
}
