package e2ee_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// trap is an error in the program: whoever asks for the time within a function panics.
type trap struct {
	mu     sync.Mutex
	in     string // no function: not set
	sprung int
}

// lay puts the trap into an engine that is about to be made.
func (tr *trap) lay(o *e2ee.Options) {
	now := o.Now
	o.Now = func() time.Time {
		if tr.springs() {
			panic("somebody's clear text")
		}
		return now()
	}
}

func (tr *trap) springs() bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var callers [64]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers[:])])
	for more := tr.in != ""; more; {
		var frame runtime.Frame
		if frame, more = frames.Next(); strings.HasSuffix(frame.Function, tr.in) {
			tr.sprung++
			return true
		}
	}
	return false
}

// set has a function panic from now on; "" for none. It returns how often one has.
func (tr *trap) set(in string) int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.in = in
	return tr.sprung
}

func (tr *trap) count() int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.sprung
}

// Attack: somebody finds a message over which the program panics. It ended the process, for all
// accounts, and again after each start, because the homeserver goes on sending it. The message is
// left out, whoever syncs, and the next ones count.
func TestMessageThatPanics(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]time.Duration{"the client syncs": time.Hour, "the proxy syncs": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var tr trap
			st := newStage(t, func(o *e2ee.Options) {
				o.OwnSyncAfter = after
				tr.lay(o)
			})
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			st.known(bob)
			tr.set("gossip.(*Incoming).SecretRequest")
			st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, st.alice.UserID, "m.secret.request", map[string]any{
				"action": "request", "name": "m.megolm_backup.v1", "request_id": "r", "requesting_device_id": "OTHER",
			})
			st.deliver(bob, bob.sealOlm(st.target(), bob.envelope(st.target(), noteType, map[string]any{"body": "after"})))
			if after < time.Hour {
				await(t, "the proxy does not sync", func() bool { return tr.count() > 0 })
			}
			if n := st.heardNotes("after"); n != 1 || tr.set("") != 1 {
				t.Errorf("the next message was heard %d times, after %d panics", n, tr.count())
			}
		})
	}
}

// Attack: an answer of the homeserver, or a message of a verification, over which the program
// panics in work that no request waits for. The process goes on, and so does the work, once the
// cause is gone.
func TestWorkThatPanics(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in    string
		again func(st *stage, n int) bool // the work goes on; asked again and again
	}{
		"own sync": {"e2ee.(*Device).syncOnce", func(st *stage, n int) bool {
			st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, "@bob:hs.test", noteType, map[string]any{})
			return len(st.hs.Requests(liar.Is("GET", "/sync"))) > n+2
		}},
		"verification": {"verification.(*Flows).asked", func(st *stage, n int) bool {
			st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, "@bob:hs.test", "m.key.verification.request", map[string]any{
				"from_device": "BOB", "transaction_id": fmt.Sprint("t", n, time.Now().UnixNano()), "methods": []string{"m.sas.v1"}, "timestamp": time.Now().UnixMilli(),
			})
			all, err := st.dev.Verifications(st.t.Context())
			return err == nil && len(all) > 0
		}},
		"upkeep": {"gossip.(*Exchange).AnswerSecretRequests", func(st *stage, _ int) bool {
			st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, st.alice.UserID, "m.secret.request", map[string]any{
				"action": "request", "name": "m.megolm_backup.v1", "request_id": fmt.Sprint("r", time.Now().UnixNano()), "requesting_device_id": "OTHER",
			})
			st.upkeep()
			return true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var tr trap
			st := newStage(t, tr.lay)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			st.known(bob)
			tr.set(tt.in)
			await(t, "nothing panics", func() bool {
				tt.again(st, 0)
				return tr.count() > 1
			})
			tr.set("")
			n := len(st.hs.Requests(liar.Is("GET", "/sync")))
			await(t, "the work does not go on", func() bool { return tt.again(st, n) })
			st.send(st.hs.CreateRoom(true, st.alice.UserID, bob.UserID), "still here")
		})
	}
}

// Attack: one of the accounts that are visited makes the program panic. The others are visited.
func TestVisitThatPanics(t *testing.T) {
	t.Parallel()
	var tr trap
	c := newCrew(t, 3, func(o *e2ee.Options) {
		sleepy(o)
		tr.lay(o)
	})
	tr.set("e2ee.(*Engine).visit")
	await(t, "no visit panics", func() bool { return tr.count() > 2 })
	tr.set("")
	for _, s := range c.sessions {
		if _, err := c.eng.Device(t.Context(), id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token)); err != nil {
			t.Error(err)
		}
	}
}
