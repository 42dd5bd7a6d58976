package trustcache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
)

// Limits of one signed object. A master key carries the signatures of its owner's devices,
// a device the names of its keys; both have a few kilobytes in practice.
const (
	maxObject  = 256 << 10
	maxDepth   = 16
	maxMembers = 4096
)

var (
	// ErrMalformed means that an object is not as the specification describes it: wrong types,
	// duplicate names, invalid UTF-8, numbers that canonical JSON does not allow, too large,
	// too deep (attack A26).
	ErrMalformed = errors.New("malformed object")
	// ErrSignature means that a signature that must be there is missing or wrong.
	ErrSignature = errors.New("missing or wrong signature")
)

// parseObject reads a signed object: exactly one JSON object, without duplicate names or
// invalid UTF-8 at any depth, and within the limits.
func parseObject(raw []byte) (strictjson.Object, error) {
	if len(raw) > maxObject {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(raw))
	}
	if tooDeep(raw) {
		return nil, fmt.Errorf("%w: too deep", ErrMalformed)
	}
	return members(raw)
}

// members reads a value that must be an object, inside one that parseObject accepted.
func members(value []byte) (strictjson.Object, error) {
	out, err := strictjson.Parse(value)
	if err != nil {
		return nil, fmt.Errorf("%w: not an object that is read strictly", ErrMalformed)
	}
	if len(out) > maxMembers {
		return nil, fmt.Errorf("%w: too many members", ErrMalformed)
	}
	return out, nil
}

// text returns a member that must be a string.
func text(o strictjson.Object, name string) (string, error) {
	s, ok := o.Text(name)
	if !ok {
		return "", fmt.Errorf("%w: %s is not a string", ErrMalformed, name)
	}
	return s, nil
}

// texts returns a member that must be an object of strings.
func texts(o strictjson.Object, name string) (map[string]string, error) {
	inner, err := members(o.Get(name))
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(inner))
	for _, m := range inner {
		s, ok := unquote(jsontext.Value(m.Value))
		if !ok {
			return nil, fmt.Errorf("%w: a value is not a string", ErrMalformed)
		}
		out[m.Name] = s
	}
	return out, nil
}

// list returns a member that must be an array of strings.
func list(o strictjson.Object, name string) ([]string, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(o.Get(name)))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '[' {
		return nil, fmt.Errorf("%w: %s is not a list", ErrMalformed, name)
	}
	var out []string
	for dec.PeekKind() == '"' && len(out) < maxMembers {
		tok, err := dec.ReadToken()
		if err != nil {
			return nil, fmt.Errorf("%w: %s", ErrMalformed, name)
		}
		out = append(out, tok.String())
	}
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != ']' {
		return nil, fmt.Errorf("%w: %s is not a list of strings", ErrMalformed, name)
	}
	return out, nil
}

func unquote(value jsontext.Value) (string, bool) {
	if value.Kind() != '"' {
		return "", false
	}
	s, err := jsontext.AppendUnquote(nil, value)
	return string(s), err == nil
}

// signedBytes returns the bytes that a signature of the object covers: canonical JSON
// without "signatures" and "unsigned" (Appendices, Signing JSON).
func signedBytes(o strictjson.Object) ([]byte, error) {
	msg := append(make(json.RawMessage, 0, 512), '{')
	for _, m := range o {
		if m.Name == "signatures" || m.Name == "unsigned" {
			continue
		}
		if len(msg) > 1 {
			msg = append(msg, ',')
		}
		quoted, err := jsontext.AppendQuote(msg, m.Name)
		if err != nil {
			return nil, fmt.Errorf("%w: a name", ErrMalformed)
		}
		msg = append(append(quoted, ':'), m.Value...)
	}
	msg = append(msg, '}')
	if !numbersCanBeSigned(msg) {
		return nil, fmt.Errorf("%w: a number that cannot be signed", ErrMalformed)
	}
	if err := canonicaljson.Canonicalize(&msg); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return msg, nil
}

// signed holds one user's signatures of an object and the bytes that they cover.
type signed struct {
	signatures map[string]string // by key ID
	message    []byte
}

// signedBy returns the signatures by user of an object. To have none is not an error.
func signedBy(o strictjson.Object, user id.UserID) (signed, error) {
	raw := o.Get("signatures")
	if raw == nil {
		return signed{}, nil
	}
	all, err := members(raw)
	if err != nil {
		return signed{}, fmt.Errorf("signatures: %w", err)
	}
	if all.Get(user.String()) == nil {
		return signed{}, nil
	}
	var out signed
	if out.signatures, err = texts(all, user.String()); err != nil {
		return signed{}, fmt.Errorf("signatures: %w", err)
	}
	out.message, err = signedBytes(o)
	return out, err
}

// byDevice reports whether key signed the object under the key ID of a device. Device IDs
// are compared byte for byte.
func (s signed) byDevice(device id.DeviceID, key id.Ed25519) bool {
	return s.check(s.signatures["ed25519:"+device.String()], key)
}

// byIdentity reports whether a cross-signing key signed the object. Its key ID is the
// key itself, which may be spelled with padding.
func (s signed) byIdentity(key id.Ed25519) bool {
	if sig, ok := s.signatures["ed25519:"+key.String()]; ok {
		return s.check(sig, key)
	}
	return s.check(s.signatures["ed25519:"+key.String()+"="], key)
}

func (s signed) check(signature string, key id.Ed25519) bool {
	if signature == "" || key == "" || len(signature) > 128 {
		return false
	}
	sig, err := decodeBase64(signature)
	if err != nil {
		return false
	}
	ok, err := signatures.VerifySignature(s.message, key, sig)
	return err == nil && ok
}
