package e2ee

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// The format of one room key in a backup (requirements 16.3, 16.4), with the parts of
// MSC4048 that fit into it (requirement 16.9): a MAC under a key that only those have who
// can read the backup, and a word on where the key came from. A key whose MAC is right
// and that this proxy had from its owner keeps its owner through a restore; every other
// one proves nothing.
const (
	backupMACInfo       = "MATRIX_BACKUP_MAC_KEY"
	fieldBackupMAC      = "org.matrix.msc4048.backup_mac"
	fieldUnauthentic    = "org.matrix.msc4048.unauthenticated"
	fieldSharedHistory  = "shared_history"
	fieldSharedUnstable = "org.matrix.msc3061.shared_history"
	fieldForwards       = "forwarding_curve25519_key_chain"
	// fieldOwner is ours: MSC4048 says that a key belongs to its sender_key, and not whose
	// that is.
	fieldOwner = "dev.e2ee-proxy.owner"
)

// backedOwner is fieldOwner. It names the session, so that the homeserver cannot pass one
// off as another.
type backedOwner struct {
	RoomID    id.RoomID        `json:"room_id"`
	SessionID id.SessionID     `json:"session_id"`
	Owner     trustcache.Owner `json:"owner"`
}

// backupSession is one room key in a backup request. By the first three the homeserver
// chooses between two of one session, so that they must be true (requirement 16.5):
// forwarded is by how many devices the key went that did not make it, verified is one
// whose owner is proven, with a device that its owner had confirmed and an identity that
// the account has accepted.
type backupSession struct {
	FirstIndex     uint32          `json:"first_message_index"`
	ForwardedCount int             `json:"forwarded_count"`
	IsVerified     bool            `json:"is_verified"`
	SessionData    json.RawMessage `json:"session_data"`
}

// backupMACKey derives the key of the MACs from the backup's private key.
func backupMACKey(private *backup.MegolmBackupKey) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, private.Bytes(), nil, backupMACInfo, 32)
	if err != nil {
		return nil, fmt.Errorf("derive the backup's MAC key: %w", err)
	}
	return key, nil
}

// sealBackup encrypts one room key for a backup. What is known of its owner by now goes
// with it. Without the private key there is no MAC.
func sealBackup(row *store.InboundSession, to *backupTarget, users map[id.UserID]*trustcache.User) (backupSession, error) {
	data, from, err := sessionData(row)
	if err != nil {
		return backupSession{}, err
	}
	// Where several say that it is theirs nobody is attested, who could then silence the others.
	proven := provesOwner(row.Source, from.Owner) && !from.Contested
	if proven {
		from.Owner, _ = from.Upgrade(users[from.UserID])
		if from.UserID != "" {
			raw, err := json.Marshal(backedOwner{row.RoomID, row.SessionID, from.Owner})
			if err != nil {
				return backupSession{}, fmt.Errorf("encode key owner: %w", err)
			}
			data = data.Set(fieldOwner, raw)
		}
	} else {
		data = data.Set(fieldUnauthentic, strictjson.Quote(unauthenticSource(row.Source)))
	}
	sealed, err := backup.EncryptSessionDataWithPubkey(to.public, data.Encode())
	if err != nil {
		return backupSession{}, fmt.Errorf("encrypt room key for the backup: %w", err)
	}
	raw, err := json.Marshal(sealed)
	if err != nil {
		return backupSession{}, fmt.Errorf("encode room key for the backup: %w", err)
	}
	if to.macKey != nil {
		if raw, err = addBackupMAC(raw, to.macKey); err != nil {
			return backupSession{}, err
		}
	}
	return backupSession{
		FirstIndex: row.FirstIndex, ForwardedCount: len(forwardedBy(data)),
		IsVerified: proven && from.Signed && from.Accepted, SessionData: raw,
	}, nil
}

// unauthenticSource names, in the words of MSC4048, where a key came from that does not
// prove its owner.
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

// sessionData is what is known of a room key, for a backup or an export. What other
// clients had put into the backup that it came from is still in it.
func sessionData(row *store.InboundSession) (strictjson.Object, keptOwner, error) {
	sess := &session.MegolmInboundSession{}
	if err := sess.UnpickleLibOlm(row.Pickle.Reveal()); err != nil {
		return nil, keptOwner{}, fmt.Errorf("unpickle room key: %w", err)
	}
	exported, err := sess.Export(row.FirstIndex)
	if err != nil {
		return nil, keptOwner{}, fmt.Errorf("export room key: %w", err)
	}
	from := decodeKeptOwner(row.Owner)
	data, err := strictjson.Parse(from.Extra)
	if err != nil {
		data = nil
	}
	shared := json.RawMessage(`false`)
	if row.SharedHistory {
		shared = json.RawMessage(`true`)
	}
	chain, err := json.Marshal(forwardedBy(data))
	if err != nil {
		return nil, keptOwner{}, fmt.Errorf("encode room key: %w", err)
	}
	return data.
		Set("algorithm", strictjson.Quote(wire.AlgorithmMegolm)).
		Set(fieldForwards, chain).
		Set("sender_claimed_keys", strictjson.Object{{Name: "ed25519", Value: strictjson.Quote(from.Ed25519.String())}}.Encode()).
		Set("sender_key", strictjson.Quote(from.Curve25519.String())).
		Set("session_key", strictjson.Quote(string(exported))).
		Set(fieldSharedHistory, shared), from, nil // requirement 17.4
}

