package keybackup

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"os"
	"testing"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// backupVector is an entry of an authenticated backup (MSC4048) that was made without any
// of this code.
type backupVector struct {
	BackupKey string          `json:"backup_key"`
	MACKey    string          `json:"mac_key"`
	RoomID    id.RoomID       `json:"room_id"`
	SessionID id.SessionID    `json:"session_id"`
	First     uint32          `json:"first_index"`
	Entry     json.RawMessage `json:"entry"`
}

func loadBackupVector(t *testing.T) (v backupVector, ref store.SessionRef, private *backup.MegolmBackupKey, macKey []byte) {
	t.Helper()
	raw, err := os.ReadFile("testdata/msc4048.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	seed, err := base64.RawStdEncoding.DecodeString(v.BackupKey)
	if err != nil {
		t.Fatal(err)
	}
	if private, err = backup.MegolmBackupKeyFromBytes(seed); err != nil {
		t.Fatal(err)
	}
	if macKey, err = MACKey(private); err != nil {
		t.Fatal(err)
	}
	return v, store.SessionRef{RoomID: v.RoomID, SessionID: v.SessionID}, private, macKey
}

// An entry that another implementation made is read, its MAC is found right over all its
// members, and whose key it is survives (requirement 16.9). What nobody here knows is kept
// for the next backup.
func TestAuthenticatedBackupOfOthers(t *testing.T) {
	t.Parallel()
	v, ref, private, macKey := loadBackupVector(t)
	if wire.Base64(macKey) != v.MACKey {
		t.Errorf("the MAC key is %s", wire.Base64(macKey))
	}
	row, err := Open(ref, v.Entry, private, macKey)
	if err != nil {
		t.Fatal(err)
	}
	owner := megolm.ReadOwner(row.Owner)
	if !owner.Attested || owner.UserID != "@bob:example.org" || owner.DeviceID != "BOBS" || row.FirstIndex != v.First || !row.SharedHistory {
		t.Errorf("the key is read as %+v, first index %d", owner.Owner, row.FirstIndex)
	}
	target := &Target{Public: private.PublicKey(), Private: private, MACKey: macKey}
	sealed, err := Seal(&row, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(sealed)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Open(ref, again, private, macKey)
	if err != nil {
		t.Fatal(err)
	}
	kept := megolm.ReadOwner(back.Owner)
	extra, err := strictjson.Parse(kept.Extra)
	if err != nil || string(extra.Get("com.example.note")) != `{"kept":[1,2]}` || !kept.Attested || kept.UserID != owner.UserID {
		t.Errorf("after another backup it is %+v with %s", kept.Owner, kept.Extra)
	}
	// Under another name, and without the MAC, it proves nothing.
	moved := ref
	moved.RoomID = "!other:example.org"
	if row, err = Open(moved, v.Entry, private, macKey); err != nil || megolm.ReadOwner(row.Owner).Attested {
		t.Errorf("in another room it is still believed, %v", err)
	}
	if row, err = Open(ref, v.Entry, private, make([]byte, 32)); err != nil || megolm.ReadOwner(row.Owner).Attested {
		t.Errorf("under another MAC key it is still believed, %v", err)
	}
}

// What we write carries the MAC that MSC4048 asks for, computed here from its text: over
// the canonical JSON of the other members, which for these is what encoding/json makes of
// a map. A key that is not proven says where it came from.
func TestWrittenBackupIsAuthenticated(t *testing.T) {
	t.Parallel()
	v, ref, private, macKey := loadBackupVector(t)
	row, err := Open(ref, v.Entry, private, macKey)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := base64.RawStdEncoding.DecodeString(v.BackupKey)
	if err != nil {
		t.Fatal(err)
	}
	expectKey, err := hkdf.Key(sha256.New, seed, make([]byte, 32), "MATRIX_BACKUP_MAC_KEY", 32)
	if err != nil {
		t.Fatal(err)
	}
	for source, want := range map[store.Source]string{
		store.SourceDirect: "", store.SourceBackup: "m.legacy-v1", store.SourceForwarded: "m.forwarded_room_key",
		store.SourceImport: "m.undefined", store.SourceBundle: "m.undefined",
	} {
		row.Source = source
		if source != store.SourceDirect {
			row.Owner = nil
		}
		entry, err := Seal(&row, &Target{Public: private.PublicKey(), Private: private, MACKey: macKey}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var sealed map[string]any
		if err := json.Unmarshal(entry.SessionData, &sealed); err != nil {
			t.Fatal(err)
		}
		said, _ := sealed["unsigned"].(map[string]any)["org.matrix.msc4048.backup_mac"].(string)
		delete(sealed, "unsigned")
		msg, err := json.Marshal(sealed)
		if err != nil {
			t.Fatal(err)
		}
		mac := hmac.New(sha256.New, expectKey)
		mac.Write(msg)
		if said != base64.RawStdEncoding.EncodeToString(mac.Sum(nil)) {
			t.Errorf("%s: the MAC is %q", source, said)
		}
		var data backup.EncryptedSessionData[map[string]any]
		if err := json.Unmarshal(entry.SessionData, &data); err != nil {
			t.Fatal(err)
		}
		plain, err := data.Decrypt(private)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := (*plain)["org.matrix.msc4048.unauthenticated"].(string); got != want {
			t.Errorf("%s: unauthenticated is %q, want %q", source, got, want)
		}
	}
}
