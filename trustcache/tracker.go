package trustcache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// Store is what a Tracker needs of the database.
type Store interface {
	Users(ctx context.Context, account *store.Account, users []id.UserID) (map[id.UserID]store.User, error)
	UserDevices(ctx context.Context, account *store.Account, users []id.UserID) (map[id.UserID][]store.UserDevice, error)
	// Distrusts reads the distrusted devices that the homeserver does not show.
	Distrusts(ctx context.Context, account *store.Account, users []id.UserID) (map[id.UserID][]store.UserDevice, error)
	// DeviceExceptions reads the devices with an exception, by user and device, also those that
	// the homeserver does not show.
	DeviceExceptions(ctx context.Context, account *store.Account) ([]store.UserDevice, error)
	TrackedUsers(ctx context.Context, account *store.Account) ([]id.UserID, error)
	OutdatedUsers(ctx context.Context, account *store.Account) ([]id.UserID, error)
	// UserChanges reads the history of one user, the oldest first.
	UserChanges(ctx context.Context, account *store.Account, user id.UserID) ([]store.UserChange, error)
	// Save is called with device row 0: what a Tracker stores belongs to the account.
	Save(ctx context.Context, account *store.Account, deviceRowID int64, ch *store.Changes) error
}

// ErrAsker is returned by a KeyQuerier that may not ask any more because its session has
// ended. It means nothing for the users: the next caller asks at once.
var ErrAsker = errors.New("the asker's session has ended")

// KeyQuerier asks the homeserver for the keys of users.
type KeyQuerier interface {
	QueryKeys(ctx context.Context, users []id.UserID) (*QueryResult, error)
}

// Options configures a Tracker. Zero values get defaults.
type Options struct {
	// Cache keeps users in memory, for this tracker and others. The default holds 5,000.
	Cache *Cache
	Now   func() time.Time
	// AcknowledgeUnverified reports whether identity changes of users who were never verified
	// are acknowledged at once, for accounts that nobody watches; never those of the account's
	// own.
	AcknowledgeUnverified func() bool
	// Observe is called with events before they are stored, and may add to what is stored with
	// them (warnings, say). It must not call the Tracker, nor take a lock under which the
	// Tracker is called. What it returns, unless nil, is called once they are stored, and may
	// do both.
	Observe func(events []Event, ch *store.Changes) (stored func())
	// Answers are shared with the other accounts on the homeserver; nil for none.
	Answers *Answers
	// Alone reports whether nobody but this process can have signed others' identities with
	// the user-signing key of own. Otherwise the account takes no answer to another, which
	// would not show such signatures. The default is false.
	Alone func(ctx context.Context, own *User) bool
	// QueryFailed is called when a query failed as a whole, for logs and metrics.
	QueryFailed func(users int, err error)

	BatchSize    int           // users in one query; 250
	Parallel     int           // queries at the same time; 4
	QueryTimeout time.Duration // of one query; 15 s
	MaxDevices   int           // looked at for one user; 2,000
	MaxBackoff   time.Duration // between queries that fail; 5 min
	InvitedAge   time.Duration // for how long an answer about somebody who is only invited holds; 10 s
}

