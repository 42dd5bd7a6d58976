package interceptors

import (
	"bytes"
	"encoding/base64"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// The bodies of the control API are read strictly: a member that is unknown, named twice
// or of another kind is refused, since a misspelt "confirm" must not count as said.

// readControl reads a body into v. A blank one counts as {}.
func readControl(x *Exchange, v any) error {
	raw, err := readBody(x)
	if err != nil {
		return err
	}
	if isBlank(raw) {
		raw = []byte("{}")
	}
	if err := checkObject(raw); err != nil {
		return err
	}
	// The decoder's errors quote what it read, which may be a secret.
	if json.Unmarshal(raw, v, json.RejectUnknownMembers(true)) != nil {
		return BadJSON("The request body has a member that is unknown, twice there, or of the wrong kind.")
	}
	return nil
}

// authBody is what bootstrap and reset take.
type authBody struct {
	Password *secret.String `json:"password"`
	// Auth is for the homeserver's user-interactive authentication, when a first call was
	// answered with its flows (401).
	Auth    jsontext.Value `json:"auth"`
	Confirm *bool          `json:"confirm"`
}

// auth gives what the body says, which must not be two things.
func (b *authBody) auth() (Auth, error) {
	var out Auth
	if b.Password != nil {
		if b.Password.IsZero() {
			return out, BadJSON("The password is empty.")
		}
		out.Password = *b.Password
	}
	if b.Auth != nil {
		if b.Auth.Kind() != jsontext.KindBeginObject {
			return out, BadJSON("auth must be an object.")
		}
		if b.Password != nil {
			return out, BadJSON("Give either password or auth.")
		}
		out.Stage = bytes.Clone(b.Auth)
	}
	return out, nil
}

// recoverBody is what recover takes.
type recoverBody struct {
	RecoveryKey *secret.String `json:"recovery_key"`
	Passphrase  *secret.String `json:"passphrase"`
	// Restore has the whole history fetched from the key backup, in the background; GET
	// status tells how that goes. Without it a key is fetched when an event needs it.
	Restore bool `json:"restore"`
}

// recovery gives what the body says: exactly one thing to recover with.
func (b *recoverBody) recovery() (Recovery, error) {
	switch {
	case (b.RecoveryKey == nil) == (b.Passphrase == nil):
		return Recovery{}, BadJSON("Give either recovery_key or passphrase.")
	case b.RecoveryKey != nil && !b.RecoveryKey.IsZero():
		return Recovery{Key: *b.RecoveryKey, Restore: b.Restore}, nil
	case b.Passphrase != nil && !b.Passphrase.IsZero():
		return Recovery{Passphrase: *b.Passphrase, Restore: b.Restore}, nil
	}
	return Recovery{}, BadJSON("The recovery key or passphrase is empty.")
}

// acknowledgeBody is what acknowledge takes.
type acknowledgeBody struct {
	MasterKey *string `json:"master_key"`
}

// masterKey gives the Ed25519 key in unpadded base64; padding is taken off (requirement 2.9).
func (b *acknowledgeBody) masterKey() (id.Ed25519, error) {
	if b.MasterKey == nil {
		return "", MissingParam("master_key is missing: give the user's current master key.")
	}
	text := bytes.TrimRight([]byte(*b.MasterKey), "=")
	raw, err := base64.RawStdEncoding.DecodeString(string(text))
	if err != nil || len(raw) != 32 {
		return "", InvalidParam("master_key is not a public Ed25519 key in base64.")
	}
	return id.Ed25519(base64.RawStdEncoding.EncodeToString(raw)), nil
}

// overrideBody is what override takes.
type overrideBody struct {
	Trusted jsontext.Value `json:"trusted"`
}

// trusted gives the exception; nil, which is null in the body, removes it.
func (b *overrideBody) trusted() (*bool, error) {
	kind := b.Trusted.Kind()
	if kind == jsontext.KindInvalid {
		return nil, MissingParam("trusted is missing: say true, false, or null for no exception.")
	}
	if kind == jsontext.KindNull {
		return nil, nil
	}
	yes := kind == jsontext.KindTrue
	if !yes && kind != jsontext.KindFalse {
		return nil, BadJSON("trusted must be true, false or null.")
	}
	return &yes, nil
}

// emptyBody is for calls that take nothing.
type emptyBody struct{}
