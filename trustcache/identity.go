package trustcache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
)

// Identity is a user's cross-signing keys ("digital identity"). A key that is not
// known is empty. SelfSigning and UserSigning were signed by Master.
type Identity struct {
	Master      id.Ed25519
	SelfSigning id.Ed25519
	UserSigning id.Ed25519 // own user only (requirement 12.10)

	MasterRaw      json.RawMessage // as they came, verified
	SelfSigningRaw json.RawMessage
	UserSigningRaw json.RawMessage
}

// Keys returns the public keys that are known.
func (i *Identity) Keys() []id.Ed25519 {
	out := make([]id.Ed25519, 0, 3)
	for _, k := range []id.Ed25519{i.Master, i.SelfSigning, i.UserSigning} {
		if k != "" {
			out = append(out, k)
		}
	}
	return out
}

// ErrNoIdentity means that a user has no digital identity.
var ErrNoIdentity = errors.New("the user has no digital identity")

// ParseIdentity reads a user's cross-signing keys as /keys/query returns them and
// checks them (requirements 12.1 to 12.3): one key each, whose name is the key, for the
// usage of its slot, all different, self-signing and user-signing key signed by the
// master key. The master key needs no signature (0.5). selfSigning and userSigning may
// be nil; a key that is there must be right.
//
// Errors are ErrNoIdentity (no master key), ErrMalformed, ErrBadKey and ErrSignature.
func ParseIdentity(user id.UserID, master, selfSigning, userSigning json.RawMessage) (Identity, error) {
	if absent(master) {
		return Identity{}, ErrNoIdentity
	}
	var out Identity
	var err error
	if out.Master, _, err = readCrossSigningKey(master, user, id.XSUsageMaster); err != nil {
		return Identity{}, err
	}
	out.MasterRaw = bytes.Clone(master)
	if !absent(selfSigning) {
		if out.SelfSigning, err = readSubkey(selfSigning, user, id.XSUsageSelfSigning, out.Master); err != nil {
			return Identity{}, err
		}
		out.SelfSigningRaw = bytes.Clone(selfSigning)
	}
	if !absent(userSigning) {
		if out.UserSigning, err = readSubkey(userSigning, user, id.XSUsageUserSigning, out.Master); err != nil {
			return Identity{}, err
		}
		out.UserSigningRaw = bytes.Clone(userSigning)
	}
	if out.Master == out.SelfSigning || out.Master == out.UserSigning ||
		(out.SelfSigning != "" && out.SelfSigning == out.UserSigning) {
		return Identity{}, fmt.Errorf("cross-signing keys: %w: one key in two slots", ErrMalformed)
	}
	return out, nil
}

// absent reports whether a value is missing or null, which servers send alike.
func absent(raw json.RawMessage) bool {
	return len(raw) == 0 || string(bytes.TrimSpace(raw)) == "null"
}

func readSubkey(raw json.RawMessage, user id.UserID, usage id.CrossSigningUsage, master id.Ed25519) (id.Ed25519, error) {
	key, obj, err := readCrossSigningKey(raw, user, usage)
	if err != nil {
		return "", err
	}
	s, err := signedBy(obj, user)
	if err != nil {
		return "", fmt.Errorf("%s key: %w", usage, err)
	}
	if !s.byIdentity(master) {
		return "", fmt.Errorf("%s key: %w: the master key's", usage, ErrSignature)
	}
	return key, nil
}

// readCrossSigningKey reads one cross-signing key object without looking at signatures.
func readCrossSigningKey(raw json.RawMessage, user id.UserID, usage id.CrossSigningUsage) (id.Ed25519, strictjson.Object, error) {
	obj, err := parseObject(raw)
	if err != nil {
		return "", nil, fmt.Errorf("%s key: %w", usage, err)
	}
	owner, err := text(obj, "user_id")
	if err != nil {
		return "", nil, fmt.Errorf("%s key: %w", usage, err)
	}
	if owner != user.String() {
		return "", nil, fmt.Errorf("%s key: %w: it belongs to another user", usage, ErrMalformed)
	}
	usages, err := list(obj, "usage")
	if err != nil {
		return "", nil, fmt.Errorf("%s key: %w", usage, err)
	}
	if len(usages) != 1 || usages[0] != string(usage) {
		return "", nil, fmt.Errorf("%s key: %w: it is for another usage", usage, ErrMalformed)
	}
	key, err := onlyKey(obj)
	if err != nil {
		return "", nil, fmt.Errorf("%s key: %w", usage, err)
	}
	return key, obj, nil
}

// onlyKey returns the single key of a cross-signing key object (requirement 12.2).
func onlyKey(o strictjson.Object) (id.Ed25519, error) {
	keys, err := texts(o, "keys")
	if err != nil {
		return "", fmt.Errorf("keys: %w", err)
	}
	if len(keys) != 1 {
		return "", fmt.Errorf("%w: %d keys", ErrMalformed, len(keys))
	}
	for name, value := range keys {
		bare, ok := strings.CutPrefix(name, "ed25519:")
		if !ok {
			return "", fmt.Errorf("%w: not an ed25519 key", ErrMalformed)
		}
		key, err := parseEd25519(value)
		if err != nil {
			return "", err
		}
		named, err := parseEd25519(bare)
		if err != nil {
			return "", err
		}
		if named != key {
			return "", fmt.Errorf("%w: the key is not the one it is named after", ErrMalformed)
		}
		return key, nil
	}
	return "", ErrMalformed
}

// masterSignedBy reports whether a user-signing key of signer has signed a user's
// master key object.
func masterSignedBy(raw json.RawMessage, signer id.UserID, key id.Ed25519) bool {
	if key == "" || absent(raw) {
		return false
	}
	obj, err := parseObject(raw)
	if err != nil {
		return false
	}
	s, err := signedBy(obj, signer)
	return err == nil && s.byIdentity(key)
}
