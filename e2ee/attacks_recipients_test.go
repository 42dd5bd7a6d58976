package e2ee_test

import (
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// reads fails unless the device was given what it takes to read a message.
func reads(t *testing.T, p *puppet, h header) {
	t.Helper()
	if key := p.roomKeys()[h.session]; key == nil || uint64(key.FirstKnownIndex()) > h.index {
		t.Errorf("%s %s cannot read message %d of its session", p.UserID, p.DeviceID, h.index)
	}
}

// cannotRead fails when the device was given what it takes to read a message.
func cannotRead(t *testing.T, p *puppet, h header) {
	t.Helper()
	if key := p.roomKeys()[h.session]; key != nil && uint64(key.FirstKnownIndex()) <= h.index {
		t.Errorf("%s %s can read message %d of its session", p.UserID, p.DeviceID, h.index)
	}
}

// wantTold fails unless the device was told one code once for a session.
func wantTold(t *testing.T, p *puppet, session, code string) {
	t.Helper()
	if told := p.withheld()[session]; !slices.Equal(told, []string{code}) {
		t.Errorf("%s %s was told %v, want %s once", p.UserID, p.DeviceID, told, code)
	}
}

// Attack A5, and the trap T18, "a new Megolm session for every message because some device is
// withheld". A device that bob never confirmed is added to his account. It is given no
// key, is told so once for each session, and costs nobody else a new session.
func TestUnsignedDeviceOfAPeer(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	first := st.send(room, "first")
	late := newPuppet(t, st.hs, "bob", "LATESPY")
	st.told()
	for range 5 {
		h := st.send(room, "more")
		if h.session != first.session {
			t.Error("a device that is given nothing made a new session")
		}
		reads(t, bob, h)
		cannotRead(t, spy, h)
		cannotRead(t, late, h)
	}
	wantTold(t, spy, first.session, "m.unverified")
	wantTold(t, late, first.session, "m.unverified")
	for _, p := range []*puppet{spy, late} {
		if len(p.opened) > 0 {
			t.Errorf("%s was sent something over Olm", p.DeviceID)
		}
	}
}

// Attack A6. The homeserver shows alice a device of bob's that it hides from bob: made up
// from nothing, signed with a self-signing key of its own making, carrying the signature
// that belongs to another device, or with the right signature over something else.
func TestDeviceThatItsOwnerCannotSee(t *testing.T) {
	t.Parallel()
	for name, forge := range map[string]func(bob *puppet, own, fake *identity, spy *puppet) map[string]any{
		"unsigned": func(_ *puppet, _, _ *identity, spy *puppet) map[string]any { return spy.deviceKeys() },
		"signed by a key that bob's identity did not sign": func(_ *puppet, _, fake *identity, spy *puppet) map[string]any {
			return fake.signed(spy.deviceKeys(), fake.self)
		},
		"with the signature of another device": func(bob *puppet, own, _ *identity, spy *puppet) map[string]any {
			keys := spy.deviceKeys()
			theirs := own.signed(bob.deviceKeys(), own.self)["signatures"].(map[string]any)[bob.UserID].(map[string]any)
			maps.Copy(keys["signatures"].(map[string]any)[bob.UserID].(map[string]any), theirs)
			return keys
		},
		"signed by the master key itself": func(_ *puppet, own, _ *identity, spy *puppet) map[string]any {
			return own.signed(spy.deviceKeys(), own.master)
		},
		"with a name that is the self-signing key": func(_ *puppet, own, _ *identity, spy *puppet) map[string]any {
			spy.DeviceID = publicKey(own.self)
			return own.signed(spy.deviceKeys(), own.self)
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
			spy := silentPuppet(t, st.hs, st.hs.Login("bob", "SPY"))
			fake := &identity{t: t, hs: st.hs, owner: bob.Session, master: newSigningKey(t), self: newSigningKey(t)}
			forged := forge(bob, own, fake, spy)
			defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/query$")), liar.Edit(func(_ *liar.Request, body map[string]any) {
				if devices, ok := body["device_keys"].(map[string]any)[bob.UserID].(map[string]any); ok {
					devices[spy.DeviceID] = forged
				}
			}))()
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			h := st.send(room, "for bob only")
			reads(t, bob, h)
			cannotRead(t, spy, h)
			for _, r := range st.hs.Requests(liar.Is("PUT", "sendToDevice/m.room.encrypted/")) {
				var body struct {
					Messages map[string]map[string]any `json:"messages"`
				}
				if err := r.JSON(&body); err != nil {
					t.Fatal(err)
				}
				if _, sent := body.Messages[bob.UserID][spy.DeviceID]; sent {
					t.Error("the device was sent something over Olm")
				}
			}
		})
	}
}

