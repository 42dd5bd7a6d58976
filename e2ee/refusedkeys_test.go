package e2ee_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/liar"
)

// refusals are the ways in which a server of Dendrite's kind may refuse one-time keys.
var refusals = map[string]liar.Refusal{"stores them": liar.RefuseAsDendrite, "forgets them": liar.RefuseInWordsOfDendrite}

// sayWith says something over a new Olm session that begins with a key of the device.
func (st *stage) sayWith(from *puppet, key id.Curve25519, room, text string) (event string) {
	st.t.Helper()
	s, err := from.acc.NewOutboundSession(st.target().curve25519, key)
	if err != nil {
		st.t.Fatal(err)
	}
	from.sessions[st.target().curve25519] = []olm.Session{s}
	said := from.newMegolm(room)
	said.share(st.target())
	return said.say(text)
}

// tend is upkeep for a device that may find out meanwhile that it is to be loaded anew.
func (st *stage) tend() {
	st.t.Helper()
	st.reload()
	_ = st.dev.SyncNow(st.t.Context())
	st.dev.Maintain(st.t.Context())
	st.reload()
}

// Report: Dendrite (v0.15.2) refuses one-time keys of which one has an ID that is taken, and
// stores every one all the same. A proxy that came back from an older backup forgot the
// private halves of what was refused, and so could not read the first message of as many
// peers as there were keys. They are kept, beside those that were claimed before and those
// that come after, until they are used; also where the server did forget them.
func TestRefusedKeysAreKept(t *testing.T) {
	t.Parallel()
	for name, how := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			yesterday := st.save()
			early := bob.claim(st.target())
			st.drain(bob, 0)
			await(t, "the supply is not filled up", func() bool {
				st.upkeep()
				return st.keysLeft() > keysKept/2
			})

			// All of these are lost, and as many new ones get their IDs.
			st.hs.RefuseKeysAs(how)
			claims := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$")), liar.Fail(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"))
			st.putBack(yesterday, true)
			none := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "/sync")), liar.Edit(func(_ *liar.Request, body map[string]any) {
				body["device_one_time_keys_count"] = map[string]any{"signed_curve25519": 0}
			}))
			await(t, "nothing is refused", func() bool {
				st.tend()
				return st.replacing()
			})
			none()
			if how == liar.RefuseAsDendrite {
				st.hearsStrangers(room, keysKept*2/5)
			}
			claims()
			await(t, "the keys are not replaced", func() bool {
				st.tend()
				return !st.replacing()
			})
			if n := st.keysLeft(); n != keysKept {
				t.Errorf("%d keys are on the homeserver, want %d", n, keysKept)
			}
			st.hearsStrangers(room, 10)
			st.awaitText(st.sayWith(bob, early, room, "with a key of yesterday"), "with a key of yesterday")
		})
	}
}

// A homeserver refuses all one-time keys, for hours, as if their IDs were taken, and stores
// them or not. What it took before, and what was claimed, is not driven out by what it
// refuses; and when it takes keys again it gets them.
func TestKeysAreRefusedForLong(t *testing.T) {
	t.Parallel()
	for name, how := range refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			early := bob.claim(st.target())
			st.drain(bob, keysKept/3)
			var refused atomic.Int64
			take := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/upload$")), func(r *liar.Request, next func() liar.Reply) liar.Reply {
				if !strings.Contains(string(r.Body), `"one_time_keys"`) {
					return next()
				}
				refused.Add(1)
				if how == liar.RefuseAsDendrite {
					next()
				}
				return liar.Reply{Status: http.StatusBadRequest, Body: map[string]any{st.alice.UserID: map[string]any{st.alice.DeviceID: map[string]any{
					"error": "algorithm / key ID signed_curve25519:AAAAAA one-time key already exists",
				}}}}
			})
			claims := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$")), liar.Fail(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"))
			await(t, "nothing is refused", func() bool {
				st.tend()
				return st.replacing()
			})
			st.hearsStrangers(room, keysKept/3+5) // more than were there before
			claims()
			await(t, "keys are not refused again and again", func() bool {
				st.later(time.Hour)
				st.tend()
				return refused.Load() > 240/keysKept
			})
			st.awaitText(st.sayWith(bob, early, room, "with a key from before"), "with a key from before")
			take()
			await(t, "the supply is not filled up", func() bool {
				st.later(time.Hour)
				st.tend()
				return st.keysLeft() >= keysKept/2 && !st.replacing()
			})
			st.hearsStrangers(room, 10)
		})
	}
}
