package e2ee_test

import (
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/liar"
)

// fallbacks counts the uploads with a fallback key.
func (st *stage) fallbacks() (n int) {
	for _, r := range st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("POST", "keys/upload$"))) {
		if strings.Contains(string(r.Body), `"fallback_keys"`) {
			n++
		}
	}
	return n
}

// Report: Dendrite (v0.15.2) takes a fallback key, throws it away, and says in every sync that
// there is no unused one. It was given a new one every hour, for ever. It is given one; and
// one-time keys as before.
func TestFallbackKeysAreThrownAway(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "/sync")), liar.Edit(func(_ *liar.Request, body map[string]any) {
		body["device_unused_fallback_key_types"] = []string{}
	}))
	st.again() // nothing that was said before counts
	st.told()
	before := st.fallbacks()
	for range 4 {
		st.later(61 * time.Minute)
		st.upkeep()
		st.again()
		st.upkeep()
	}
	// The liar listed the key once before it began to throw keys away, if a sync came so early.
	if n := st.fallbacks() - before; n > 1 {
		t.Errorf("it was given %d more fallback keys in 4 hours", n)
	}
	st.drain(bob, 3)
	await(t, "the supply is not filled up", func() bool {
		st.upkeep()
		return st.keysLeft() > keysKept/2
	})
	st.hearsStrangers(room, 3)
}

// A homeserver that does list an unused fallback key gets a new one when it has given it
// away, also if the process was started again after it was listed, and whether or not a
// message has come that used it.
func TestListedFallbackKeyIsReplaced(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	st.told()
	st.again()
	more := st.drainAll(bob)
	bob.claim(st.target()) // the fallback key
	st.told()
	st.again()
	more()
	before := st.fallbacks()
	st.later(61 * time.Minute)
	await(t, "the fallback key is not replaced", func() bool {
		st.upkeep()
		return st.fallbacks() > before
	})
	st.upkeep()
	if n := st.fallbacks() - before; n != 1 {
		t.Errorf("%d new fallback keys", n)
	}
}

// An upload that fails for hours does not end the life of the fallback key that the
// homeserver gives away meanwhile.
func TestOldFallbackKeyOutlivesAnUpload(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.told()
	more := st.drainAll(bob)
	old := bob.claim(st.target())
	st.awaitText(st.sayWith(bob, old, room, "makes it used"), "makes it used")
	for range 3 {
		st.later(61 * time.Minute)
		st.upkeep()
	}
	st.awaitText(st.sayWith(bob, old, room, "hours later"), "hours later")
	more()
	before := st.fallbacks()
	await(t, "the fallback key is not replaced", func() bool {
		st.later(time.Minute)
		st.upkeep()
		return st.keysLeft() > 0
	})
	if st.fallbacks() == before {
		t.Error("no new fallback key was offered")
	}
	st.awaitText(st.sayWith(bob, old, room, "right after"), "right after")
}
