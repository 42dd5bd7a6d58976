package e2ee_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// storageKey makes a key of secret storage from a passphrase, cheaply.
func storageKey(t *testing.T, passphrase string) *ssss.Key {
	t.Helper()
	meta := &ssss.PassphraseMetadata{Algorithm: ssss.PassphraseAlgorithmPBKDF2, Iterations: 1000, Salt: "salt", Bits: 256}
	raw, err := meta.GetKey(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssss.WrapKey(raw, meta)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// offer makes a key the default of an account's secret storage.
func offer(t *testing.T, hs *liar.Server, s liar.Session, key *ssss.Key, meta any) {
	t.Helper()
	setAccountData(t, hs, s, "m.secret_storage.key."+key.ID, meta)
	setAccountData(t, hs, s, "m.secret_storage.default_key", map[string]any{"key": key.ID})
}

// Attack: the homeserver makes a key of its own the default of secret storage, so that
// the secrets come to be encrypted under it: while the account is set up, later, and with
// a restart. Nothing is ever stored under it, the user is told, and the recovery key that
// the user was given opens what it opened once the attack is over.
func TestDefaultKeyOfTheHomeserver(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	given, mine := recoveryKey(t, alice.dev), defaultKey(t, hs, alice.Session)
	theirs, err := ssss.NewKey("")
	if err != nil {
		t.Fatal(err)
	}
	offer(t, hs, alice.Session, theirs, theirs.Metadata)
	await(t, "no warning", func() bool { return warningCodes(t, alice.dev)["secret_storage_missing"].ID != "" })
	if _, err := alice.dev.Bootstrap(t.Context(), e2ee.UserAuth{}); err != nil {
		t.Fatal(err)
	}
	alice.restart()
	settle(t, alice.dev)
	alice.dev.Maintain(t.Context())
	for _, name := range secretNames {
		if under := secretsIn(t, hs, alice.Session, name); !slices.Equal(under, []string{mine}) {
			t.Errorf("%s is stored under %v, want %s alone", name, under, mine)
		}
	}
	// Nor does a device take what the homeserver has put there under its own key.
	saved := accountData(t, hs, alice.Session, "m.cross_signing.master")
	forge := newForgery(t, alice.UserID)
	setAccountData(t, hs, alice.Session, "m.cross_signing.master", map[string]any{
		"encrypted": map[string]any{theirs.ID: theirs.Encrypt("m.cross_signing.master", forge.master.Seed())},
	})
	second := newRig(t, hs, nil).device(hs.Login("alice", "SECOND"))
	settle(t, second)
	err = second.Recover(t.Context(), e2ee.Recovery{Key: secret.NewString(theirs.RecoveryKey())})
	wantErr(t, "recovering with the homeserver's key", err, e2ee.ErrSecretMismatch)
	wantErr(t, "recovering with the user's key", second.Recover(t.Context(), e2ee.Recovery{Key: given}), e2ee.ErrWrongRecoveryKey)
	if s := status(t, second); s.Identity.Ours || s.Identity.DeviceSigned {
		t.Errorf("status: %+v", s.Identity)
	}
	setAccountData(t, hs, alice.Session, "m.cross_signing.master", saved)
	setAccountData(t, hs, alice.Session, "m.secret_storage.default_key", map[string]any{"key": mine})
	if err := second.Recover(t.Context(), e2ee.Recovery{Key: given}); err != nil {
		t.Errorf("after the attack: %v", err)
	}
}

// Attack: the homeserver describes the default key so that the passphrase makes a key
// that is cheap to guess, and leaves out what tells a right key from a wrong one. Nothing
// is encrypted under what comes of it, neither by itself, where the passphrase stands in
// the configuration, nor when the user types it in.
func TestCheapDefaultKey(t *testing.T) {
	t.Parallel()
	cheap := storageKey(t, "open sesame")
	meta := map[string]any{
		"algorithm":  "m.secret_storage.v1.aes-hmac-sha2",
		"passphrase": map[string]any{"algorithm": "m.pbkdf2", "iterations": 1, "salt": "theirs", "bits": 256},
	}
	settings := func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings {
			return e2ee.AccountSettings{Passphrase: secret.NewString("open sesame")}
		}
	}
	hs := liar.New(t)
	session := hs.Login("alice", "FIRST")
	offer(t, hs, session, cheap, meta)
	first := newRig(t, hs, settings).device(session)
	settle(t, first)
	second := newRig(t, hs, settings).device(hs.Login("alice", "SECOND"))
	settle(t, second)
	err := second.Recover(t.Context(), e2ee.Recovery{Passphrase: secret.NewString("open sesame")})
	wantErr(t, "the passphrase typed in", err, e2ee.ErrSecretMissing)
	for _, d := range []*e2ee.Device{first, second} {
		d.Maintain(t.Context())
	}
	if _, err := first.Bootstrap(t.Context(), e2ee.UserAuth{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range secretNames {
		if under := secretsIn(t, hs, session, name); len(under) > 0 {
			t.Errorf("%s is stored under %v", name, under)
		}
	}
}

// Attack: the description of the default key would cost hours, or makes no sense. It is
// refused at once.
func TestCostlyDefaultKey(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	key := storageKey(t, "open sesame")
	second := newRig(t, hs, nil).device(hs.Login("alice", "SECOND"))
	settle(t, second)
	for name, change := range map[string]map[string]any{
		"four thousand million rounds": {"iterations": 1 << 32},
		"more rounds than there are":   {"iterations": json.Number("1e400")},
		"no rounds":                    {"iterations": 0},
		"rounds below none":            {"iterations": -1},
		"a key of a gigabyte":          {"bits": 1 << 33},
		"a key of no length":           {"bits": -256},
		"half a byte":                  {"bits": 129},
		"another algorithm":            {"algorithm": "m.scrypt"},
	} {
		passphrase := map[string]any{"algorithm": "m.pbkdf2", "iterations": 1000, "salt": "salt", "bits": 256}
		maps.Copy(passphrase, change)
		offer(t, hs, alice.Session, key, map[string]any{
			"algorithm": key.Metadata.Algorithm, "iv": key.Metadata.IV, "mac": key.Metadata.MAC, "passphrase": passphrase,
		})
		began := time.Now()
		err := second.Recover(t.Context(), e2ee.Recovery{Passphrase: secret.NewString("open sesame")})
		wantErr(t, name, err, e2ee.ErrNoSecretStorage)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: it took %v to refuse", name, took)
		}
	}
}

// Attack: a file of room keys says of each key whose it is. Whoever made the file can have
// written anything: what its keys open is shown grey, whatever it says. A file of ours is
// as costly to guess as the specification asks for (requirement 16.10).
func TestImportedKeysProveNothing(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, _, said := hear(t, st)
	read := said.say("bob's")
	st.awaitText(read, "bob's")
	var file bytes.Buffer
	passphrase := secret.NewString("open sesame")
	if err := st.dev.ExportKeys(t.Context(), passphrase, &file); err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Split(file.String(), "\n")[1])
	if err != nil || raw[0] != 1 || binary.BigEndian.Uint32(raw[33:]) < 100_000 {
		t.Errorf("a file with %d rounds, %v", binary.BigEndian.Uint32(raw[33:]), err)
	}
	other := newRig(t, st.hs, nil).device(st.hs.Login("alice", "OTHER"))
	settle(t, other)
	if got, err := other.ImportKeys(t.Context(), passphrase, e2ee.KeyFile(file.Bytes())); err != nil || got.Imported == 0 || got.Refused > 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	ev := stageEvent(t, st.hs, room, read)
	opened, err := other.Open(t.Context(), []e2ee.Incoming{{RoomID: id.RoomID(room), Event: ev}})
	if err != nil {
		t.Fatal(err)
	}
	got := readShown(t, opened[0].Event)
	if trust := got.Unsigned.Trust; got.Content.Body != "bob's" || trust.Color != "grey" || trust.Source != "import" || trust.Code != "AuthenticityNotGuaranteed" {
		t.Errorf("shown as %+v", got)
	}
}

// stageEvent returns an event as the homeserver sends it.
func stageEvent(t *testing.T, hs *liar.Server, room, event string) json.RawMessage {
	t.Helper()
	for _, ev := range hs.Events(room) {
		if ev.ID == event {
			raw, err := json.Marshal(map[string]any{
				"type": ev.Type, "event_id": ev.ID, "sender": ev.Sender, "origin_server_ts": 1, "content": ev.Content,
			})
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}
	}
	t.Fatalf("%s is not in the room", event)
	return nil
}
