package e2ee_test

import (
	"bytes"
	"crypto/ed25519"
	"net/http"
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
	t.Parallel()
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
			await(t, "the warnings stay after the recovery", func() bool {
				codes := warningCodes(t, alice.dev)
				return codes["own_identity_changed"].ID == "" && codes["device_not_signed"].ID == ""
			})
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

// The user's other client resets the identity and keeps the secret storage, whose key this
// proxy holds: the seeds come into it, then the identity is published. The device recovers
// by itself, and its user is told of the change all the same, until they have dismissed it
// (requirement 1.11).
func TestOwnIdentityChangedAndRecoveredAlone(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	room := alice.newRoom(newPerson(t, hs, "bob", "BOBS"))
	alice.send(room, "before")
	other := hs.Login("alice", "OTHER")
	storage := storageOf(t, hs, other, recoveryKey(t, alice.dev))
	next := &identity{t: t, hs: hs, owner: other, master: newSigningKey(t), self: newSigningKey(t)}
	user := newSigningKey(t)
	// The old seeds go away before the new identity is there: the only copy of the new ones
	// must not be replaced by the old.
	for name, key := range map[string]ed25519.PrivateKey{
		"m.cross_signing.master": next.master, "m.cross_signing.self_signing": next.self, "m.cross_signing.user_signing": user,
	} {
		putSecretInto(t, hs, other, storage, name, key.Seed())
	}
	looksAgain(t, hs, other)
	await(t, "it does not tell of the other identity", func() bool { return problems(status(t, alice.dev))["secret_storage_incomplete"] })
	if status(t, alice.dev).SecretStorage.Complete {
		t.Error("secret storage counts as complete")
	}
	call(t, hs, other, http.MethodPost, "keys/device_signing/upload", map[string]any{
		"master_key":       next.key("master", next.master),
		"self_signing_key": next.signed(next.key("self_signing", next.self), next.master),
		"user_signing_key": next.signed(next.key("user_signing", user), next.master),
		"auth":             map[string]any{"type": "m.login.password", "session": "any", "password": "password of alice"},
	}, nil)
	await(t, "it does not recover", func() bool {
		s := status(t, alice.dev)
		return inOrder(s) && s.Identity.MasterKey == id.Ed25519(publicKey(next.master))
	})
	alice.send(room, "after")
	await(t, "the other warnings stay", func() bool { return len(warningCodes(t, alice.dev)) == 1 })
	if told := warningCodes(t, alice.dev); !strings.Contains(told["own_identity_changed"].Message, "was confirmed again") {
		t.Fatalf("warnings: %+v", told)
	}
	alice.restart()
	ready(t, alice.dev)
	if err := alice.dev.DismissWarning(t.Context(), warningCodes(t, alice.dev)["own_identity_changed"].ID); err != nil {
		t.Fatal(err)
	}
	alice.dev.Maintain(t.Context())
	if told := warningCodes(t, alice.dev); len(told) != 0 {
		t.Errorf("after dismissing: %+v", told)
	}
}

// The same in the other order: the identity is published, and its seeds come into secret
// storage when this device has already tried to recover in vain.
func TestOwnIdentityChangedAndSeedsComeLater(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	room := alice.newRoom(newPerson(t, hs, "bob", "BOBS"))
	alice.send(room, "before")
	other := hs.Login("alice", "OTHER")
	storage := storageOf(t, hs, other, recoveryKey(t, alice.dev))
	next := &identity{t: t, hs: hs, owner: other, master: newSigningKey(t), self: newSigningKey(t)}
	user := newSigningKey(t)
	call(t, hs, other, http.MethodPost, "keys/device_signing/upload", map[string]any{
		"master_key":       next.key("master", next.master),
		"self_signing_key": next.signed(next.key("self_signing", next.self), next.master),
		"user_signing_key": next.signed(next.key("user_signing", user), next.master),
		"auth":             map[string]any{"type": "m.login.password", "session": "any", "password": "password of alice"},
	}, nil)
	await(t, "it does not notice", func() bool { return problems(status(t, alice.dev))["own_identity_changed"] })
	alice.dev.Maintain(t.Context()) // tries to recover, if that has not happened yet
	for name, key := range map[string]ed25519.PrivateKey{
		"m.cross_signing.master": next.master, "m.cross_signing.self_signing": next.self, "m.cross_signing.user_signing": user,
	} {
		putSecretInto(t, hs, other, storage, name, key.Seed())
	}
	await(t, "it does not recover", func() bool {
		s := status(t, alice.dev)
		return inOrder(s) && s.Identity.MasterKey == id.Ed25519(publicKey(next.master))
	})
	alice.send(room, "after")
}

// looksAgain has the user's devices look at secret storage again.
func looksAgain(t *testing.T, hs *liar.Server, s liar.Session) {
	t.Helper()
	setAccountData(t, hs, s, "m.secret_storage.default_key", map[string]any{"key": defaultKey(t, hs, s)})
}

// Another client puts seeds into secret storage and then fails to publish them. They stay
// until somebody says that they are to be replaced: POST bootstrap does.
func TestSeedsOfAnotherClientAreKept(t *testing.T) {
	t.Parallel()
	const master = "m.cross_signing.master"
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	other := hs.Login("alice", "OTHER")
	storage := storageOf(t, hs, other, recoveryKey(t, alice.dev))
	seed := newSigningKey(t).Seed()
	putSecretInto(t, hs, other, storage, master, seed)
	looksAgain(t, hs, other)
	await(t, "no warning", func() bool { return warningCodes(t, alice.dev)["secret_storage_missing"].ID != "" })
	if kept := inStorage(t, hs, other, storage, master); !bytes.Equal(kept, seed) {
		t.Error("the seed of another client was replaced")
	}
	if _, err := alice.dev.Bootstrap(t.Context(), e2ee.UserAuth{}); err != nil {
		t.Fatal(err)
	}
	if now := inStorage(t, hs, other, storage, master); bytes.Equal(now, seed) {
		t.Error("the bootstrap did not complete secret storage")
	}
	ready(t, alice.dev)
	await(t, "the warning stays", func() bool { return len(warningCodes(t, alice.dev)) == 0 })
}

// Another client deletes the secret storage, as clients do in the middle of a reset. It is
// not made again between their steps: they would find a default key that they cannot open.
// The user is told, and POST bootstrap makes it again.
func TestDeletedStorageIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	other := hs.Login("alice", "OTHER")
	was := defaultKey(t, hs, other)
	for _, name := range append([]string{"m.secret_storage.key." + was, "m.secret_storage.default_key"}, secretNames...) {
		setAccountData(t, hs, other, name, map[string]any{})
	}
	await(t, "no warning", func() bool { return warningCodes(t, alice.dev)["secret_storage_missing"].ID != "" })
	alice.restart()
	await(t, "status does not say so", func() bool { return problems(status(t, alice.dev))["secret_storage_missing"] })
	settle(t, alice.dev)
	if now := defaultKey(t, hs, other); now != "" {
		t.Fatalf("the default key is %s again", now)
	}
	if _, err := alice.dev.Bootstrap(t.Context(), e2ee.UserAuth{}); err != nil {
		t.Fatal(err)
	}
	ready(t, alice.dev)
	await(t, "the warning stays", func() bool { return len(warningCodes(t, alice.dev)) == 0 })
}

// Attack A9: the homeserver swaps the account's own identity for one of its own making,
// which signs the proxied device too. To the device all looks signed. It freezes, also
// where unsigned devices may send.
func TestHomeserverSwapsOwnIdentity(t *testing.T) {
	t.Parallel()
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
	await(t, "the old private keys are still here", func() bool {
		secrets, err := alice.dev.Secrets(t.Context())
		return err == nil && secrets["m.cross_signing.master"] == ""
	})
	if s := status(t, alice.dev); s.Identity.Ours || s.Identity.DeviceSigned || !problems(s)["own_identity_changed"] {
		t.Errorf("status: %+v", s.Identity)
	}
}
