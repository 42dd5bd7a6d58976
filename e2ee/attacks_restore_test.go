package e2ee_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// saved is a copy of a stopped database, with the mark beside it.
type saved struct{ database, mark []byte }

func (st *stage) save() saved {
	st.t.Helper()
	st.stop()
	read := func(name string) []byte {
		content, err := os.ReadFile(name)
		if err != nil {
			st.t.Fatal(err)
		}
		return content
	}
	out := saved{read(st.path), read(st.path + "-mark")}
	st.start()
	st.dev = st.device(st.alice)
	return out
}

// putBack restores the copy and starts again. With unnoticed it goes into the same files,
// the mark too, as when a whole file system is set back: nothing on the machine shows that.
func (st *stage) putBack(s saved, unnoticed bool) {
	st.t.Helper()
	st.stop()
	for _, name := range []string{"-wal", "-shm"} {
		_ = os.Remove(st.path + name)
	}
	write := func(name string, content []byte) {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			st.t.Fatal(err)
		}
	}
	if unnoticed {
		write(st.path+"-mark", s.mark)
	}
	write(st.path, s.database)
	st.start()
	if got := st.db.Restored() == ""; got != unnoticed {
		st.t.Fatalf("noticed when it was opened: %q", st.db.Restored())
	}
	st.dev = st.device(st.alice)
}

// newKeys has the homeserver give away nearly all keys of the device, and the device
// publish others.
func (st *stage) newKeys(bob *puppet) {
	st.t.Helper()
	st.drain(bob, 3)
	await(st.t, "the supply is not filled up", func() bool {
		st.upkeep()
		return st.keysLeft() > keysKept/2
	})
}

// hearsStrangers has new devices send their first message.
func (st *stage) hearsStrangers(room string, n int) {
	st.t.Helper()
	unread := 0
	for range n {
		st.serial++
		stranger := newPuppet(st.t, st.hs, "bob", fmt.Sprintf("STRANGER%d", st.serial))
		said := stranger.newMegolm(room)
		said.share(st.target())
		if st.wantHidden(said.say("from a stranger"), "from a stranger") == "MissingRoomKey" {
			unread++
		}
	}
	if unread > 0 {
		st.t.Errorf("%d of %d messages of new devices cannot be read", unread, n)
	}
}

func (st *stage) replacing() bool {
	st.t.Helper()
	return slices.ContainsFunc(status(st.t, st.dev).Problems, func(p e2ee.Problem) bool { return p.Code == "keys_being_replaced" })
}

// Report: after a restore of an older database, dead one-time keys stayed published: of 100
// keys on the server 50 had no private half, and 10 of 10 messages of a new peer were
// unreadable, with nothing among the problems. The device takes the dead ones away, while
// the status says so; also through a restart in the middle of it, and the fallback key,
// which is dead too, is another one before anything else.
func TestDeadKeysAreReplacedAfterARestore(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "before")
	yesterday := st.save()
	st.newKeys(bob)
	if st.replacing() {
		t.Error("keys are replaced without a reason")
	}

	claims := liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$"))
	release := st.hs.Intercept(claims, liar.Fail(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"))
	st.putBack(yesterday, false)
	st.dev.Maintain(t.Context())
	if !st.replacing() {
		t.Error("while dead keys are on the homeserver, the status says nothing")
	}
	st.again()
	if !st.replacing() {
		t.Error("after a restart the status says nothing any more")
	}
	release()
	await(t, "the keys are not replaced", func() bool {
		st.dev.Maintain(t.Context())
		return !st.replacing()
	})
	if n := st.keysLeft(); n != keysKept {
		t.Errorf("%d keys are on the homeserver, want %d", n, keysKept)
	}
	st.hearsStrangers(room, 10)
	more := st.drainAll(bob)
	st.hearsStrangers(room, 1) // by the fallback key
	more()
	before := len(st.hs.Requests(claims))
	st.newKeys(bob)
	st.dev.Maintain(t.Context())
	if n := len(st.hs.Requests(claims)) - before; n > 0 {
		t.Errorf("%d more keys of its own were claimed after it was over", n)
	}
}

// drainAll leaves nothing but the fallback key, until others may be published.
func (st *stage) drainAll(by *puppet) (more func()) {
	st.t.Helper()
	more = st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/upload$")), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))
	for st.keysLeft() > 0 {
		by.claim(st.target())
	}
	return more
}

// A whole file system is set back, and nothing on the machine shows it. The homeserver does:
// it has other keys under the IDs that the device gives out next. Then it is known, and
// what was sent is not continued either: the session of the room is another one.
func TestRestoreIsNoticedByTheHomeserver(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	before := st.send(room, "before")
	yesterday := st.save()
	st.newKeys(bob)

	st.putBack(yesterday, true)
	// New ones are wanted: they are made with IDs that are taken.
	few := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "/sync")), liar.Edit(func(_ *liar.Request, body map[string]any) {
		body["device_one_time_keys_count"] = map[string]any{"signed_curve25519": 5}
	}))
	// It is mended as fast as it is noticed, unless the homeserver has it wait.
	wait := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$")), liar.Fail(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"))
	await(t, "the restore is not noticed", func() bool {
		st.tend()
		return st.replacing()
	})
	wait()
	few()
	await(t, "the keys are not replaced", func() bool {
		st.reload()
		st.dev.Maintain(t.Context())
		return !st.replacing()
	})
	if after := st.send(room, "after"); after.session == before.session {
		t.Error("a session is used further of which is not known how far it was used")
	}
	st.hearsStrangers(room, 5)
}

