package megolm

import (
	"encoding/json"
	"fmt"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Owner is what is stored with a room key: its owner, as far as that is proven,
// attested or claimed, and what else other clients had written beside one that came from a
// backup, an import or a bundle, so that it is not lost when the key is given on.
type Owner struct {
	trustcache.Owner
	Extra json.RawMessage `json:"extra,omitempty"`
	// Contested reports whether the session has more owners: see moreowners.go.
	Contested bool `json:"contested,omitempty"`
}

// Encode returns the owner as it is stored.
func (o Owner) Encode() (secret.Bytes, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode key owner: %w", err)
	}
	return raw, nil
}

// ReadOwner reads an owner back; an unreadable one is nobody.
func ReadOwner(raw secret.Bytes) Owner {
	var o Owner
	if json.Unmarshal(raw.Reveal(), &o) != nil {
		return Owner{}
	}
	return o
}

// sameDevice reports whether two owners are one device, as far as both are named.
func sameDevice(a, b trustcache.Owner) bool {
	return a.Curve25519 == b.Curve25519 && a.Ed25519 == b.Ed25519 && (a.UserID == b.UserID || a.UserID == "" || b.UserID == "")
}

// ProvesOwner reports whether a key's source proves whose it is.
func ProvesOwner(source store.Source, owner trustcache.Owner) bool {
	return source == store.SourceDirect || owner.Attested
}

// WriteOwner returns an owner without more to say as it is stored.
func WriteOwner(o trustcache.Owner) (secret.Bytes, error) { return Owner{Owner: o}.Encode() }

// WhoseOwner reads an owner back; an unreadable one is nobody.
func WhoseOwner(raw secret.Bytes) trustcache.Owner {
	var o trustcache.Owner
	if json.Unmarshal(raw.Reveal(), &o) != nil {
		return trustcache.Owner{}
	}
	return o
}
