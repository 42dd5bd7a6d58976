package e2ee_test

import (
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// The user resets the identity with another client (requirements 1.11, 12.12). The proxied
// device alerts at once, drops the keys that no longer fit and refuses to send, whether or
// not it was restarted meanwhile; recovering with the new key heals it. Contacts who were
// verified are reported as what they are: they changed nothing.
func TestOwnIdentityChangedElsewhere(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		name := "running"
		if restarted {
			name = "restarted"
		}
		t.Run(name, func(t *testing.T) {
			hs := liar.New(t)
			alice := newPerson(t, hs, "alice", "FIRST")
			bob := newPerson(t, hs, "bob", "BOBS")
			room := alice.newRoom(bob)
			alice.send(room, "before")
			if err := alice.dev.Verify(t.Context(), id.UserID(bob.UserID)); err != nil {
				t.Fatal(err)
			}
			other := recovered(t, hs, alice, "OTHER", false)
			if restarted {
				alice.rig.stop()
			}
			newKey, err := other.dev.Reset(t.Context(), e2ee.UserAuth{Password: secret.NewString("password of alice")})
			if err != nil {
				t.Fatal(err)
			}
			if restarted {
				alice.rig.start()
				alice.dev = alice.rig.device(alice.Session)
			}
			await(t, "no alert", func() bool { return warningCodes(t, alice.dev)["own_identity_changed"].ID != "" })
			await(t, "the keys are not dropped", func() bool {
				secrets, err := alice.dev.Secrets(t.Context())
				return err == nil && secrets["m.cross_signing.master"] == "" && secrets["m.cross_signing.self_signing"] == ""
			})
			codes := warningCodes(t, alice.dev)
			lost := codes["verification_lost"]
			if lost.UserID != id.UserID(bob.UserID) || !strings.Contains(lost.Message, "has not changed") || len(codes) < 2 {
				t.Errorf("warnings: %+v", codes)
			}
			await(t, "the rooms are not named", func() bool {
				rooms := warningCodes(t, alice.dev)["verification_lost"].RoomIDs
				return len(rooms) == 1 && rooms[0] == id.RoomID(room)
			})
			if s := status(t, alice.dev); !problems(s)["own_identity_changed"] || s.Identity.Ours || s.Identity.DeviceSigned {
				t.Errorf("status: %+v", s)
			}
			_, err = alice.trySend(room, "during")
			wantErr(t, "a send before the recovery", err, e2ee.ErrDeviceNotSigned)
			if _, err := alice.dev.RecoveryKey(t.Context()); err == nil {
				t.Error("the recovery key of the old identity is still given out")
			}
			if err := alice.dev.Recover(t.Context(), e2ee.Recovery{Key: newKey}); err != nil {
				t.Fatal(err)
			}
			ready(t, alice.dev)
			codes = warningCodes(t, alice.dev)
			if codes["own_identity_changed"].ID != "" || codes["device_not_signed"].ID != "" {
				t.Errorf("warnings after the recovery: %+v", codes)
			}
			// Bob was verified by an identity that is gone: its user decides about him.
			var changed *e2ee.IdentityChangedError
			if _, err := alice.trySend(room, "held up"); !errorAs(err, &changed) || len(changed.Lost) != 1 {
				t.Errorf("a send to a contact whose verification was lost: %v", err)
			}
			if err := alice.dev.WithdrawVerification(t.Context(), id.UserID(bob.UserID)); err != nil {
				t.Fatal(err)
			}
			alice.send(room, "after")
			if codes := warningCodes(t, alice.dev); len(codes) != 0 {
				t.Errorf("warnings at the end: %+v", codes)
			}
		})
	}
}

// Attack A9: the homeserver swaps the account's own identity for one of its own making,
// which signs the proxied device too. To the device all looks signed. It freezes, also
// where unsigned devices may send.
func TestHomeserverSwapsOwnIdentity(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		swapOwnIdentity(t, allowed)
	}
}

func swapOwnIdentity(t *testing.T, unsignedMaySend bool) {
	t.Helper()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	alice.rig.opts = func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings { return e2ee.AccountSettings{AllowUnsigned: unsignedMaySend} }
	}
	alice.restart()
	bob := newPerson(t, hs, "bob", "BOBS")
	room := alice.newRoom(bob)
	alice.send(room, "before")
	forge := newForgery(t, alice.UserID)
	hs.Intercept(liar.Of(alice.UserID, liar.Is("POST", "keys/query")), liar.Edit(func(_ *liar.Request, body map[string]any) {
		forge.show(t, body, alice.UserID, "FIRST")
	}))
	hs.ChangeDevices(alice.UserID)
	await(t, "no alert", func() bool { return warningCodes(t, alice.dev)["own_identity_changed"].ID != "" })
	await(t, "sending goes on", func() bool {
		_, err := alice.trySend(room, "during")
		return errorIs(err, e2ee.ErrDeviceNotSigned)
	})
	if secrets, err := alice.dev.Secrets(t.Context()); err != nil || secrets["m.cross_signing.master"] != "" {
		t.Errorf("the old private keys are still here, %v", err)
	}
	if s := status(t, alice.dev); s.Identity.Ours || s.Identity.DeviceSigned || !problems(s)["own_identity_changed"] {
		t.Errorf("status: %+v", s.Identity)
	}
}
