package e2ee_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/crypto/utils"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// storageOf opens the secret storage that a recovery key belongs to, to put things into it.
func storageOf(t *testing.T, hs *liar.Server, s liar.Session, recoveryKey secret.String) *ssss.Key {
	t.Helper()
	return &ssss.Key{ID: defaultKey(t, hs, s), Key: utils.DecodeBase58RecoveryKey(recoveryKey.Reveal())}
}

// putSecretInto replaces a secret in secret storage by another value.
func putSecretInto(t *testing.T, hs *liar.Server, s liar.Session, storage *ssss.Key, name string, value []byte) {
	t.Helper()
	setAccountData(t, hs, s, name, map[string]any{"encrypted": map[string]any{storage.ID: storage.Encrypt(name, value)}})
}

// changesBy counts what a device has changed on the homeserver.
func changesBy(hs *liar.Server, s liar.Session) int {
	n := 0
	for _, r := range hs.Requests(liar.Of(s.UserID, liar.Is("", "(account_data|signatures/upload|device_signing|room_keys)"))) {
		if r.DeviceID == s.DeviceID && r.Method != http.MethodGet {
			n++
		}
	}
	return n
}

// Each reason for which a recovery fails has an error of its own, and whatever it is,
// nothing was changed: not here, and not on the homeserver (requirement 14.7).
func TestRecoverSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	const master = "m.cross_signing.master"
	description := func(change func(map[string]any)) func(*testing.T, *liar.Server, liar.Session, *ssss.Key) {
		return func(t *testing.T, hs *liar.Server, s liar.Session, storage *ssss.Key) {
			t.Helper()
			name := "m.secret_storage.key." + storage.ID
			var content map[string]any
			if err := json.Unmarshal(accountData(t, hs, s, name), &content); err != nil {
				t.Fatal(err)
			}
			change(content)
			setAccountData(t, hs, s, name, content)
		}
	}
	passphrase := func(iterations int, bits int) map[string]any {
		return map[string]any{"algorithm": "m.pbkdf2", "salt": "salt", "iterations": iterations, "bits": bits}
	}
	for name, tt := range map[string]struct {
		take   func(t *testing.T, hs *liar.Server, s liar.Session, storage *ssss.Key)
		phrase bool
		want   error
	}{
		"no default key": {take: func(t *testing.T, hs *liar.Server, s liar.Session, _ *ssss.Key) {
			setAccountData(t, hs, s, "m.secret_storage.default_key", map[string]any{})
		}, want: e2ee.ErrNoSecretStorage},
		"a default key without description": {take: func(t *testing.T, hs *liar.Server, s liar.Session, _ *ssss.Key) {
			setAccountData(t, hs, s, "m.secret_storage.default_key", map[string]any{"key": "gone"})
		}, want: e2ee.ErrNoSecretStorage},
		"an unknown algorithm": {take: description(func(c map[string]any) { c["algorithm"] = "com.example" }), want: e2ee.ErrNoSecretStorage},
		"a wrong passphrase": {take: description(func(c map[string]any) {
			c["passphrase"] = passphrase(1000, 256)
		}), phrase: true, want: e2ee.ErrWrongRecoveryKey},
		"a passphrase that would take for ever": {take: description(func(c map[string]any) {
			c["passphrase"] = passphrase(1<<31-1, 256)
		}), phrase: true, want: e2ee.ErrNoSecretStorage},
		"a passphrase that would take all memory": {take: description(func(c map[string]any) {
			c["passphrase"] = passphrase(1000, 1<<31)
		}), phrase: true, want: e2ee.ErrNoSecretStorage},
		"a secret is not there": {take: func(t *testing.T, hs *liar.Server, s liar.Session, _ *ssss.Key) {
			setAccountData(t, hs, s, "m.cross_signing.user_signing", map[string]any{})
		}, want: e2ee.ErrSecretMissing},
		"a secret is under another key": {take: func(t *testing.T, hs *liar.Server, s liar.Session, storage *ssss.Key) {
			other := *storage
			other.ID = "other"
			putSecretInto(t, hs, s, &other, master, make([]byte, 32))
		}, want: e2ee.ErrSecretMissing},
		"a seed that makes another public key": {take: func(t *testing.T, hs *liar.Server, s liar.Session, storage *ssss.Key) {
			putSecretInto(t, hs, s, storage, master, make([]byte, 32))
		}, want: e2ee.ErrSecretMismatch},
		"a seed of the wrong length": {take: func(t *testing.T, hs *liar.Server, s liar.Session, storage *ssss.Key) {
			putSecretInto(t, hs, s, storage, master, make([]byte, 31))
		}, want: e2ee.ErrSecretMismatch},
		"a damaged secret": {take: func(t *testing.T, hs *liar.Server, s liar.Session, storage *ssss.Key) {
			sealed := storage.Encrypt(master, make([]byte, 32))
			sealed.MAC = base64.StdEncoding.EncodeToString(make([]byte, 32))
			setAccountData(t, hs, s, master, map[string]any{"encrypted": map[string]any{storage.ID: sealed}})
		}, want: e2ee.ErrSecretMismatch},
		// Without iv and mac nothing tells a wrong key but the secrets (requirement 14.2).
		"a wrong passphrase that cannot be checked": {take: description(func(c map[string]any) {
			delete(c, "iv")
			delete(c, "mac")
			c["passphrase"] = passphrase(1000, 256)
		}), phrase: true, want: e2ee.ErrWrongRecoveryKey},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hs := liar.New(t)
			first := newPerson(t, hs, "alice", "FIRST")
			key := recoveryKey(t, first.dev)
			first.rig.stop() // or it would repair what is taken away
			tt.take(t, hs, first.Session, storageOf(t, hs, first.Session, key))
			s := hs.Login("alice", "SECOND")
			d := newRig(t, hs, nil).device(s)
			settle(t, d)
			before, err := d.Secrets(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			made := changesBy(hs, s)
			with := e2ee.Recovery{Key: key}
			if tt.phrase {
				with = e2ee.Recovery{Passphrase: secret.NewString("open sesame")}
			}
			wantErr(t, "the recovery", d.Recover(t.Context(), with), tt.want)
			d.Maintain(t.Context())
			after, err := d.Secrets(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n := changesBy(hs, s); n != made || !maps.Equal(before, after) || status(t, d).Identity.DeviceSigned {
				t.Errorf("something changed: %d requests, %d secrets, then %d", n-made, len(before), len(after))
			}
		})
	}
}

