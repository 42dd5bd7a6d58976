package e2ee_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"e2ee-proxy/internal/liar"
)

// Reported (of other software): somebody whose devices are not known yet sends over an
// Olm session that is lost here. The note of it was dropped, because the sender was only
// looked up in memory, and nothing they sent could ever be read again.

// sendUnreadable has a device of somebody send what no session can read.
func (st *stage) sendUnreadable(from *puppet) {
	st.t.Helper()
	own := st.target()
	st.hs.SendToDevice(own.user, own.device, from.UserID, "m.room.encrypted", map[string]any{
		"algorithm": olmAlgorithm, "sender_key": from.curve25519, "serial": fmt.Sprint(st.serial),
		"ciphertext": map[string]any{own.curve25519.String(): map[string]any{"type": 1, "body": rawBase64(make([]byte, 120))}},
	})
	st.serial++
}

// hears demands that a device which was given a new session can talk to us over it.
func (st *stage) hears(from *puppet) {
	st.t.Helper()
	room := st.hs.CreateRoom(true, st.alice.UserID, from.UserID)
	said := from.newMegolm(room)
	said.share(st.target())
	st.awaitText(said.say("heard again"), "heard again")
}

// The client only listens: its syncs are all that ever happens. The sender is asked for,
// given a new session, and heard again.
func TestUnknownSenderIsUnwedged(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	st.sync()
	st.sendUnreadable(bob)
	await(t, "bob gets no new session", func() bool {
		st.sync()
		return bob.dummies() == 1
	})
	st.hears(bob)
}

// The sender has a new device that nobody told of, since no room is shared: the list that
// is known is not taken for the last word, and is asked for once for it.
func TestUnknownDeviceOfAKnownSenderIsUnwedged(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	old, own := confirmedPuppet(t, st.hs, "bob", "OLD")
	st.sendUnreadable(old)
	await(t, "bob is not known", func() bool { st.told(); return old.dummies() == 1 })
	bob := newPuppet(t, st.hs, "bob", "NEW")
	own.confirm(bob)
	st.sendUnreadable(bob)
	st.sendUnreadable(bob)
	await(t, "the new device gets no new session", func() bool { st.told(); return bob.dummies() == 1 })
	ghost := newPuppet(t, st.hs, "eve", "EVE")
	asked := func() int {
		return len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is(http.MethodPost, "keys/query$"))))
	}
	st.sendUnreadable(&puppet{t: t, Session: ghost.Session, curve25519: bob.curve25519})
	st.told()
	st.dev.Maintain(t.Context())
	before := asked()
	for range 3 {
		st.dev.Maintain(t.Context())
	}
	if n := asked() - before; n != 0 {
		t.Errorf("%d more queries for a device that does not exist", n)
	}
}

// The sender's server does not answer, and the process is started again meanwhile: the
// note is still there, and so it is when no one-time key can be claimed.
func TestNoteOfAWedgeIsKept(t *testing.T) {
	t.Parallel()
	for name, hook := range map[string]struct {
		match liar.Match
		run   liar.Hook
	}{
		"the query fails": {liar.Is(http.MethodPost, "keys/query$"), liar.Edit(func(_ *liar.Request, body map[string]any) {
			if devices, _ := body["device_keys"].(map[string]any); devices["@bob:"+liar.ServerName] != nil {
				delete(devices, "@bob:"+liar.ServerName)
				body["failures"] = map[string]any{liar.ServerName: map[string]any{}}
			}
		})},
		"the claim fails":          {liar.Is(http.MethodPost, "keys/claim$"), liar.Fail(http.StatusBadGateway, "M_UNKNOWN")},
		"the claim gives nothing":  {liar.Is(http.MethodPost, "keys/claim$"), liar.Edit(func(_ *liar.Request, body map[string]any) { clear(body) })},
		"the homeserver is silent": {liar.Is(http.MethodPost, "keys/(query|claim)$"), liar.Cut},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			target := st.target()
			undo := st.hs.Intercept(liar.Of(st.alice.UserID, hook.match), hook.run)
			st.hs.SendToDevice(target.user, target.device, bob.UserID, "m.room.encrypted", map[string]any{
				"algorithm": olmAlgorithm, "sender_key": bob.curve25519,
				"ciphertext": map[string]any{target.curve25519.String(): map[string]any{"type": 1, "body": rawBase64(make([]byte, 120))}},
			})
			st.told()
			st.dev.Maintain(t.Context())
			st.dev.Maintain(t.Context())
			if n := bob.dummies(); n != 0 {
				t.Fatalf("%d new sessions while %s", n, name)
			}
			st.restart()
			undo()
			st.later(time.Hour)
			st.dev = st.device(st.alice)
			await(t, "bob gets no new session", func() bool { return bob.dummies() == 1 })
			st.hears(bob)
		})
	}
}

