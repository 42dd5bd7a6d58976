package megolm

import (
	"encoding/json"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Owner is stored with a room key: its proven, attested or claimed owner, and unknown
// members of a backup, an import or a bundle, so that they are kept when the key is passed
// on.
type Owner struct {
	trustcache.Owner
	Extra json.RawMessage `json:"extra,omitempty"`
	// Contested reports whether the session has more owners: see moreowners.go.
	Contested bool `json:"contested,omitempty"`
	// SharedBy is who gave the key in a bundle of a room's history (requirement 17.7).
	SharedBy id.UserID `json:"shared_by,omitempty"`
}

// Encode encodes the owner for the store.
func (o Owner) Encode() (secret.Bytes, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode key owner: %w", err)
	}
	return raw, nil
}

// ReadOwner decodes a stored owner; an unreadable one is nobody.
func ReadOwner(raw secret.Bytes) Owner {
	var o Owner
	if json.Unmarshal(raw.Reveal(), &o) != nil {
		return Owner{}
	}
	return o
}

// sameDevice reports whether two owners are the same device, as far as both are named.
func sameDevice(a, b trustcache.Owner) bool {
	return a.Curve25519 == b.Curve25519 && a.Ed25519 == b.Ed25519 && (a.UserID == b.UserID || a.UserID == "" || b.UserID == "")
}

// ProvesOwner reports whether a key's source proves its owner.
func ProvesOwner(source store.Source, owner trustcache.Owner) bool {
	return source == store.SourceDirect || owner.Attested
}

// WriteOwner encodes an owner without further members.
func WriteOwner(o trustcache.Owner) (secret.Bytes, error) { return Owner{Owner: o}.Encode() }

// WhoseOwner decodes a stored owner without its further members; an unreadable one is
// nobody.
func WhoseOwner(raw secret.Bytes) trustcache.Owner {
	var o trustcache.Owner
	if json.Unmarshal(raw.Reveal(), &o) != nil {
		return trustcache.Owner{}
	}
	return o
}
