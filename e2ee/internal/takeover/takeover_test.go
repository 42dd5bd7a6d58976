package takeover_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/takeover"
	"e2ee-proxy/internal/pantalaimon"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

const fixtures = "../../../internal/pantalaimon/testdata"

// secrets are what make.py knows beside the database.
type secrets struct {
	Ed25519    string        `json:"ed25519"`
	Curve25519 string        `json:"curve25519"`
	Peer       id.Curve25519 `json:"peer_curve25519"`
	Olm        struct {
		Type int    `json:"type"`
		Body string `json:"body"`
	} `json:"olm_message"`
	SessionID id.SessionID `json:"session_id"`
	Megolm    string       `json:"megolm_message"`
}

func openStore(t *testing.T) *store.DB {
	t.Helper()
	key, err := store.NewMasterKey(secret.Bytes(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Options{
		URL: secret.NewString("sqlite:" + filepath.Join(t.TempDir(), "e2ee.db")), MasterKeys: store.MasterKeys{Current: key},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// pantalaimonsDevice reads the device with all its keys that pantalaimon's own code wrote.
func pantalaimonsDevice(t *testing.T) takeover.Device {
	t.Helper()
	pan, err := pantalaimon.Open(t.Context(), fixtures)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pan.Close() })
	devices, err := pan.Devices(t.Context(), "local")
	if err != nil {
		t.Fatal(err)
	}
	of := devices[0]
	out := takeover.Device{
		UserID: id.UserID(of.UserID), DeviceID: id.DeviceID(of.DeviceID), PickleKey: secret.Bytes(pantalaimon.PickleKey),
		Account: of.Account, Published: of.Published, Token: of.Token,
	}
	sessions, err := pan.OlmSessions(t.Context(), of)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		out.OlmSessions = append(out.OlmSessions, takeover.OlmSession{
			ID: id.SessionID(s.ID), TheirKey: id.Curve25519(s.SenderKey), Pickle: s.Pickle, Created: s.Created, Used: s.Used,
		})
	}
	var keys []takeover.RoomKey
	for k, err := range pan.RoomKeys(t.Context(), of) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, takeover.RoomKey{
			SessionRef: store.SessionRef{RoomID: id.RoomID(k.RoomID), SessionID: id.SessionID(k.SessionID)},
			SenderKey:  id.Curve25519(k.SenderKey), SigningKey: id.Ed25519(k.SigningKey), Pickle: k.Pickle, ForwardedBy: k.ForwardedBy,
		})
	}
	out.RoomKeys = func(yield func(takeover.RoomKey, error) bool) {
		for _, k := range keys {
			if !yield(k, nil) {
				return
			}
		}
	}
	return out
}

// What libolm has written under pantalaimon is read here: the device has its keys, decrypts
// the next message of an Olm session that libolm has begun, and a message of a room key,
// which proves nothing of its sender any more.
func TestPicklesOfLibolm(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(fixtures, "secrets.json"))
	if err != nil {
		t.Fatal(err)
	}
	var known secrets
	if err := json.Unmarshal(raw, &known); err != nil {
		t.Fatal(err)
	}
	db, from := openStore(t), pantalaimonsDevice(t)
	now := time.Now()
	taken, err := takeover.Take(t.Context(), db, from, now)
	if want := (takeover.Taken{OlmSessions: 1, RoomKeys: 2, UnreadableRoomKeys: 1}); err != nil || taken != want {
		t.Fatalf("%+v, %v", taken, err)
	}
	acct, err := db.LookupAccount(t.Context(), from.UserID)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := db.Device(t.Context(), acct, from.DeviceID)
	if err != nil || dev.State != store.DeviceOurs || dev.Ed25519 != known.Ed25519 || dev.Curve25519 != known.Curve25519 || !dev.KeysUploaded || dev.Token.Reveal() != "token-of-pantalaimon" {
		t.Fatalf("%+v, %v", dev, err)
	}
	own, err := olm.LoadAccount(dev.Olm)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(own.OTKeys); n != 3 {
		t.Errorf("it has %d one-time keys", n)
	}
	rows, err := db.OlmSessions(t.Context(), acct, dev.ID, []string{known.Peer.String()})
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := olm.LoadSessions(rows)
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(map[string]any{
		"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": known.Peer, "ciphertext": map[string]any{known.Curve25519: known.Olm},
	})
	if err != nil {
		t.Fatal(err)
	}
	ev, err := olm.ParseEvent(content)
	if err != nil {
		t.Fatal(err)
	}
	if plain, made, err := sessions.Decrypt(own, ev, now); err != nil || made != nil || string(plain) != `{"second":"message"}` {
		t.Errorf("%q, a new session: %t, %v", plain, made != nil, err)
	}
	for row, err := range db.AllInboundSessions(t.Context(), acct, dev.ID) {
		if err != nil {
			t.Fatal(err)
		}
		owner := megolm.ReadOwner(row.Owner)
		if row.Source != store.SourceImport || owner.Attested || owner.UserID != "" || owner.Curve25519 != known.Peer || row.BackupVersion != "" {
			t.Errorf("%+v, %+v", row, owner)
		}
		if row.SessionID != known.SessionID {
			continue
		}
		var s session.MegolmInboundSession
		if err := s.UnpickleLibOlm(row.Pickle.Reveal()); err != nil {
			t.Fatal(err)
		}
		if plain, _, err := s.Decrypt([]byte(known.Megolm)); err != nil || !strings.Contains(string(plain), "for pantalaimon") {
			t.Errorf("%q, %v", plain, err)
		}
	}
}