// The key that is claimed is none, though it is signed: nothing is settled by it, and
// another is claimed after a pause.
func TestWedgeOutlivesABadKey(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	target := st.target()
	bad := 0
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodPost, "keys/claim$")),
		liar.First(2, liar.Edit(func(_ *liar.Request, body map[string]any) {
			bad++
			body["one_time_keys"] = map[string]any{bob.UserID: map[string]any{bob.DeviceID: map[string]any{
				fmt.Sprintf("signed_curve25519:BAD%d", bad): bob.sign(map[string]any{"key": "short"}),
			}}}
		})))()
	st.hs.SendToDevice(target.user, target.device, bob.UserID, "m.room.encrypted", map[string]any{
		"algorithm": olmAlgorithm, "sender_key": bob.curve25519,
		"ciphertext": map[string]any{target.curve25519.String(): map[string]any{"type": 1, "body": rawBase64(make([]byte, 120))}},
	})
	st.told()
	await(t, "bob gets no new session", func() bool {
		st.later(31 * time.Minute)
		st.dev.Maintain(t.Context())
		return bob.dummies() == 1
	})
	if bad != 2 {
		t.Errorf("%d bad keys were given", bad)
	}
	st.hears(bob)
}

// A failure is not the end for a process that goes on either: it tries again by itself.
func TestWedgeIsTriedAgain(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodPost, "keys/claim$")),
		liar.First(2, liar.Fail(http.StatusBadGateway, "M_UNKNOWN")))()
	st.sendUnreadable(bob)
	st.told()
	await(t, "bob gets no new session", func() bool { return bob.dummies() == 1 })
}

// A device gets one new session in an hour, also when the process is started again within
// it (requirement 6.12).
func TestOneNewSessionInAnHourThroughARestart(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	unreadable := func(want int, when string) {
		t.Helper()
		st.sendUnreadable(bob)
		st.told()
		st.dev.Maintain(t.Context())
		if n := bob.dummies(); n != want {
			t.Errorf("%d new sessions %s, want %d", n, when, want)
		}
	}
	unreadable(1, "at first")
	st.again()
	unreadable(1, "within the hour")
	st.later(61 * time.Minute)
	unreadable(2, "after it")
}

// Attack: somebody sends very much that cannot be read, in the name of devices that do not
// exist. Others' notes are not lost to it, and the homeserver is asked for them at once.
func TestFloodOfUnreadableMessages(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	mallory := newPuppet(t, st.hs, "mallory", "MALLORY")
	st.told()
	target := st.target()
	queries := liar.Of(st.alice.UserID, liar.Is(http.MethodPost, "keys/query$"))
	before := len(st.hs.Requests(queries))
	// All of it comes with one sync.
	gate := liar.NewGate()
	remove := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "/sync$")), gate.Before)
	st.sendUnreadable(bob)
	for i := range 300 {
		st.hs.SendToDevice(target.user, target.device, mallory.UserID, "m.room_key.withheld", map[string]any{
			"algorithm": megolmAlgorithm, "code": "m.no_olm", "from_device": fmt.Sprintf("GHOST%d", i), "sender_key": mallory.curve25519,
		})
	}
	remove()
	gate.Open()
	st.told()
	await(t, "bob gets no new session", func() bool { return bob.dummies() == 1 })
	if n := len(st.hs.Requests(queries)) - before; n > 4 {
		t.Errorf("%d queries", n)
	}
}