// reload takes the device as a request does.
func (st *stage) reload() {
	st.t.Helper()
	d, err := st.eng.Device(st.t.Context(), id.UserID(st.alice.UserID), id.DeviceID(st.alice.DeviceID), secret.NewString(st.alice.Token))
	if err != nil {
		st.t.Fatal(err)
	}
	st.dev = d
}

// A homeserver gives out one-time keys of the device without end, or refuses every new key.
// The device does not claim for ever, nor throw its sessions away again and again.
func TestHomeserverThatHasNoEndOfDeadKeys(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	yesterday := st.save()
	st.newKeys(bob)
	claims := liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$"))
	n := 0
	st.hs.Intercept(claims, func(*liar.Request, func() liar.Reply) liar.Reply {
		n++
		return liar.OK(map[string]any{"one_time_keys": map[string]any{st.alice.UserID: map[string]any{
			st.alice.DeviceID: map[string]any{fmt.Sprintf("signed_curve25519:%d", n): map[string]any{"key": "x"}},
		}}})
	})
	st.putBack(yesterday, false)
	await(t, "the device goes on claiming", func() bool {
		st.dev.Maintain(t.Context())
		return !st.replacing()
	})
	if n > 200 {
		t.Errorf("%d keys were claimed", n)
	}
	st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/upload$")), liar.Fail(http.StatusBadRequest, "M_UNKNOWN"))
	first := st.send(room, "one")
	for st.keysLeft() > 10 {
		bob.claim(st.target())
	}
	sessions := map[string]bool{first.session: true}
	for i := range 4 {
		st.later(time.Hour)
		st.tend()
		sessions[st.send(room, fmt.Sprintf("again %d", i)).session] = true
	}
	if len(sessions) > 2 {
		t.Errorf("%d sessions for 5 messages: they are thrown away with every refusal", len(sessions))
	}
}

// A homeserver does not let a device claim its own keys, or fails for ever. New keys are
// published in the end all the same: dead ones beside them are better than none.
func TestHomeserverThatRefusesToGiveDeadKeys(t *testing.T) {
	t.Parallel()
	for status, most := range map[int]int{http.StatusForbidden: 1, http.StatusBadGateway: 20} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			yesterday := st.save()
			st.newKeys(bob)
			claims := liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$"))
			before := len(st.hs.Requests(claims))
			st.hs.Intercept(claims, liar.Fail(status, "M_UNKNOWN"))
			st.putBack(yesterday, false)
			await(t, "no new keys are published", func() bool {
				st.dev.Maintain(t.Context())
				return !st.replacing()
			})
			if n := len(st.hs.Requests(claims)) - before; n > most {
				t.Errorf("it was tried %d times", n)
			}
		})
	}
}
