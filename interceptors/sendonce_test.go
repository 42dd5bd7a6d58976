package interceptors

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// The answer to a message was lost, and the homeserver has forgotten its transaction, as Dendrite
// (0.15.2) does when it restarts. The message is found in the room, and not sent a second time.
// What others wrote, and what only looks like it, is not it.
func TestSendRepeatedThatTheHomeserverForgot(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		sender, ciphertext string
		status             int
		want               string // the answer
		sends              int
	}{
		"found":                     {"@alice:hs.example", "sealed1", 200, `{"event_id":"$found"}`, 1},
		"another's":                 {"@eve:hs.example", "sealed1", 200, `{"event_id":"$event"}`, 2},
		"another message":           {"@alice:hs.example", "sealed2", 200, `{"event_id":"$event"}`, 2},
		"the room cannot be read":   {"@alice:hs.example", "sealed1", 403, `{"event_id":"$event"}`, 2},
		"an answer that is no page": {"@alice:hs.example", `"`, 200, `{"event_id":"$event"}`, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, e2ee.ModeProxied)
			w.up.broken = apierr.Unreachable(errors.New("reset"))
			_, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
			wantError(t, err, http.StatusBadGateway, apierr.CodeUnknown)
			w.up.broken = nil
			w.up.respond = func(s seen) (int, string) {
				if s.method == http.MethodPut {
					return 200, `{"event_id":"$event"}`
				}
				return tc.status, fmt.Sprintf(`{"chunk":[{"type":"m.room.message","sender":"@alice:hs.example","event_id":"$clear","content":{"body":"sealed1"}},
					{"type":"m.room.encrypted","sender":"%s","event_id":"$found","content":{"session_id":"s","ciphertext":"%s"}}]}`, tc.sender, tc.ciphertext)
			}
			rec, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
			if err != nil || rec.Body.String() != tc.want {
				t.Errorf("got %s %v, want %s", rec.Body, err, tc.want)
			}
			sends := 0
			for _, s := range w.up.requests() {
				if s.method == http.MethodPut {
					sends++
				}
			}
			if sends != tc.sends {
				t.Errorf("sent %d times, want %d", sends, tc.sends)
			}
		})
	}
}

// A message goes on when its client has gone, but not for ever.
func TestOutlasting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, gone := context.WithCancel(t.Context())
		lasting, stop := outlasting(client)
		defer stop()
		gone()
		time.Sleep(afterGone - time.Second)
		if lasting.Err() != nil {
			t.Error("it ended with its client")
		}
		time.Sleep(2 * time.Second)
		if lasting.Err() == nil {
			t.Error("it goes on for ever")
		}
		again, stop := outlasting(t.Context())
		stop()
		if again.Err() == nil {
			t.Error("it goes on after its end")
		}
	})
}