// addBackupMAC adds the MAC over the canonical JSON of the encrypted data.
func addBackupMAC(raw json.RawMessage, macKey []byte) (json.RawMessage, error) {
	mac, err := backupMAC(raw, macKey)
	if err != nil {
		return nil, err
	}
	obj, err := strictjson.Parse(raw)
	if err != nil {
		return nil, err
	}
	return obj.Set("unsigned", strictjson.Object{{Name: fieldBackupMAC, Value: strictjson.Quote(wire.Base64(mac))}}.Encode()).Encode(), nil
}

func backupMAC(raw json.RawMessage, macKey []byte) ([]byte, error) {
	msg, err := wire.Signable(raw)
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, macKey)
	h.Write(msg)
	return h.Sum(nil), nil
}

// hasBackupMAC reports whether the encrypted data carries the right MAC, all its unknown
// members included.
func hasBackupMAC(raw json.RawMessage, macKey []byte) bool {
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
	mac, err := backupMAC(raw, macKey)
	return err == nil && hmac.Equal(mac, claimed)
}

// openBackup decrypts one room key of a backup. The row it gives has the session's own
// name, not the one under which the homeserver keeps it.
func openBackup(ref store.SessionRef, raw json.RawMessage, private *backup.MegolmBackupKey, macKey []byte) (store.InboundSession, error) {
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
	return keptSession(ref, *plain, store.SourceBackup, hasBackupMAC(sealed, macKey))
}

// keptSession reads the data of a room key that came from a backup or an export. With
// attested its owner is believed, if it is named and is the one that the key names.
func keptSession(ref store.SessionRef, raw json.RawMessage, source store.Source, attested bool) (store.InboundSession, error) {
	data, err := strictjson.Parse(raw)
	if err != nil {
		return store.InboundSession{}, err
	}
	algorithm, _ := data.Text("algorithm")
	exported, _ := data.Text("session_key")
	if algorithm != wire.AlgorithmMegolm {
		return store.InboundSession{}, fmt.Errorf("%w: algorithm of a room key", strictjson.ErrMalformed)
	}
	sess, err := session.NewMegolmInboundSessionFromExport([]byte(exported))
	if err != nil || sess.ID() != ref.SessionID { // attack A16
		return store.InboundSession{}, fmt.Errorf("%w: a room key under another's name", strictjson.ErrMalformed)
	}
	from := keptOwner{Extra: extraMembers(data)}
	if attested && data.Get(fieldUnauthentic) == nil {
		from.Owner = attestedOwner(ref, data)
	}
	if !from.Attested { // what it claims is kept for whoever it is given to, and proves nothing
		senderKey, _ := data.Text("sender_key")
		from.Owner = trustcache.Owner{Curve25519: id.Curve25519(senderKey), Ed25519: claimedKey(data)}
	}
	owner, err := from.encode()
	if err != nil {
		return store.InboundSession{}, err
	}
	return store.InboundSession{
		SessionRef: ref, Pickle: sess.PickleLibOlm(), Owner: owner, Source: source,
		FirstIndex: sess.FirstKnownIndex(), SharedHistory: isTrue(data, fieldSharedHistory) || isTrue(data, fieldSharedUnstable),
	}, nil
}

// forwardedBy gives the devices by which a room key was forwarded, in order, as its data
// says. What is no such list is an empty one, not null.
func forwardedBy(data strictjson.Object) []string {
	chain := []string{}
	if raw := data.Get(fieldForwards); raw == nil || json.Unmarshal(raw, &chain) != nil || chain == nil {
		return []string{}
	}
	return chain
}

func claimedKey(data strictjson.Object) id.Ed25519 {
	claimed, err := strictjson.Parse(data.Get("sender_claimed_keys"))
	if err != nil {
		return ""
	}
	key, _ := claimed.Text("ed25519")
	return id.Ed25519(key)
}

func isTrue(data strictjson.Object, name string) bool { return string(data.Get(name)) == "true" }

// attestedOwner gives the owner of a key whose data is authentic: whom it names, if that
// is the owner of this session; or its keys alone, where another client wrote it. Nobody
// when what is said is no owner of this session.
func attestedOwner(ref store.SessionRef, data strictjson.Object) trustcache.Owner {
	senderKey, _ := data.Text("sender_key")
	keys := trustcache.Owner{Curve25519: id.Curve25519(senderKey), Ed25519: claimedKey(data), Attested: true}
	if keys.Curve25519 == "" || keys.Ed25519 == "" {
		return trustcache.Owner{}
	}
	raw := data.Get(fieldOwner)
	if raw == nil {
		return keys
	}
	var named backedOwner
	if json.Unmarshal(raw, &named) != nil {
		return trustcache.Owner{}
	}
	o := named.Owner
	if named.RoomID != ref.RoomID || named.SessionID != ref.SessionID || o.UserID == "" ||
		o.Curve25519 != keys.Curve25519 || o.Ed25519 != keys.Ed25519 {
		return trustcache.Owner{}
	}
	o.Attested = true
	return o
}