func (o *Options) setDefaults() {
	if o.Cache == nil {
		o.Cache, _ = NewCache(5000) // fails only for a size below 1
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.AcknowledgeUnverified == nil {
		o.AcknowledgeUnverified = func() bool { return false }
	}
	if o.Observe == nil {
		o.Observe = func([]Event, *store.Changes) func() { return nil }
	}
	if o.QueryFailed == nil {
		o.QueryFailed = func(int, error) {}
	}
	if o.Alone == nil {
		o.Alone = func(context.Context, *User) bool { return false }
	}
	if o.BatchSize <= 0 {
		o.BatchSize = 250
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.QueryTimeout <= 0 {
		o.QueryTimeout = 15 * time.Second
	}
	if o.MaxDevices <= 0 {
		o.MaxDevices = 2000
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = 5 * time.Minute
	}
	if o.InvitedAge <= 0 {
		o.InvitedAge = 10 * time.Second
	}
}

// ErrClosed means that the Tracker was closed.
var ErrClosed = errors.New("the tracker is closed")

// Tracker follows the devices and identities of users for one account. It is safe for
// concurrent use. A query may outlive the call that started it, up to Options.QueryTimeout
// or Close.
//
// Rows of users are read, changed and written under rows, which is never held while a query
// is in flight. Changed takes it too, so that whatever was being written is written before
// the change is committed, and whatever is written later includes it.
type Tracker struct {
	store   Store
	account *store.Account
	opts    Options
	cache   *Cache
	number  uint64        // in the cache
	slots   chan struct{} // bounds queries in flight

	version atomic.Uint64 // see Version

	rows sync.Mutex

	queries sync.WaitGroup

	mu      sync.Mutex // guards what follows; held for moments
	closed  bool
	flights map[id.UserID]*flight
	marks   map[id.UserID]reportedChange
	seq     uint64
	held    id.Ed25519 // the master key whose private key we hold, or verified
	clients map[*ClientQuery]struct{}
	heard   heard
}

// reportedChange is a change that the homeserver reported and whose commit has not been confirmed.
type reportedChange struct {
	seq  uint64
	left bool
}

// NewTracker makes the tracker of an account. There must be only one, in all processes that
// share the store. The caller closes it.
func NewTracker(s Store, account *store.Account, opts Options) *Tracker {
	opts.setDefaults()
	return &Tracker{
		store: s, account: account, opts: opts, cache: opts.Cache, number: opts.Cache.trackers.Add(1),
		slots: make(chan struct{}, opts.Parallel),
	}
}

// DropOwn drops from memory what is known of the account's own user, because none of its devices is
// used. It is read again when it is needed.
func (t *Tracker) DropOwn() { t.cache.users.Remove(cacheKey{t.number, t.account.UserID}) }

// put adds an entry to a map, which is nil while it is empty: most accounts wait for
// nothing, and an emptied map keeps its memory.
func put[K comparable, V any](m *map[K]V, key K, value V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[key] = value
}

// drop removes an entry of such a map.
func drop[K comparable, V any](m *map[K]V, key K) {
	if delete(*m, key); len(*m) == 0 {
		*m = nil
	}
}

// maxRounds bounds how often a Lookup asks about a user who keeps changing.
const maxRounds = 4

// Lookup returns the users, and asks the homeserver about those of whom nothing is known or
// whose devices changed. It tracks them from now on. A user about whom it cannot ask is
// returned as KnowledgeStale or KnowledgeUnreachable and asked about again later, with
// increasing pauses (requirements 3.11, 0.12): that is not an error. Errors are the
// store's, the context's and ErrAsker; a query goes on when ctx ends.
func (t *Tracker) Lookup(ctx context.Context, q KeyQuerier, users []id.UserID) (map[id.UserID]*User, error) {
	return t.lookup(ctx, q, users, nil)
}

// LookupMembers is Lookup for users of whom those that joined returns true for are in a room
// that the account is in: the homeserver tells it of their changes, so that an answer to
// another account will do that was asked for before this call. The others are invited to it, and
// Synapse (1.163.2) tells nobody of their changes, neither in a sync nor in /keys/changes: they
// are asked about again after [Options.InvitedAge].
func (t *Tracker) LookupMembers(ctx context.Context, q KeyQuerier, users []id.UserID, joined func(id.UserID) bool) (map[id.UserID]*User, error) {
	return t.lookup(ctx, q, users, joined)
}

func (t *Tracker) lookup(ctx context.Context, q KeyQuerier, users []id.UserID, joined func(id.UserID) bool) (map[id.UserID]*User, error) {
	out := make(map[id.UserID]*User, len(users))
	var need []id.UserID
	holds := t.opts.Now().Add(-t.opts.InvitedAge)
	fresh := func(e *entry) bool {
		return e.user.Knowledge == KnowledgeFresh && (joined == nil || e.asked.After(holds) || joined(e.row.UserID))
	}
	for _, u := range users {
		if e := t.cached(u); e != nil && fresh(e) {
			out[u] = e.user
		} else if _, seen := out[u]; !seen {
			out[u] = nil
			need = append(need, u)
		}
	}
	for round := 0; len(need) > 0; round++ {
		entries, err := t.load(ctx, need)
		if err != nil {
			return nil, err
		}
		now := t.opts.Now()
		var ask []*entry
		for _, e := range entries {
			out[e.row.UserID] = e.user
			known := e.user.Knowledge == KnowledgeFresh && (round > 0 || fresh(e))
			if !known && round < maxRounds && askable(e, now) {
				ask = append(ask, e)
			}
		}
		if err := t.query(ctx, q, ask, flight{joined: joined}); err != nil {
			return nil, err
		}
		need = need[:0]
		for _, e := range ask {
			need = append(need, e.row.UserID)
		}
	}
	return out, nil
}

// askable reports whether a user may be asked about now.
func askable(e *entry, now time.Time) bool {
	return validUserID(e.row.UserID) && !now.Before(e.row.RetryAt)
}

// validUserID reports whether a user ID can be sent in a query. Membership events may name
// anything (attack A2), and a homeserver could refuse a whole query for it. Historical user
// IDs are allowed.
func validUserID(user id.UserID) bool {
	if len(user) < 3 || len(user) > 255 || user[0] != '@' {
		return false
	}
	colon := false
	for _, r := range user {
		if r < 0x20 || r == 0x7f || r == '\uFFFD' {
			return false
		}
		colon = colon || r == ':'
	}
	return colon
}

// Cached returns users as they are known, from memory or else the store, without asking the
// homeserver. As long as memory keeps an unchanged user, the pointer is the same.
func (t *Tracker) Cached(ctx context.Context, users []id.UserID) (map[id.UserID]*User, error) {
	out := make(map[id.UserID]*User, len(users))
	entries, err := t.load(ctx, users)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		out[e.row.UserID] = e.user
	}
	return out, nil
}

// Version counts the changes of users. As long as it returns the same number, what Cached
// returned still holds.
func (t *Tracker) Version() uint64 { return t.version.Load() }

// Own returns the account's own user as known.
func (t *Tracker) Own(ctx context.Context) (*User, error) {
	entries, err := t.load(ctx, []id.UserID{t.account.UserID})
	if err != nil {
		return nil, err
	}
	return entries[0].user, nil
}

// DeviceByCurve25519 returns the device of a user with this Curve25519 key, as known; false
// when there is none, or two have the key.
func (t *Tracker) DeviceByCurve25519(ctx context.Context, user id.UserID, key id.Curve25519) (Device, bool, error) {
	entries, err := t.load(ctx, []id.UserID{user})
	if err != nil {
		return Device{}, false, err
	}
	if d := entries[0].user.DeviceByCurve25519(key); d != nil {
		return *d, true, nil
	}
	return Device{}, false, nil
}

// Query asks the homeserver about users even if they are fresh, to read back what was just
// uploaded.
func (t *Tracker) Query(ctx context.Context, q KeyQuerier, users []id.UserID) (map[id.UserID]*User, error) {
	t.rows.Lock()
	t.markAll(users, false)
	t.rows.Unlock()
	return t.Lookup(ctx, q, users)
}

// Refresh asks about every tracked user who is outdated and may be asked about now, to
// repeat what failed and so that sends need not wait.
func (t *Tracker) Refresh(ctx context.Context, q KeyQuerier) error {
	users, err := t.store.OutdatedUsers(ctx, t.account)
	if err != nil {
		return fmt.Errorf("load outdated users: %w", err)
	}
	for some := range slices.Chunk(users, t.opts.BatchSize*t.opts.Parallel) {
		entries, err := t.load(ctx, some)
		if err != nil {
			return err
		}
		var tracked []id.UserID
		for _, e := range entries {
			if e.row.Tracked { // a Lookup would track the others again
				tracked = append(tracked, e.row.UserID)
			}
		}
		if _, err := t.Lookup(ctx, q, tracked); err != nil {
			return err
		}
	}
	return nil
}

// query asks about users in batches, and waits for those that another call asks about. The
// queries go on when the caller gives up: others may be waiting, and the next caller need
// not start again.
func (t *Tracker) query(ctx context.Context, q KeyQuerier, ask []*entry, like flight) error {
	if len(ask) == 0 {
		return nil
	}
	mine, joined, err := t.startFlights(ctx, q, ask, like)
	if err != nil {
		return err
	}
	for i, f := range slices.Concat(mine, joined) {
		select {
		case <-f.done:
			if f.err != nil && (i < len(mine) || !errors.Is(f.err, ErrAsker)) {
				return f.err
			}
		case <-ctx.Done():
			return fmt.Errorf("wait for a device query: %w", context.Cause(ctx))
		}
	}
	return nil
}

// Close ends the queries in flight and waits for them. A Lookup that needs a query fails
// afterwards.
func (t *Tracker) Close() {
	t.mu.Lock()
	t.closed = true
	for _, f := range t.flights {
		f.cancel(ErrClosed)
	}
	t.mu.Unlock()
	t.queries.Wait()
}
