package wire

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
)

// Signable returns the canonical JSON of an object without signatures and unsigned
// (requirement 2.9).
func Signable(obj json.RawMessage) ([]byte, error) {
	parsed, err := strictjson.Parse(obj)
	if err != nil {
		return nil, err
	}
	bare := parsed.Without("signatures").Without("unsigned").Encode()
	if err := canonicaljson.Canonicalize(&bare); err != nil {
		return nil, fmt.Errorf("canonical JSON: %w", err)
	}
	return bare, nil
}

// AddSignature adds a signature to an object.
func AddSignature(obj json.RawMessage, user id.UserID, keyID, signature string) (json.RawMessage, error) {
	parsed, err := strictjson.Parse(obj)
	if err != nil {
		return nil, err
	}
	signatures := map[string]map[string]string{}
	if raw := parsed.Get("signatures"); raw != nil {
		if err := json.Unmarshal(raw, &signatures); err != nil {
			return nil, fmt.Errorf("%w: signatures", strictjson.ErrMalformed)
		}
	}
	if signatures == nil { // null instead of a list
		signatures = map[string]map[string]string{}
	}
	if signatures[user.String()] == nil {
		signatures[user.String()] = map[string]string{}
	}
	signatures[user.String()][keyID] = signature
	raw, err := json.Marshal(signatures)
	if err != nil {
		return nil, fmt.Errorf("encode signatures: %w", err)
	}
	return parsed.Set("signatures", raw).Encode(), nil
}

// SignWith adds a key's signature to an object.
func SignWith(obj json.RawMessage, user id.UserID, key *pk.Signing) (json.RawMessage, error) {
	msg, err := Signable(obj)
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(msg)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return AddSignature(obj, user, "ed25519:"+key.PublicKey().String(), string(sig))
}

// Base64 returns unpadded base64, as everywhere in Matrix.
func Base64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }
