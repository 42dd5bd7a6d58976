package e2ee_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// secretsIn returns under which keys of secret storage a secret is encrypted.
func secretsIn(t *testing.T, hs *liar.Server, s liar.Session, name string) []string {
	t.Helper()
	var content struct {
		Encrypted map[string]json.RawMessage `json:"encrypted"`
	}
	if raw := accountData(t, hs, s, name); raw != nil {
		if err := json.Unmarshal(raw, &content); err != nil {
			t.Fatal(err)
		}
	}
	return slices.Sorted(maps.Keys(content.Encrypted))
}

func defaultKey(t *testing.T, hs *liar.Server, s liar.Session) string {
	t.Helper()
	var def struct {
		Key string `json:"key"`
	}
	if raw := accountData(t, hs, s, "m.secret_storage.default_key"); raw != nil {
		if err := json.Unmarshal(raw, &def); err != nil {
			t.Fatal(err)
		}
	}
	return def.Key
}

var secretNames = []string{
	"m.cross_signing.master", "m.cross_signing.self_signing", "m.cross_signing.user_signing", "m.megolm_backup.v1",
}

// An account that has part of what it should have gets the rest, and nothing that exists
// is replaced (requirements 1.3 to 1.5). Each case takes something away from a complete
// account and lets POST bootstrap run.
func TestBootstrapCompletesParts(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(t *testing.T, hs *liar.Server, s liar.Session){
		"nothing": func(*testing.T, *liar.Server, liar.Session) {},
		"the default key": func(t *testing.T, hs *liar.Server, s liar.Session) {
			setAccountData(t, hs, s, "m.secret_storage.default_key", map[string]any{})
		},
		"the description of the default key": func(t *testing.T, hs *liar.Server, s liar.Session) {
			setAccountData(t, hs, s, "m.secret_storage.key."+defaultKey(t, hs, s), map[string]any{})
		},
		"one secret": func(t *testing.T, hs *liar.Server, s liar.Session) {
			setAccountData(t, hs, s, "m.cross_signing.self_signing", map[string]any{})
		},
		"the backup's secret": func(t *testing.T, hs *liar.Server, s liar.Session) {
			setAccountData(t, hs, s, "m.megolm_backup.v1", map[string]any{"encrypted": map[string]any{}})
		},
		"all of secret storage": func(t *testing.T, hs *liar.Server, s liar.Session) {
			setAccountData(t, hs, s, "m.secret_storage.default_key", map[string]any{"key": "gone"})
			for _, name := range secretNames {
				setAccountData(t, hs, s, name, map[string]any{})
			}
		},
		"the backup": func(t *testing.T, hs *liar.Server, s liar.Session) {
			call(t, hs, s, http.MethodDelete, "room_keys/version/1", map[string]any{}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			hs := liar.New(t)
			alice := newPerson(t, hs, "alice", "FIRST")
			identity := hs.CrossSigningKey(alice.UserID, "master")
			take(t, hs, alice.Session)
			if _, err := alice.dev.Bootstrap(t.Context(), e2ee.UserAuth{}); err != nil {
				t.Fatal(err)
			}
			ready(t, alice.dev)
			if hs.CrossSigningKey(alice.UserID, "master") != identity {
				t.Error("the identity was replaced")
			}
			key := defaultKey(t, hs, alice.Session)
			for _, name := range secretNames {
				if !slices.Contains(secretsIn(t, hs, alice.Session, name), key) {
					t.Errorf("%s is not under the default key", name)
				}
			}
			// What was made lets another device recover.
			other := recovered(t, hs, alice, "OTHER", false)
			ready(t, other.dev)
			await(t, "warnings stay", func() bool { return len(warningCodes(t, alice.dev)) == 0 })
		})
	}
}

