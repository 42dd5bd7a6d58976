package megolm

import (
	"encoding/json"
	"fmt"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Members of a room key's data, in a backup, an export or a forward, beyond those of the
// specification's first version.
const (
	FieldUnauthentic    = "org.matrix.msc4048.unauthenticated"
	FieldSharedHistory  = "shared_history"
	FieldSharedUnstable = "org.matrix.msc3061.shared_history"
	FieldForwards       = "forwarding_curve25519_key_chain"
	// FieldOwner is the proxy's own: MSC4048 attests a key's sender_key, but not whose
	// device that is.
	FieldOwner = "dev.e2ee-proxy.owner"
)

// maxExtra bounds the stored members of other clients, in bytes.
const maxExtra = 4096

// extraMembers returns the members of session data that we do not know; nil when there are
// none or they are too large.
func extraMembers(data strictjson.Object) json.RawMessage {
	var extra strictjson.Object
	for _, m := range data {
		switch m.Name {
		case "algorithm", "sender_claimed_keys", "sender_key", "session_key", "room_id", "session_id",
			FieldSharedHistory, FieldSharedUnstable, FieldUnauthentic, FieldOwner:
		default:
			extra = append(extra, m)
		}
	}
	raw := extra.Encode()
	if len(extra) == 0 || len(raw) > maxExtra {
		return nil
	}
	return raw
}

// NamedOwner is the value of FieldOwner. It names the session, so that the homeserver
// cannot swap owners between sessions.
type NamedOwner struct {
	RoomID    id.RoomID        `json:"room_id"`
	SessionID id.SessionID     `json:"session_id"`
	Owner     trustcache.Owner `json:"owner"`
}

// Data returns the data of a room key for a backup or an export. Unknown members from the
// backup that it came from are kept.
func Data(row *store.InboundSession) (strictjson.Object, Owner, error) {
	sess := &session.MegolmInboundSession{}
	if err := sess.UnpickleLibOlm(row.Pickle.Reveal()); err != nil {
		return nil, Owner{}, fmt.Errorf("unpickle room key: %w", err)
	}
	exported, err := sess.Export(row.FirstIndex)
	if err != nil {
		return nil, Owner{}, fmt.Errorf("export room key: %w", err)
	}
	from := ReadOwner(row.Owner)
	data, err := strictjson.Parse(from.Extra)
	if err != nil {
		data = nil
	}
	shared := json.RawMessage(`false`)
	if row.SharedHistory {
		shared = json.RawMessage(`true`)
	}
	chain, err := json.Marshal(ForwardedBy(data))
	if err != nil {
		return nil, Owner{}, fmt.Errorf("encode room key: %w", err)
	}
	return data.
		Set("algorithm", strictjson.Quote(wire.AlgorithmMegolm)).
		Set(FieldForwards, chain).
		Set("sender_claimed_keys", strictjson.Object{{Name: "ed25519", Value: strictjson.Quote(from.Ed25519.String())}}.Encode()).
		Set("sender_key", strictjson.Quote(from.Curve25519.String())).
		Set("session_key", strictjson.Quote(string(exported))).
		Set(FieldSharedHistory, shared), from, nil // requirement 17.4
}

// FromData parses the data of a room key from a backup or an export. With attested the
// named owner is believed, if it matches the key.
func FromData(ref store.SessionRef, raw json.RawMessage, source store.Source, attested bool) (store.InboundSession, error) {
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
	from := Owner{Extra: extraMembers(data)}
	if attested && data.Get(FieldUnauthentic) == nil {
		from.Owner = attestedOwner(ref, data)
	}
	if !from.Attested { // the claimed owner is kept for exports and forwards, and proves nothing
		senderKey, _ := data.Text("sender_key")
		from.Owner = trustcache.Owner{Curve25519: id.Curve25519(senderKey), Ed25519: claimedKey(data)}
	}
	owner, err := from.Encode()
	if err != nil {
		return store.InboundSession{}, err
	}
	return store.InboundSession{
		SessionRef: ref, Pickle: sess.PickleLibOlm(), Owner: owner, Source: source,
		FirstIndex: sess.FirstKnownIndex(), SharedHistory: isTrue(data, FieldSharedHistory) || isTrue(data, FieldSharedUnstable),
	}, nil
}

// ForwardedBy returns the devices that forwarded a room key, in order, as its data says. A
// malformed list counts as empty and is never nil.
func ForwardedBy(data strictjson.Object) []string {
	chain := []string{}
	if raw := data.Get(FieldForwards); raw == nil || json.Unmarshal(raw, &chain) != nil || chain == nil {
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

// attestedOwner returns the owner of a key whose data is authentic: the owner that it names
// for this session, or only the sender's keys if another client wrote it. The zero value
// means that nobody is attested.
func attestedOwner(ref store.SessionRef, data strictjson.Object) trustcache.Owner {
	senderKey, _ := data.Text("sender_key")
	keys := trustcache.Owner{Curve25519: id.Curve25519(senderKey), Ed25519: claimedKey(data), Attested: true}
	if keys.Curve25519 == "" || keys.Ed25519 == "" {
		return trustcache.Owner{}
	}
	raw := data.Get(FieldOwner)
	if raw == nil {
		return keys
	}
	var named NamedOwner
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
