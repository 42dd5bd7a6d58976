package e2ee_test

import (
	"errors"
	"net/http"
	"testing"

	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// Attack T19 ("removed identities"). The homeserver shows no identity of bob's any more, then
// parts of one, and adds a device that nobody signed. His identity is still the one that
// was accepted: his confirmed device goes on to get keys, the other gets none, and a new
// identity is a change like any other.
func TestIdentityTakenAway(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	before := st.send(room, "while it is shown")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	for _, gone := range [][]string{{"master_keys", "self_signing_keys"}, {"self_signing_keys"}, {"master_keys"}} {
		shown := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/query$")), liar.Edit(func(_ *liar.Request, body map[string]any) {
			for _, name := range gone {
				if keys, ok := body[name].(map[string]any); ok {
					delete(keys, bob.UserID)
				}
			}
		}))
		st.hs.ChangeDevices(bob.UserID)
		st.told()
		for range 2 {
			h := st.send(room, "while it is not")
			reads(t, bob, h)
			cannotRead(t, spy, h)
			if h.session != before.session {
				t.Errorf("without %v there is another session", gone)
			}
			st.again()
		}
		shown()
	}
	wantTold(t, spy, before.session, "m.unverified")
	newIdentity(t, st.hs, bob.Session).confirm(spy)
	st.told()
	var changed *e2ee.IdentityChangedError
	if _, err := st.trySend(room, "to the new one"); !errors.As(err, &changed) {
		t.Errorf("after another identity came: %v", err)
	}
	if len(spy.roomKeys()) > 0 {
		t.Error("the device of the new identity was given a key")
	}
}

// Attack T20 ("old self-signing keys"). Bob has replaced his self-signing key because somebody
// had got hold of it. What it signed and the new one did not is not confirmed: it gets
// nothing, the session that it has is left, and what it sends is held back. The homeserver
// brings the old key back: that changes nothing.
func TestFormerSelfSigningKey(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	left := newPuppet(t, st.hs, "bob", "LEFT")
	own.confirm(left)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	first := st.send(room, "to both")
	reads(t, bob, first)
	reads(t, left, first)

	next := &identity{t: t, hs: st.hs, owner: bob.Session, master: own.master, self: newSigningKey(t)}
	publish := func(with *identity) {
		body := map[string]any{
			"master_key": with.key("master", with.master), "self_signing_key": with.signed(with.key("self_signing", with.self), with.master),
			"auth": map[string]any{"type": "m.login.password", "session": "any", "password": "password of bob"},
		}
		if code := call(t, st.hs, bob.Session, http.MethodPost, "keys/device_signing/upload", body, nil); code != http.StatusOK {
			t.Fatalf("device_signing/upload answers %d", code)
		}
	}
	publish(next)
	next.confirm(bob)
	evil := newPuppet(t, st.hs, "bob", "EVIL")
	own.confirm(evil)
	for _, when := range []string{"the new key is shown", "the old one is back"} {
		st.told()
		h := st.send(room, when)
		if h.session == first.session {
			t.Errorf("%s: the session is used further that the device has", when)
		}
		for _, p := range []*puppet{left, evil} {
			cannotRead(t, p, h)
			wantTold(t, p, h.session, "m.unverified")
			said := p.newMegolm(room)
			said.share(st.target())
			text := p.DeviceID + ", when " + when
			if code := st.wantHidden(said.say(text), text); code != "UnsignedDevice" {
				t.Errorf("%s, %s: %s", when, p.DeviceID, code)
			}
		}
		if when == "the new key is shown" {
			reads(t, bob, h)
			publish(own)
		}
	}
}

// Trap T9: "sender_device_keys sent from a cache made before the device was signed". Alice's
// device sends its keys with the signature that it got after they were first published,
// so that others need not ask anybody whether it is confirmed.
func TestSenderDeviceKeysAreSigned(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	st.known(bob)
	self := id.Ed25519(st.hs.CrossSigningKey(st.alice.UserID, "self_signing"))
	for _, ev := range bob.opened {
		if ok, err := signatures.VerifySignatureJSON(ev.DeviceKeys, id.UserID(st.alice.UserID), self.String(), self); err != nil || !ok {
			t.Errorf("%s came with device keys that alice's identity has not signed: %v", ev.Type, err)
		}
	}
	if len(bob.opened) == 0 {
		t.Error("nothing came")
	}
}

// The other side of it: the homeserver hides bob's device from alice. The keys that came
// in its own message, signed by his identity, say that it is confirmed, after a restart
// too; keys without that signature do not.
func TestHiddenDeviceIsKnownByItsMessage(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.known(bob)
	hidden := newPuppet(t, st.hs, "bob", "HIDDEN")
	own.confirm(hidden)
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/query$")), liar.Edit(func(_ *liar.Request, body map[string]any) {
		if devices, ok := body["device_keys"].(map[string]any)[bob.UserID].(map[string]any); ok {
			delete(devices, "HIDDEN")
		}
	}))()
	st.hs.ChangeDevices(bob.UserID)
	signed, bare := hidden.newMegolm(room), hidden.newMegolm(room)
	plain := hidden.envelope(st.target(), "m.room_key", roomKey(room, signed.ID().String(), signed.export()))
	plain["sender_device_keys"] = own.signed(hidden.deviceKeys(), own.self)
	hidden.sendOlm(st.target(), plain)
	event := signed.say("with its papers")
	st.awaitText(event, "with its papers")
	if trust := trustOf(st.shown[event]); trust["color"] != "none" {
		t.Errorf("shown with %v", trust)
	}
	st.again()
	st.awaitText(signed.say("after a restart"), "after a restart")
	bare.share(st.target())
	if code := st.wantHidden(bare.say("without"), "without"); code != "UnsignedDevice" {
		t.Errorf("a device that shows no signature: %s", code)
	}
}