// Secret storage that another client made is left as it is, and so are the values in it:
// its key is not here. The user is told that the identity is not saved in it.
func TestForeignSecretStorageIsLeftAlone(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	session := hs.Login("alice", "FIRST")
	foreign := storageKey(t, "open sesame")
	setAccountData(t, hs, session, "m.secret_storage.key."+foreign.ID, foreign.Metadata)
	setAccountData(t, hs, session, "m.secret_storage.default_key", map[string]any{"key": foreign.ID})
	alice := &person{t: t, hs: hs, rig: newRig(t, hs, nil), Session: session}
	alice.dev = alice.rig.device(session)
	settle(t, alice.dev)
	if s := status(t, alice.dev); !s.Identity.DeviceSigned || s.SecretStorage.Complete || !problems(s)["secret_storage_incomplete"] {
		t.Errorf("status: %+v", s)
	}
	await(t, "no warning", func() bool { return warningCodes(t, alice.dev)["secret_storage_missing"].ID != "" })
	if got := defaultKey(t, hs, session); got != foreign.ID {
		t.Errorf("the default key is %s now", got)
	}
	if _, version := hs.BackedUp(alice.UserID); version != "" {
		t.Error("a backup was made whose key cannot be kept")
	}
	// Who knows its key completes it.
	if err := alice.dev.Recover(t.Context(), e2ee.Recovery{Passphrase: secret.NewString("wrong")}); !errorIs(err, e2ee.ErrWrongRecoveryKey) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if err := alice.dev.Recover(t.Context(), e2ee.Recovery{Passphrase: secret.NewString("open sesame")}); !errorIs(err, e2ee.ErrSecretMissing) {
		t.Errorf("a storage without the identity: %v", err)
	}
}

// The same with the passphrase in the configuration: everything is saved under it.
func TestConfiguredPassphraseCompletesForeignStorage(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	session := hs.Login("alice", "FIRST")
	foreign := storageKey(t, "open sesame")
	setAccountData(t, hs, session, "m.secret_storage.key."+foreign.ID, foreign.Metadata)
	setAccountData(t, hs, session, "m.secret_storage.default_key", map[string]any{"key": foreign.ID})
	setAccountData(t, hs, session, "m.cross_signing.master", map[string]any{
		"encrypted": map[string]any{"another": map[string]any{"iv": "a", "ciphertext": "b", "mac": "c"}}, "com.example": 1,
	})
	r := newRig(t, hs, func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings {
			return e2ee.AccountSettings{Passphrase: secret.NewString("open sesame")}
		}
	})
	alice := r.device(session)
	ready(t, alice)
	if got := defaultKey(t, hs, session); got != foreign.ID {
		t.Errorf("the default key is %s now", got)
	}
	if got := secretsIn(t, hs, session, "m.cross_signing.master"); !slices.Contains(got, "another") || len(got) != 2 {
		t.Errorf("the secret is under %v", got)
	}
	var kept map[string]any
	if err := json.Unmarshal(accountData(t, hs, session, "m.cross_signing.master"), &kept); err != nil || kept["com.example"] == nil {
		t.Errorf("unknown members are gone: %v", kept)
	}
}

// A bot whose configuration holds its recovery key comes up signed with nobody present,
// on a second machine too.
func TestRecoversByConfiguration(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	first := newPerson(t, hs, "alice", "FIRST")
	key, err := first.dev.RecoveryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, hs, func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings { return e2ee.AccountSettings{RecoveryKey: key} }
	})
	ready(t, r.device(hs.Login("alice", "SECOND")))
}

