package keybackup

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// The format of one room key in a backup (requirements 16.3, 16.4), with the parts of
// MSC4048 that fit into it (requirement 16.9): a MAC under a key that only those have who
// can read the backup, and where the key came from. A key with a right MAC that this proxy
// got from its owner keeps the owner through a restore; any other proves no owner.
const (
	backupMACInfo  = "MATRIX_BACKUP_MAC_KEY"
	fieldBackupMAC = "org.matrix.msc4048.backup_mac"
)

// Target is a backup that may be written to: its public key is known to be the account's
// own. Private is nil when only the public key is known.
type Target struct {
	Version string
	Count   int
	Public  *ecdh.PublicKey
	Private *backup.MegolmBackupKey
	MACKey  []byte
}

// Entry is one room key in a backup request. The homeserver chooses between two entries of
// one session by the first three fields, so they must be true (requirement 16.5).
// ForwardedCount is the number of devices that forwarded the key. IsVerified means that its
// owner is proven, on a device confirmed by its user, with an identity that the account has
// accepted, and that it reaches back to the first message: Element calls none of its keys
// verified, and a part that is would replace the whole key that it has backed up.
type Entry struct {
	FirstIndex     uint32          `json:"first_message_index"`
	ForwardedCount int             `json:"forwarded_count"`
	IsVerified     bool            `json:"is_verified"`
	SessionData    json.RawMessage `json:"session_data"`
}

// MACKey derives the key of the MACs from the backup's private key.
func MACKey(private *backup.MegolmBackupKey) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, private.Bytes(), nil, backupMACInfo, 32)
	if err != nil {
		return nil, fmt.Errorf("derive the backup's MAC key: %w", err)
	}
	return key, nil
}

// Seal encrypts one room key for a backup, with what is known of its owner. Without the
// private key it has no MAC.
func Seal(row *store.InboundSession, to *Target, users map[id.UserID]*trustcache.User) (Entry, error) {
	data, from, err := megolm.Data(row)
	if err != nil {
		return Entry{}, err
	}
	// If several claim the key nobody is attested: an attested owner could silence the
	// others.
	proven := megolm.ProvesOwner(row.Source, from.Owner) && !from.Contested
	if proven {
		from.Owner, _ = from.Upgrade(users[from.UserID])
		if from.UserID != "" {
			raw, err := json.Marshal(megolm.NamedOwner{RoomID: row.RoomID, SessionID: row.SessionID, Owner: from.Owner})
			if err != nil {
				return Entry{}, fmt.Errorf("encode key owner: %w", err)
			}
			data = data.Set(megolm.FieldOwner, raw)
		}
	} else {
		data = data.Set(megolm.FieldUnauthentic, strictjson.Quote(unauthenticSource(row.Source)))
	}
	sealed, err := backup.EncryptSessionDataWithPubkey(to.Public, data.Encode())
	if err != nil {
		return Entry{}, fmt.Errorf("encrypt room key for the backup: %w", err)
	}
	raw, err := json.Marshal(sealed)
	if err != nil {
		return Entry{}, fmt.Errorf("encode room key for the backup: %w", err)
	}
	if to.MACKey != nil {
		if raw, err = addMAC(raw, to.MACKey); err != nil {
			return Entry{}, err
		}
	}
	return Entry{
		FirstIndex: row.FirstIndex, ForwardedCount: len(megolm.ForwardedBy(data)),
		IsVerified: row.FirstIndex == 0 && proven && from.Signed && from.Accepted, SessionData: raw,
	}, nil
}

// unauthenticSource returns MSC4048's name for the source of a key that does not prove its
// owner.
func unauthenticSource(source store.Source) string {
	switch source {
	case store.SourceBackup:
		return "m.legacy-v1"
	case store.SourceForwarded:
		return "m.forwarded_room_key"
	case store.SourceDirect, store.SourceImport, store.SourceBundle:
	}
	return "m.undefined"
}

// addMAC adds the MAC over the canonical JSON of the encrypted data.
func addMAC(raw json.RawMessage, macKey []byte) (json.RawMessage, error) {
	mac, err := macOf(raw, macKey)
	if err != nil {
		return nil, err
	}
	obj, err := strictjson.Parse(raw)
	if err != nil {
		return nil, err
	}
	return obj.Set("unsigned", strictjson.Object{{Name: fieldBackupMAC, Value: strictjson.Quote(wire.Base64(mac))}}.Encode()).Encode(), nil
}

func macOf(raw json.RawMessage, macKey []byte) ([]byte, error) {
	msg, err := wire.Signable(raw)
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, macKey)
	h.Write(msg)
	return h.Sum(nil), nil
}

// hasMAC reports whether the encrypted data carries the right MAC, all its unknown
// members included.
func hasMAC(raw json.RawMessage, macKey []byte) bool {
	obj, err := strictjson.Parse(raw)
	if err != nil {
		return false
	}
	unsigned, err := strictjson.Parse(obj.Get("unsigned"))
	if err != nil {
		return false
	}
	text, _ := unsigned.Text(fieldBackupMAC)
	claimed, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return false
	}
	mac, err := macOf(raw, macKey)
	return err == nil && hmac.Equal(mac, claimed)
}

// Open decrypts one room key of a backup. The row has the session ID of the key itself, not
// the one that the homeserver names.
func Open(ref store.SessionRef, raw json.RawMessage, private *backup.MegolmBackupKey, macKey []byte) (store.InboundSession, error) {
	entry, err := strictjson.Parse(raw)
	if err != nil {
		return store.InboundSession{}, err
	}
	sealed := entry.Get("session_data")
	var data backup.EncryptedSessionData[json.RawMessage]
	if _, err := strictjson.Parse(sealed); err != nil {
		return store.InboundSession{}, err
	}
	if json.Unmarshal(sealed, &data) != nil || data.Ephemeral.PublicKey == nil {
		return store.InboundSession{}, fmt.Errorf("%w: a room key in the backup", strictjson.ErrMalformed)
	}
	plain, err := data.Decrypt(private)
	if err != nil {
		return store.InboundSession{}, fmt.Errorf("%w: a room key in the backup", strictjson.ErrMalformed)
	}
	return megolm.FromData(ref, *plain, store.SourceBackup, hasMAC(sealed, macKey))
}
