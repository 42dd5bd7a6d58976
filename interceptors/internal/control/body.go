package control

import (
	"bytes"
	"encoding/base64"
	"errors"
	"reflect"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/secret"
)

// The bodies of the control API are read strictly: a member that is unknown, named twice or
// of the wrong type is refused, since a misspelt "confirm" must not count.

// readBody reads a body into v. A blank one counts as {}.
func readBody(x *exchange.Exchange, v any) error {
	raw, err := x.ReadBody()
	if err != nil {
		return err
	}
	if exchange.IsBlank(raw) {
		raw = []byte("{}")
	}
	if err := exchange.CheckObject(raw); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v, json.RejectUnknownMembers(true)); err != nil {
		return badBody(err, v)
	}
	return nil
}

// badBody returns an error that says what is wrong with a body. The decoder's errors
// quote the body, which may hold a secret, so only the name of a member is taken from them,
// and only if it could be one. It is in the hint, which is not logged.
func badBody(err error, v any) error {
	what, name := "of the wrong kind", ""
	semantic, _ := errors.AsType[*json.SemanticError](err)
	syntactic, _ := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		what = "twice there"
	case errors.Is(err, json.ErrUnknownName):
		what = "unknown"
	}
	var at jsontext.Pointer
	switch {
	case semantic != nil:
		at = semantic.JSONPointer
	case syntactic != nil:
		at = syntactic.JSONPointer
	}
	for name = range at.Tokens() {
		break // the body's own member, whatever is wrong inside it
	}
	e := apierr.BadJSON("The request body has a member that is " + what + ".")
	if couldBeMember(name) {
		e.Hint = "It is " + strconv.Quote(name) + "."
	}
	takes := members(v)
	if len(takes) == 0 {
		e.Hint += " This call takes no members."
	} else {
		e.Hint += " This call takes " + strings.Join(takes, ", ") + "."
	}
	e.Hint = strings.TrimSpace(e.Hint)
	return e
}

// couldBeMember reports whether a text may be a misspelt member's name.
func couldBeMember(name string) bool {
	const most = 32
	return name != "" && len(name) <= most && strings.IndexFunc(name, func(r rune) bool {
		return r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}

// members returns the names of the members that a body can have.
func members(v any) []string {
	var names []string
	for field := range reflect.TypeOf(v).Elem().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// authBody is the body of bootstrap and reset.
type authBody struct {
	Password *secret.String `json:"password"`
	// Auth is for the homeserver's user-interactive authentication, when a first call was
	// answered with its flows (401).
	Auth    jsontext.Value `json:"auth"`
	Confirm *bool          `json:"confirm"`
}

// auth returns the authentication in the body, a password or auth but not both.
func (b *authBody) auth() (e2ee.UserAuth, error) {
	var out e2ee.UserAuth
	if b.Password != nil {
		if b.Password.IsZero() {
			return out, apierr.BadJSON("The password is empty.")
		}
		out.Password = *b.Password
	}
	if b.Auth != nil {
		if b.Auth.Kind() != jsontext.KindBeginObject {
			return out, apierr.BadJSON("auth must be an object.")
		}
		if b.Password != nil {
			return out, apierr.BadJSON("Give either password or auth.")
		}
		out.Stage = bytes.Clone(b.Auth)
	}
	return out, nil
}

// recoverBody is the body of recover.
type recoverBody struct {
	RecoveryKey *secret.String `json:"recovery_key"`
	Passphrase  *secret.String `json:"passphrase"`
	// Restore starts fetching all keys from the key backup, in the background; GET status
	// shows the progress. Without it a key is fetched when an event needs it.
	Restore bool `json:"restore"`
}

// recovery returns the recovery key or the passphrase in the body, exactly one of which
// must be there.
func (b *recoverBody) recovery() (e2ee.Recovery, error) {
	switch {
	case (b.RecoveryKey == nil) == (b.Passphrase == nil):
		return e2ee.Recovery{}, apierr.BadJSON("Give either recovery_key or passphrase.")
	case b.RecoveryKey != nil && !b.RecoveryKey.IsZero():
		return e2ee.Recovery{Key: *b.RecoveryKey, Restore: b.Restore}, nil
	case b.Passphrase != nil && !b.Passphrase.IsZero():
		return e2ee.Recovery{Passphrase: *b.Passphrase, Restore: b.Restore}, nil
	}
	return e2ee.Recovery{}, apierr.BadJSON("The recovery key or passphrase is empty.")
}

// acknowledgeBody is the body of acknowledge.
type acknowledgeBody struct {
	MasterKey *string `json:"master_key"`
}

// masterKey returns the Ed25519 key in unpadded base64; padding is taken off (requirement
// 2.9).
func (b *acknowledgeBody) masterKey() (id.Ed25519, error) {
	if b.MasterKey == nil {
		return "", apierr.MissingParam("master_key is missing: give the user's current master key.")
	}
	text := bytes.TrimRight([]byte(*b.MasterKey), "=")
	raw, err := base64.RawStdEncoding.DecodeString(string(text))
	if err != nil || len(raw) != 32 {
		return "", apierr.InvalidParam("master_key is not a public Ed25519 key in base64.")
	}
	return id.Ed25519(base64.RawStdEncoding.EncodeToString(raw)), nil
}

// overrideBody is the body of override.
type overrideBody struct {
	Trusted jsontext.Value `json:"trusted"`
}

// trusted returns the exception; nil, for null in the body, removes it.
func (b *overrideBody) trusted() (*bool, error) {
	kind := b.Trusted.Kind()
	if kind == jsontext.KindInvalid {
		return nil, apierr.MissingParam("trusted is missing: say true, false, or null for no exception.")
	}
	if kind == jsontext.KindNull {
		return nil, nil
	}
	yes := kind == jsontext.KindTrue
	if !yes && kind != jsontext.KindFalse {
		return nil, apierr.BadJSON("trusted must be true, false or null.")
	}
	return &yes, nil
}

// emptyBody is the body of calls without parameters.
type emptyBody struct{}