// Attack A8. Bob's whole identity is swapped for another, with a device that belongs to
// it. Nothing is sent to the room until alice has acknowledged that very identity.
func TestSwappedIdentityOfAPeer(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	reads(t, bob, st.send(room, "to the bob we know"))

	spy := newPuppet(t, st.hs, "bob", "SPY")
	other := newIdentity(t, st.hs, bob.Session)
	other.confirm(spy)
	st.told()
	before := len(st.hs.Requests(liar.Is("PUT", "/send/")))
	for range 3 {
		_, err := st.trySend(room, "who are you")
		var changed *e2ee.IdentityChangedError
		if !errors.As(err, &changed) || !slices.Equal(changed.Users, []id.UserID{id.UserID(bob.UserID)}) {
			t.Fatalf("send: %v", err)
		}
	}
	if len(st.hs.Requests(liar.Is("PUT", "/send/"))) != before || len(spy.roomKeys()) > 0 {
		t.Error("something was sent to the identity that nobody acknowledged")
	}
	if err := st.dev.Acknowledge(t.Context(), id.UserID(bob.UserID), "not the key"); !errors.Is(err, e2ee.ErrMasterKeyNotCurrent) {
		t.Errorf("acknowledging another key: %v", err)
	}
	if err := st.dev.Acknowledge(t.Context(), id.UserID(bob.UserID), id.Ed25519(publicKey(other.master))); err != nil {
		t.Fatal(err)
	}
	h := st.send(room, "welcome back")
	reads(t, spy, h)
	cannotRead(t, bob, h) // the new identity has not confirmed the old device
}

// Trap T1: "a device that lost its cross-signature, or was deleted, keeps getting keys".
// Recipients are computed for every send, and what such a device has is not used again.
func TestDeviceThatIsNoLongerConfirmed(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(st *stage, second *puppet){
		"signature withdrawn": func(st *stage, second *puppet) {
			st.hs.EditDeviceKeys(second.UserID, second.DeviceID, func(keys map[string]any) {
				keys["signatures"] = second.deviceKeys()["signatures"]
			})
		},
		"deleted": func(st *stage, second *puppet) {
			call(st.t, st.hs, second.Session, http.MethodPost, "logout", map[string]any{}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
			second := newPuppet(t, st.hs, "bob", "SECOND")
			own.confirm(second)
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			first := st.send(room, "both read this")
			reads(t, bob, first)
			reads(t, second, first)
			had := second.roomKeys()
			lose(st, second)
			st.told()
			h := st.send(room, "only one reads this")
			reads(t, bob, h)
			if had[h.session] != nil {
				t.Error("the session that the device has is used further")
			}
			if name != "deleted" {
				cannotRead(t, second, h)
				wantTold(t, second, h.session, "m.unverified")
			}
		})
	}
}

// Trap T7: "a device ID that is used again keeps the old signing key". Bob logs out and logs
// in with the same device ID: that is a new device, and gets keys once it is confirmed.
func TestDeviceIDUsedAgain(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	second := newPuppet(t, st.hs, "bob", "SECOND")
	own.confirm(second)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "to the first")
	call(t, st.hs, second.Session, http.MethodPost, "logout", map[string]any{}, nil)
	st.told()
	st.send(room, "to nobody of that name")
	again := newPuppet(t, st.hs, "bob", "SECOND")
	st.told()
	cannotRead(t, again, st.send(room, "not confirmed yet"))
	own.confirm(again)
	st.told()
	reads(t, again, st.send(room, "to the second"))
	reads(t, bob, st.send(room, "to both"))
}

// Attack A16. The Ed25519 or Curve25519 key of a living device changes: the homeserver
// has put its own in place, well signed by themselves. The keys that are known stay, and
// what is sent goes to them.
func TestKeysOfALivingDeviceChange(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"both keys", "curve25519"} {
		t.Run(which, func(t *testing.T) {
			st := newStage(t, nil)
			bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			reads(t, bob, st.send(room, "before"))
			spy := silentPuppet(t, st.hs, bob.Session)
			if which == "curve25519" {
				spy.acc.IdKeys.Ed25519, spy.ed25519 = bob.acc.IdKeys.Ed25519, bob.ed25519
			}
			st.hs.EditDeviceKeys(bob.UserID, bob.DeviceID, func(keys map[string]any) {
				maps.Copy(keys, own.signed(spy.deviceKeys(), own.self))
			})
			st.told()
			st.later(8 * 24 * time.Hour) // a new session must be made
			h := st.send(room, "after")
			for _, r := range st.hs.Requests(liar.Is("PUT", "sendToDevice/m.room.encrypted/")) {
				if containsKey(t, r, spy.curve25519.String()) {
					t.Error("something was encrypted for the key that was put in place")
				}
			}
			reads(t, bob, h)
		})
	}
}

