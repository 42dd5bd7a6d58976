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

// Another replica was killed while the homeserver was making the message. The client repeats it here,
// before it is in the room. It is waited for, and not sent a second time; what was made long ago is
// in the room, or is not.
func TestSendRepeatedWhileItIsBeingMade(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		age                  time.Duration
		after                int // looks until it is there
		status               int
		wantLooks, wantSends int
	}{
		"it comes":                {0, 2, 200, 3, 1},
		"it does not come":        {0, 100, 200, looks, 2},
		"it was made long ago":    {time.Hour, 100, 200, 1, 2},
		"the room cannot be read": {0, 100, 403, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, e2ee.ModeProxied)
				w.up.broken = apierr.Unreachable(errors.New("reset"))
				if _, err := w.do(sendCall(encryptedRoom, "m.room.message", message)); err == nil {
					t.Fatal("the answer was not lost")
				}
				w.up.broken = nil
				for txn, made := range w.dev.sealed {
					made.MadeAt = time.Now().Add(-tc.age)
					w.dev.sealed[txn] = made
				}
				looked, sends := 0, 1
				w.up.respond = func(s seen) (int, string) {
					if s.method == http.MethodPut {
						sends++
						return 200, `{"event_id":"$event"}`
					}
					looked++
					if looked <= tc.after {
						return tc.status, `{"chunk":[]}`
					}
					return 200, `{"chunk":[{"type":"m.room.encrypted","sender":"@alice:hs.example","event_id":"$found","content":{"session_id":"s","ciphertext":"sealed1"}}]}`
				}
				want := `{"event_id":"$found"}`
				if tc.wantSends > 1 {
					want = `{"event_id":"$event"}`
				}
				rec, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
				if err != nil || rec.Body.String() != want || looked != tc.wantLooks || sends != tc.wantSends {
					t.Errorf("got %s %v, looked %d times, sent %d times", rec.Body, err, looked, sends)
				}
			})
		})
	}
}

// An answer was lost, and the repetition was refused, which says nothing of the first. The message is
// looked for all the same.
func TestSendRefusedAfterALostAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	w.up.broken = apierr.Unreachable(errors.New("reset"))
	_, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
	wantError(t, err, http.StatusBadGateway, apierr.CodeUnknown)
	w.up.broken = nil
	page := `{"chunk":[]}`
	w.up.respond = func(s seen) (int, string) {
		if s.method == http.MethodPut {
			return 429, `{"errcode":"M_LIMIT_EXCEEDED"}`
		}
		return 200, page
	}
	if rec, err := w.do(sendCall(encryptedRoom, "m.room.message", message)); err != nil || rec.Code != 429 {
		t.Fatalf("got %d %v", rec.Code, err)
	}
	page = `{"chunk":[{"type":"m.room.encrypted","sender":"@alice:hs.example","event_id":"$found","content":{"session_id":"s","ciphertext":"sealed1"}}]}`
	if rec, err := w.do(sendCall(encryptedRoom, "m.room.message", message)); err != nil || rec.Body.String() != `{"event_id":"$found"}` {
		t.Errorf("got %s %v", rec.Body, err)
	}
}