// A wrong recovery key in the configuration is tried once, not with every maintenance, and
// changes nothing.
func TestWrongKeyInConfiguration(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	newPerson(t, hs, "alice", "FIRST")
	other, err := ssss.NewKey("")
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan struct{}, 64)
	r := newRig(t, hs, func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings {
			return e2ee.AccountSettings{RecoveryKey: secret.NewString(other.RecoveryKey())}
		}
		o.Log = o.Log.Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, message string) {
			if message == "The configured recovery key does not open secret storage" {
				said <- struct{}{}
			}
		}))
	})
	session := hs.Login("alice", "SECOND")
	d := r.device(session)
	settle(t, d)
	made := changesBy(hs, session)
	for range 3 {
		setAccountData(t, hs, session, "com.example", map[string]any{})
		hs.ChangeDevices(session.UserID)
		d.Maintain(t.Context())
		if _, err := d.Bootstrap(t.Context(), e2ee.UserAuth{}); !errorIs(err, e2ee.ErrIdentityExists) {
			t.Errorf("a bootstrap: %v", err)
		}
	}
	if len(said) != 1 {
		t.Errorf("the key was tried %d times", len(said))
	}
	if n := changesBy(hs, session); n != made+3 { // the account data above
		t.Errorf("%d requests changed something", n-made-3)
	}
	await(t, "it is not told", func() bool { return problems(status(t, d))["device_not_signed"] })
	if s := status(t, d); s.Identity.Ours {
		t.Errorf("status: %+v", s.Identity)
	}
}

// The user's word that no backup is wanted is honoured (requirement 16.7), until they
// change their mind.
func TestBackupSwitchedOff(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	session := hs.Login("alice", "FIRST")
	setAccountData(t, hs, session, "m.key_backup", map[string]any{"enabled": false})
	alice := &person{t: t, hs: hs, rig: newRig(t, hs, nil), Session: session}
	alice.dev = alice.rig.device(session)
	await(t, "the identity is not saved", func() bool { return status(t, alice.dev).SecretStorage.Complete })
	if s := status(t, alice.dev); s.Backup.Enabled || s.Backup.Version != "" || len(s.Problems) != 0 || len(s.Warnings) != 0 {
		t.Errorf("status: %+v", s)
	}
	setAccountData(t, hs, session, "m.key_backup", map[string]any{"enabled": "yes"}) // malformed: ignored
	ready(t, alice.dev)
}

// The same word as Element's clients say it, from before there was m.key_backup (MSC4287).
// It counts as long as the newer one is not said.
func TestBackupSwitchedOffInElement(t *testing.T) {
	t.Parallel()
	const older = "m.org.matrix.custom.backup_disabled"
	hs := liar.New(t)
	session := hs.Login("alice", "FIRST")
	setAccountData(t, hs, session, older, map[string]any{"disabled": true})
	d := newRig(t, hs, nil).device(session)
	await(t, "the identity is not saved", func() bool { return status(t, d).SecretStorage.Complete })
	if s := status(t, d); s.Backup.Enabled || s.Backup.Version != "" || len(s.Problems) != 0 || len(s.Warnings) != 0 {
		t.Errorf("status: %+v", s)
	}
	setAccountData(t, hs, session, "m.key_backup", map[string]any{"enabled": true})
	ready(t, d)

	session = hs.Login("bob", "BOBS")
	setAccountData(t, hs, session, older, map[string]any{"disabled": true})
	d = newRig(t, hs, nil).device(session)
	await(t, "the identity is not saved", func() bool { return status(t, d).SecretStorage.Complete })
	setAccountData(t, hs, session, older, map[string]any{"disabled": false})
	ready(t, d)
}

// With bootstrap: manual nothing is made until it is asked for.
func TestManualBootstrap(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	r := newRig(t, hs, func(o *e2ee.Options) { o.ManualBootstrap = true })
	d := r.device(hs.Login("alice", "FIRST"))
	settle(t, d)
	if s := status(t, d); s.Identity.MasterKey != "" || !problems(s)["no_identity"] {
		t.Errorf("status: %+v", s)
	}
	key, err := d.Bootstrap(t.Context(), e2ee.UserAuth{})
	if err != nil || key.IsZero() {
		t.Fatalf("bootstrap: %v", err)
	}
	ready(t, d)
}

// A second bootstrap gives the recovery key only as long as it may be read at all: a
// stolen token must not be worth an identity for ever.
func TestBootstrapGivesNoOldKey(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	if err := alice.dev.DeleteRecoveryKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if key, err := alice.dev.Bootstrap(t.Context(), e2ee.UserAuth{}); err != nil || !key.IsZero() {
		t.Errorf("bootstrap after the key was deleted gives one, %v", err)
	}
}