// containsKey reports whether an Olm message in a request is encrypted for a key.
func containsKey(t *testing.T, r *liar.Request, key string) bool {
	t.Helper()
	var body any
	if err := r.JSON(&body); err != nil {
		t.Fatal(err)
	}
	return holds(body, key)
}

// Attack A16. Two devices of bob's, both confirmed, claim one Curve25519 key, so that
// what is encrypted for one can be read by the other. Neither is given anything.
func TestTwoDevicesWithOneKey(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	twin := silentPuppet(t, st.hs, st.hs.Login("bob", "TWIN"))
	twin.acc.IdKeys.Curve25519, twin.curve25519 = bob.acc.IdKeys.Curve25519, bob.curve25519
	twin.upload(map[string]any{"device_keys": twin.deviceKeys(), "one_time_keys": twin.oneTimeKeys(5)})
	own.confirm(twin)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	h := st.send(room, "for whom")
	cannotRead(t, bob, h)
	cannotRead(t, twin, h)
}

// Attack A17. The homeserver hands out one-time keys that are not bob's: without a
// signature, signed by another device, changed after signing, of another algorithm, and
// keys with which the secret would be known to everybody. None is used; bob's device is
// told that there is no channel, and gets the key when it has proper ones.
func TestBadOneTimeKeys(t *testing.T) {
	t.Parallel()
	zero, one := make([]byte, 32), make([]byte, 32)
	one[0] = 1
	mallory := func(t *testing.T, st *stage) *puppet { return newPuppet(t, st.hs, "mallory", "MALLORY") }
	for name, forge := range map[string]func(t *testing.T, st *stage, bob *puppet) (string, map[string]any){
		"unsigned": func(t *testing.T, st *stage, _ *puppet) (string, map[string]any) {
			return "signed_curve25519:AAAAAA", map[string]any{"key": mallory(t, st).curve25519}
		},
		"signed by another device": func(t *testing.T, st *stage, bob *puppet) (string, map[string]any) {
			m := mallory(t, st)
			m.UserID, m.DeviceID = bob.UserID, bob.DeviceID
			return "signed_curve25519:AAAAAA", m.sign(map[string]any{"key": m.curve25519})
		},
		"changed after signing": func(t *testing.T, st *stage, bob *puppet) (string, map[string]any) {
			key := bob.sign(map[string]any{"key": bob.curve25519})
			key["key"] = mallory(t, st).curve25519
			return "signed_curve25519:AAAAAA", key
		},
		"another algorithm": func(_ *testing.T, _ *stage, bob *puppet) (string, map[string]any) {
			return "curve25519:AAAAAA", bob.sign(map[string]any{"key": bob.curve25519})
		},
		"all zero": func(_ *testing.T, _ *stage, bob *puppet) (string, map[string]any) {
			return "signed_curve25519:AAAAAA", bob.sign(map[string]any{"key": rawBase64(zero)})
		},
		"small order": func(_ *testing.T, _ *stage, bob *puppet) (string, map[string]any) {
			return "signed_curve25519:AAAAAA", bob.sign(map[string]any{"key": rawBase64(one)})
		},
		"not a key": func(_ *testing.T, _ *stage, bob *puppet) (string, map[string]any) {
			return "signed_curve25519:AAAAAA", bob.sign(map[string]any{"key": "AAAA"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			keyID, key := forge(t, st, bob)
			honest := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$")), func(*liar.Request, func() liar.Reply) liar.Reply {
				return liar.OK(map[string]any{"one_time_keys": map[string]any{bob.UserID: map[string]any{bob.DeviceID: map[string]any{keyID: key}}}})
			})
			h := st.send(room, "nobody else may read this")
			cannotRead(t, bob, h)
			if len(st.hs.Requests(liar.Is("PUT", "sendToDevice/m.room.encrypted/"))) > 0 {
				t.Error("something was encrypted with the forged key")
			}
			wantTold(t, bob, "", "m.no_olm")
			honest()
			st.later(time.Minute)
			after := st.send(room, "now you can")
			reads(t, bob, after)
			if after.session != h.session {
				t.Error("a device without one-time keys made a new session")
			}
		})
	}
}

