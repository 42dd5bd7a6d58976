package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// Device is what all parts of a device share: whose it is, its stored row and its lock.
type Device struct {
	Env     *Env
	Account *Account
	Self
	lifetime

	// mu guards the record and the parts, except where they say otherwise. It is never held
	// during a request to the homeserver.
	Mu     locks.Mutex
	Record Record
	// News counts changes to rooms and key counts that a sync in flight may not know of.
	News int
}

// Self identifies a device. It never changes.
type Self struct {
	ID    id.DeviceID
	RowID int64
	Mode  Mode

	Ed25519    id.Ed25519
	Curve25519 id.Curve25519
}

// lifetime is how a device ends.
type lifetime struct {
	Context context.Context // nil before the device is in use
	Stop    context.CancelCauseFunc

	MustReload atomic.Bool // see ErrReload
}

// Record is the stored row of a device, with its token.
type Record struct {
	Row   store.Device
	Token secret.String
	// nextToken replaces token when the homeserver refuses token, or the client uses
	// nextToken.
	NextToken secret.String
}

// Meta is the Meta of a proxied device's row.
type Meta struct {
	// Notices are the warnings that were shown: the next_batch of the response that carried
	// them, marked once the client has synced from it; see package notices.
	Notices map[string]string `json:"notices,omitempty"`
	// Begun are those that began Olm sessions and were given no room key since.
	Begun []id.Curve25519 `json:"begun,omitempty"`
	// Fallback is the fallback key that the homeserver is known to have.
	Fallback id.Curve25519 `json:"fallback,omitempty"`
	// KeysEpoch is the epoch of the account in which one-time keys were made last: those of an
	// earlier one are not uploaded, see package devicekeys.
	KeysEpoch int64 `json:"keys_epoch,omitempty"`
	// PassedOn is the self-signing key whose signature was uploaded with the device's keys.
	PassedOn id.Ed25519 `json:"passed_on,omitempty"`
	// Logins are how often somebody logged in as the device, which numbers its sessions.
	Logins int `json:"logins,omitempty"`
}

// ReadMeta reads the Meta of a row; what cannot be read is empty.
func ReadMeta(raw json.RawMessage) Meta {
	var m, none Meta
	if raw == nil || json.Unmarshal(raw, &m) != nil {
		return none
	}
	return m
}

// Ended reports whether the device does nothing on its own any more, or not yet.
func (p *Device) Ended() bool { return p.Context == nil || p.Context.Err() != nil }

// IsPublished reports whether the homeserver confirmed the device's keys, and shows them as
// they are.
func (p *Device) IsPublished() bool {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	return p.Record.Row.KeysUploaded
}

// NewsNow returns how much news there was, for [Device.News].
func (p *Device) NewsNow() int {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	return p.News
}

// CurrentToken returns the token for the proxy's own requests.
func (p *Device) CurrentToken() secret.String {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	return p.Record.Token
}

// Call sends a request in the device's name. If the homeserver does not know the token any
// more, the device's own work ends until a client brings another.
func (p *Device) Call(ctx context.Context, r wire.Request) error {
	if err := p.Env.Store.MayAct(); err != nil {
		return fmt.Errorf("%s: %w", r.Op, err) // it was stopped, and somebody else may act for it
	}
	token := p.CurrentToken()
	if token.IsZero() {
		return &wire.UpstreamError{Op: r.Op, Status: 401, ErrCode: "M_MISSING_TOKEN"}
	}
	r.User = p.Account.User
	err := p.Env.Homeserver.Call(ctx, token, r)
	if errors.Is(err, wire.ErrAnswerTooLarge) { // a retry would be too large too
		p.Env.Log.Warn().Err(err).Msg("An answer of the homeserver could not be taken in")
	}
	return err
}

// Query returns a client for /keys/query.
func (p *Device) Query() wire.KeyQuery {
	return wire.KeyQuery{Homeserver: p.Env.Homeserver, Token: p.CurrentToken(), User: p.Account.User}
}

// ErrReload means that the database did not tell whether a step was stored. Memory may be
// outdated: the next use loads the device again, and work that still uses this one stores
// nothing and returns nothing.
var ErrReload = errors.New("what is stored of the device is not known: it is loaded anew")

// DetachedFor bounds work of several steps that continues without the request that began
// it.
const DetachedFor = 2 * time.Minute

// Detach returns a context for work that has begun to change something: it does not end
// with the request that caused it, but after a bound of its own.
func Detach(ctx context.Context, bound time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), bound)
}

// DetachUntilStop is detach for work of this device: it also ends when the engine stops.
func (p *Device) DetachUntilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := Detach(ctx, DetachedFor)
	stop := context.AfterFunc(p.Env.Context, cancel)
	return ctx, func() { stop(); cancel() }
}
