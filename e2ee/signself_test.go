package e2ee_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// Attack: the homeserver shows keys of its own for the proxied device, properly signed by
// themselves, and waits for the account's identity to sign them: it would have a confirmed
// device. They are never signed, and nothing is sent.
func TestReplacedDeviceKeysAreNotSigned(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	first := newPerson(t, hs, "alice", "FIRST")
	key := recoveryKey(t, first.dev)
	fake, err := account.NewAccount()
	if err != nil {
		t.Fatal(err)
	}
	ed, curve, err := fake.IdentityKeys()
	if err != nil {
		t.Fatal(err)
	}
	s := hs.Login("alice", "SECOND")
	body := map[string]any{
		"user_id": s.UserID, "device_id": "SECOND",
		"algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
		"keys":       map[string]string{"ed25519:SECOND": ed.String(), "curve25519:SECOND": curve.String()},
	}
	canonical, err := canonicaljson.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := fake.Sign(canonical)
	if err != nil {
		t.Fatal(err)
	}
	body["signatures"] = map[string]any{s.UserID: map[string]any{"ed25519:SECOND": string(signed)}}
	uploaded := false
	hs.Intercept(liar.Of(s.UserID, liar.Is(http.MethodPost, "keys/upload")), func(_ *liar.Request, next func() liar.Reply) liar.Reply {
		uploaded = true
		return next()
	})
	hs.Intercept(liar.Of(s.UserID, liar.Is(http.MethodPost, "keys/query")), liar.Edit(func(r *liar.Request, answer map[string]any) {
		if r.DeviceID == "SECOND" && uploaded {
			answer["device_keys"].(map[string]any)[s.UserID].(map[string]any)["SECOND"] = body
		}
	}))
	r := newRig(t, hs, nil)
	d := r.device(s)
	settle(t, d)
	if err := d.Recover(t.Context(), e2ee.Recovery{Key: key}); !errorIs(err, e2ee.ErrKeysReplaced) {
		t.Errorf("the recovery: %v", err)
	}
	d.Maintain(t.Context())
	for _, up := range hs.Requests(liar.Of(s.UserID, liar.Is(http.MethodPost, "signatures/upload"))) {
		var sent map[string]map[string]json.RawMessage
		if err := up.JSON(&sent); err != nil {
			t.Fatal(err)
		}
		if sent[s.UserID]["SECOND"] != nil {
			t.Fatal("the homeserver's keys were signed")
		}
	}
	if !problems(status(t, d))["keys_replaced"] {
		t.Errorf("status: %+v", status(t, d).Problems)
	}
}

// A device that is not signed may not send (requirement 1.7), unless its account's
// settings let it; then it warns. Reading works either way.
func TestUnsignedDeviceSends(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice, bob := newPerson(t, hs, "alice", "FIRST"), newPerson(t, hs, "bob", "BOBS")
	room := alice.newRoom(bob)
	var allowed atomic.Bool
	p := &person{t: t, hs: hs, Session: hs.Login("alice", "SECOND")}
	p.rig = newRig(t, hs, func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings { return e2ee.AccountSettings{AllowUnsigned: allowed.Load()} }
	})
	p.dev = p.rig.device(p.Session)
	settle(t, p.dev)
	if _, err := p.dev.RoomEncryption(t.Context(), id.RoomID(room)); err != nil {
		t.Fatal(err)
	}
	_, err := p.trySend(room, "refused")
	wantErr(t, "a send of an unsigned device", err, e2ee.ErrDeviceNotSigned)
	path := "rooms/" + url.PathEscape(room) + "/send/m.room.encrypted"
	if sent := hs.Requests(liar.Of(p.UserID, liar.Is(http.MethodPut, path))); len(sent) != 0 {
		t.Errorf("%d events went out", len(sent))
	}
	// Bob sends to unsigned devices too, by an exception.
	yes := true
	if _, err := bob.dev.User(t.Context(), id.UserID(p.UserID)); err != nil {
		t.Fatal(err)
	}
	if err := bob.dev.SetOverride(t.Context(), id.UserID(p.UserID), "SECOND", &yes); err != nil {
		t.Fatal(err)
	}
	bob.send(room, "to read")
	if got := p.awaitRead(room, "to read"); got.Unsigned.Trust.Color != "none" {
		t.Errorf("it reads %+v", got.Unsigned.Trust)
	}
	allowed.Store(true)
	p.send(room, "allowed")
	await(t, "it does not warn", func() bool { return warningCodes(t, p.dev)["device_not_signed"].ID != "" })
	allowed.Store(false)
	if err := p.dev.Recover(t.Context(), e2ee.Recovery{Key: recoveryKey(t, alice.dev)}); err != nil {
		t.Fatal(err)
	}
	p.send(room, "confirmed")
}

// A homeserver that answers 200 and keeps no signature is noticed: the signature is read
// back (requirement 12.8).
func TestSignatureIsReadBack(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	first := newPerson(t, hs, "alice", "FIRST")
	key := recoveryKey(t, first.dev)
	s := hs.Login("alice", "SECOND")
	d := newRig(t, hs, nil).device(s)
	settle(t, d)
	for name, reply := range map[string]liar.Reply{
		"nothing is kept": liar.OK(map[string]any{}),
		"it is refused": liar.OK(map[string]any{"failures": map[string]any{
			s.UserID: map[string]any{"SECOND": map[string]any{"errcode": "M_INVALID_SIGNATURE"}},
		}}),
	} {
		undo := hs.Intercept(liar.Is(http.MethodPost, "signatures/upload"), func(*liar.Request, func() liar.Reply) liar.Reply { return reply })
		if err := d.Recover(t.Context(), e2ee.Recovery{Key: key}); err == nil || status(t, d).Identity.DeviceSigned {
			t.Errorf("%s: %v", name, err)
		}
		undo()
	}
	if err := d.Recover(t.Context(), e2ee.Recovery{Key: key}); err != nil {
		t.Fatal(err)
	}
	ready(t, d)
}

// Nothing is made when the homeserver does not say how the own keys stand: it might
// replace something.
func TestNothingIsMadeBlindly(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	first := newPerson(t, hs, "alice", "FIRST")
	identity := first.master()
	s := hs.Login("alice", "SECOND")
	r := newRig(t, hs, nil)
	d, err := r.eng.Device(t.Context(), id.UserID(s.UserID), "SECOND", secret.NewString(s.Token))
	if err != nil {
		t.Fatal(err)
	}
	undo := hs.Intercept(liar.Is(http.MethodPost, "keys/query"), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))
	defer undo()
	d.PublishWithin(0)
	d.Maintain(t.Context())
	if _, err := d.Bootstrap(t.Context(), e2ee.UserAuth{Password: secret.NewString("password of alice")}); err == nil {
		t.Error("a bootstrap that could not look went through")
	}
	if _, err := d.Reset(t.Context(), e2ee.UserAuth{Password: secret.NewString("password of alice")}); err == nil {
		t.Error("a reset that could not look went through")
	}
	if first.master() != identity {
		t.Error("the identity was replaced")
	}
}
