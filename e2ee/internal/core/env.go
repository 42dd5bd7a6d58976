package core

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Env is what all devices of an engine share. It does not change once the engine is made.
type Env struct {
	Store      *store.DB
	Homeserver *wire.Homeserver
	Now        func() time.Time
	Log        zerolog.Logger
	Counts     *counts
	Order      *locks.Order // nil but in tests

	// Policy returns the policy in force, Settings those of an account.
	Policy   func() trustcache.Policy
	Settings func(id.UserID) AccountSettings
	// PolicyVersion returns the version of the policy's settings, for the audit log.
	PolicyVersion func() string
	// Rules are the organisation's.
	Rules *orgrules.Rules
	// Spread, OneTimeKeys and ManualBootstrap are those of e2ee.Options.
	Spread          time.Duration
	OneTimeKeys     int
	ManualBootstrap bool

	// RoomsStored is called with the rooms of every step that was stored.
	RoomsStored func([]store.Room)

	tenures atomic.Uint64

	// Context ends when the engine stops, which then waits for WG.
	Context context.Context
	WG      sync.WaitGroup
}

// NewTenure returns a number for [Account.Tenure].
func (e *Env) NewTenure() uint64 { return e.tenures.Add(1) }

// Survive calls f. A panic of it is an error, and is logged: in a goroutine that no request waits
// for it would end the process, for all accounts, and again whenever the homeserver sends what it
// was about. The value could hold anything, so that only its type and place are logged.
func (e *Env) Survive(f func() error) error {
	err := parallel.Try(f)
	if p, ok := errors.AsType[*parallel.PanicError](err); ok {
		e.Log.Error().Str("panic", p.Kind).Bytes("stack", p.Stack).Msg("Something was not done, because of an error in the program")
	}
	return err
}

// AccountSettings are the settings of one account.
type AccountSettings struct {
	// AllowUnsigned allows a device that its owner has not confirmed to send
	// (account.require_cross_signing: false).
	AllowUnsigned bool
	// IgnoreSecretRequests leaves requests of the user's other devices for secrets
	// unanswered (account.secret_requests: ignore).
	IgnoreSecretRequests bool
	// AutoVerifyOwn accepts and confirms verifications with the user's own devices unseen, if
	// the user's identity has confirmed them (accounts.USER.auto_verify: [own]).
	AutoVerifyOwn bool
	// AcknowledgeUnverified acknowledges identity changes of users who were never
	// verified, for bots that nobody watches.
	AcknowledgeUnverified bool
	// NoNotices keeps warnings out of the rooms that the account's clients are shown
	// (clients.hide_warnings, accounts.USER.notices).
	NoNotices bool
	// ControlRoom shows the account's clients a control room, unless NoNotices
	// (policy.control_room).
	ControlRoom bool
	// MediaLinks shows the account's clients links by which they have files without a token
	// (media.links, accounts.USER.media_links).
	MediaLinks bool
	// RecoveryKey and Passphrase, when not empty, recover the identity without a person.
	RecoveryKey secret.String
	Passphrase  secret.String
}
