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
)

// Bounds of one signed object. A master key carries the signatures of its owner's
// devices, a device the names of its keys; both are a few kilobytes in practice.
const (
	maxObject  = 256 << 10
	maxDepth   = 16
	maxMembers = 4096
)

var (
	// ErrMalformed says that an object is not what the specification says it is:
	// wrong types, duplicate names, invalid UTF-8, numbers that canonical JSON cannot
	// carry, too large, too deep (attack A26).
	ErrMalformed = errors.New("malformed object")
	// ErrSignature says that a signature that must be there is missing or wrong.
	ErrSignature = errors.New("missing or wrong signature")
)

// object is a JSON object whose members were read strictly. Values alias its source.
type object struct {
	names  []string
	values []jsontext.Value
}

// parseObject reads a signed object: exactly one JSON object, without duplicate names
// or invalid UTF-8 at any depth, and within the bounds.
func parseObject(raw []byte) (object, error) {
	if len(raw) > maxObject {
		return object{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(raw))
	}
	if tooDeep(raw) {
		return object{}, fmt.Errorf("%w: too deep", ErrMalformed)
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw))
	out, err := readMembers(dec, raw)
	if err != nil {
		return object{}, err
	}
	if len(bytes.Trim(raw[dec.InputOffset():], " \t\r\n")) != 0 {
		return object{}, fmt.Errorf("%w: something follows it", ErrMalformed)
	}
	return out, nil
}

// members reads a value inside an object that parseObject accepted.
func members(value jsontext.Value) (object, error) {
	return readMembers(jsontext.NewDecoder(bytes.NewBuffer(value)), value)
}

func readMembers(dec *jsontext.Decoder, raw []byte) (object, error) {
	tok, err := dec.ReadToken()
	if err != nil || tok.Kind() != '{' {
		return object{}, fmt.Errorf("%w: not an object", ErrMalformed)
	}
	var out object
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return object{}, fmt.Errorf("%w: not JSON", ErrMalformed)
		}
		out.names = append(out.names, name.String())
		value, err := dec.ReadValue()
		if err != nil {
			return object{}, fmt.Errorf("%w: not JSON", ErrMalformed)
		}
		end := int(dec.InputOffset())
		out.values = append(out.values, raw[end-len(value):end:end])
		if len(out.names) > maxMembers {
			return object{}, fmt.Errorf("%w: too many members", ErrMalformed)
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return object{}, fmt.Errorf("%w: not JSON", ErrMalformed)
	}
	return out, nil
}

func (o object) get(name string) jsontext.Value {
	for i, n := range o.names {
		if n == name {
			return o.values[i]
		}
	}
	return nil
}

// text gives a member that must be a string.
func (o object) text(name string) (string, error) {
	s, ok := unquote(o.get(name))
	if !ok {
		return "", fmt.Errorf("%w: %s is not a string", ErrMalformed, name)
	}
	return s, nil
}

// texts gives a member that must be an object of strings.
func (o object) texts(name string) (map[string]string, error) {
	inner, err := members(o.get(name))
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(inner.names))
	for i, n := range inner.names {
		s, ok := unquote(inner.values[i])
		if !ok {
			return nil, fmt.Errorf("%w: a value is not a string", ErrMalformed)
		}
		out[n] = s
	}
	return out, nil
}

// list gives a member that must be an array of strings.
func (o object) list(name string) ([]string, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(o.get(name)))
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

// signedBytes gives what a signature of the object covers: canonical JSON without
// "signatures" and "unsigned" (appendices: signing JSON).
func (o object) signedBytes() ([]byte, error) {
	msg := append(make(json.RawMessage, 0, 512), '{')
	for i, name := range o.names {
		if name == "signatures" || name == "unsigned" {
			continue
		}
		if len(msg) > 1 {
			msg = append(msg, ',')
		}
		quoted, err := jsontext.AppendQuote(msg, name)
		if err != nil {
			return nil, fmt.Errorf("%w: a name", ErrMalformed)
		}
		msg = append(append(quoted, ':'), o.values[i]...)
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

// signed is what one user's signatures of an object are and what they cover.
type signed struct {
	signatures map[string]string // by key ID
	message    []byte
}

// signedBy prepares to check the signatures that user made. None is not an error.
func (o object) signedBy(user id.UserID) (signed, error) {
	raw := o.get("signatures")
	if raw == nil {
		return signed{}, nil
	}
	all, err := members(raw)
	if err != nil {
		return signed{}, fmt.Errorf("signatures: %w", err)
	}
	if all.get(user.String()) == nil {
		return signed{}, nil
	}
	var out signed
	if out.signatures, err = all.texts(user.String()); err != nil {
		return signed{}, fmt.Errorf("signatures: %w", err)
	}
	out.message, err = o.signedBytes()
	return out, err
}

// byDevice reports whether key signed the object under the key ID of a device. The ID
// is compared byte for byte: device IDs have no other spelling.
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