// An account without an identity has nothing to recover.
func TestRecoverWithoutIdentity(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	d := newRig(t, hs, func(o *e2ee.Options) { o.ManualBootstrap = true }).device(hs.Login("alice", "FIRST"))
	settle(t, d)
	key, err := ssss.NewKey("")
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, "the recovery", d.Recover(t.Context(), e2ee.Recovery{Key: secret.NewString(key.RecoveryKey())}), e2ee.ErrNoIdentity)
	wantErr(t, "the restore", d.RestoreHistory(t.Context()), e2ee.ErrNoBackup)
}

// The backup's key in secret storage is checked against the backup's public key: one that
// does not belong to it is not taken, and the identity is recovered all the same.
func TestRecoveredBackupKeyIsChecked(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	first := newPerson(t, hs, "alice", "FIRST")
	key := recoveryKey(t, first.dev)
	first.rig.stop()
	wrong, err := backup.NewMegolmBackupKey()
	if err != nil {
		t.Fatal(err)
	}
	storage := storageOf(t, hs, first.Session, key)
	putSecretInto(t, hs, first.Session, storage, backupSecret, wrong.Bytes())
	d := newRig(t, hs, nil).device(hs.Login("alice", "SECOND"))
	settle(t, d)
	if err := d.Recover(t.Context(), e2ee.Recovery{Key: key}); err != nil {
		t.Fatal(err)
	}
	s := status(t, d)
	if !s.Identity.DeviceSigned || s.Backup.Readable || !s.Backup.Trusted || !problems(s)["backup_unreadable"] {
		t.Errorf("status: %+v", s)
	}
	if secrets, err := d.Secrets(t.Context()); err != nil || secrets[backupSecret] != "" {
		t.Errorf("a key that belongs to no backup was kept, %v", err)
	}
	wantErr(t, "the restore", d.RestoreHistory(t.Context()), e2ee.ErrNoBackup)
	// The first device is back: it has the key, and puts it right.
	first.restart()
	await(t, "the key is not put right", func() bool { return inOrder(status(t, d)) })
}

// The key that a bootstrap made is given for 24 hours, and no longer, nor once its owner
// deleted it; on the machine it can be read all the same. What is given is the key that
// opens secret storage.
func TestRecoveryKeyIsGivenForADay(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	given := recoveryKey(t, alice.dev)
	machine := func() {
		t.Helper()
		key, err := e2ee.RecoveryKeyOnMachine(t.Context(), alice.rig.db, id.UserID(alice.UserID))
		if err != nil || key != given {
			t.Errorf("on the machine: another key, %v", err)
		}
	}
	machine()
	alice.restart()
	alice.rig.later(23*time.Hour + 59*time.Minute)
	if key, err := alice.dev.RecoveryKey(t.Context()); err != nil || key != given {
		t.Errorf("within the day: another key, %v", err)
	}
	alice.rig.later(2 * time.Minute)
	_, err := alice.dev.RecoveryKey(t.Context())
	wantErr(t, "after the day", err, e2ee.ErrNoRecoveryKey)
	if key, err := alice.dev.Bootstrap(t.Context(), e2ee.UserAuth{}); err != nil || !key.IsZero() {
		t.Errorf("a bootstrap gives it again, %v", err)
	}
	machine()

	bob := newPerson(t, hs, "bob", "BOBS")
	given = recoveryKey(t, bob.dev)
	if err := bob.dev.DeleteRecoveryKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	bob.restart()
	_, err = bob.dev.RecoveryKey(t.Context())
	wantErr(t, "after it was deleted", err, e2ee.ErrNoRecoveryKey)
	if key, err := e2ee.RecoveryKeyOnMachine(t.Context(), bob.rig.db, id.UserID(bob.UserID)); err != nil || key != given {
		t.Errorf("on the machine: another key, %v", err)
	}
	_, err = e2ee.RecoveryKeyOnMachine(t.Context(), bob.rig.db, "@nobody:liar.test")
	wantErr(t, "an unknown user", err, e2ee.ErrUnknownUser)
	if got := secretsIn(t, hs, bob.Session, "m.cross_signing.master"); !slices.Contains(got, defaultKey(t, hs, bob.Session)) {
		t.Error("the key does not open the identity any more")
	}
}