func rawBase64(raw []byte) string { return base64.RawStdEncoding.EncodeToString(raw) }

// Trap T2: "a device without one-time keys is skipped silently for the whole session". It is
// told once, asked for again after a pause that grows, and given the session's key from
// the message on that is sent next.
func TestDeviceWithoutOneTimeKeys(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob := silentPuppet(t, st.hs, st.hs.Login("bob", "BOB"))
	bob.upload(map[string]any{"device_keys": bob.deviceKeys()})
	newIdentity(t, st.hs, bob.Session).confirm(bob)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.sync() // that bob's devices changed is known: nothing is decided twice
	settle(t, st.dev)
	first := st.send(room, "one")
	for range 5 {
		st.send(room, "two to six, at once")
	}
	if n := len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$")))); n != 1 {
		t.Errorf("%d claims for one device without keys", n)
	}
	wantTold(t, bob, "", "m.no_olm")
	bob.upload(map[string]any{"one_time_keys": bob.oneTimeKeys(1)})
	st.later(time.Minute)
	after := st.send(room, "seven")
	reads(t, bob, after)
	cannotRead(t, bob, first)
	if after.session != first.session {
		t.Error("the device made a new session")
	}
}

// Trap T3: "a failed /keys/query forgotten". Bob's new device comes while the homeserver
// cannot answer. It gets the key with the first message after it can again, and what is
// known meanwhile is used: bob's old device is not unsigned because nobody answers.
func TestFailedKeyQuery(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]liar.Hook{
		"error":   liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"),
		"cut":     liar.Cut,
		"no JSON": func(*liar.Request, func() liar.Reply) liar.Reply { return liar.OK([]byte("<html>")) },
		"failures": func(*liar.Request, func() liar.Reply) liar.Reply {
			return liar.OK(map[string]any{"device_keys": map[string]any{}, "failures": map[string]any{liar.ServerName: map[string]any{}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			st.send(room, "before")
			back := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/query$")), fail)
			second := newPuppet(t, st.hs, "bob", "SECOND")
			own.confirm(second)
			st.told()
			reads(t, bob, st.send(room, "while nobody answers"))
			back()
			st.later(10 * time.Minute)
			h := st.send(room, "after")
			reads(t, bob, h)
			reads(t, second, h)
		})
	}
}

// Trap T4: "two overlapping queries where the older answer wins". The answer of a query that
// was made before bob withdrew a device's signature arrives after he did.
func TestOverlappingKeyQueries(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	second := newPuppet(t, st.hs, "bob", "SECOND")
	own.confirm(second)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	gate := liar.NewGate()
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/query$")), liar.First(1, gate.After))()
	sent := make(chan header, 1)
	go func() {
		h, err := st.trySend(room, "while the question is on its way")
		if err != nil {
			t.Error(err)
		}
		sent <- h
	}()
	<-gate.Arrived()
	st.hs.EditDeviceKeys(bob.UserID, second.DeviceID, func(keys map[string]any) { keys["signatures"] = second.deviceKeys()["signatures"] })
	st.told()
	gate.Open()
	h := <-sent
	reads(t, bob, h)
	cannotRead(t, second, h)
	cannotRead(t, second, st.send(room, "and after"))
}

// Trap T6: "a gap after restart never closed". What changed while the engine did not run
// counts for the first message it sends.
func TestChangesWhileNotRunning(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	lost := newPuppet(t, st.hs, "bob", "LOST")
	own.confirm(lost)
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	before := st.send(room, "before")
	st.stop()
	st.hs.EditDeviceKeys(bob.UserID, lost.DeviceID, func(keys map[string]any) { keys["signatures"] = lost.deviceKeys()["signatures"] })
	fresh := newPuppet(t, st.hs, "bob", "FRESH")
	own.confirm(fresh)
	st.hs.Inject(room, memberEvent(carol.UserID, "leave"))
	st.start()
	st.dev = st.device(st.alice)
	h := st.send(room, "after")
	if h.session == before.session {
		t.Error("those who left can read on")
	}
	reads(t, bob, h)
	reads(t, fresh, h)
	cannotRead(t, lost, h)
	cannotRead(t, carol, h)
}
