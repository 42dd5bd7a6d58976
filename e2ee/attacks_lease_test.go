package e2ee_test

import (
	"context"
	"errors"
	"os"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// Report: two processes on one database reused message keys, 17 of 80 in one run. A process
// that was taken for dead, and in whose place another one runs, comes back with ratchets in
// its memory: an outbound session of the room, Olm sessions, the outbox. It uses none of
// them: what it is asked to send is refused, and the homeserver gets nothing from it.
func TestProcessThatLostTheDatabaseUsesNoRatchet(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "before")

	// The lock is a file, which somebody deletes; the other process begins.
	if err := os.Remove(st.path + "-lock"); err != nil {
		t.Fatal(err)
	}
	other, err := store.Open(context.WithoutCancel(t.Context()), store.Options{URL: secret.NewString("sqlite:" + st.path), MasterKeys: testKeys(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()

	sent := func() int {
		return len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("PUT", "sendToDevice/")))) +
			len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("PUT", "/send/m.room.encrypted/"))))
	}
	before := sent()
	for _, where := range []string{room, st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)} {
		out := st.outgoing(where, "after")
		if enc, err := st.encrypt(out); !errors.Is(err, e2ee.ErrLeaseLost) {
			t.Errorf("it gives out %s, error %v", enc.Content, err)
		}
	}
	st.dev.Maintain(t.Context())
	if n := sent() - before; n > 0 {
		t.Errorf("the homeserver got %d requests", n)
	}
	select {
	case <-st.db.LeaseLost():
	default:
		t.Error("the process does not know that it is over")
	}
}
