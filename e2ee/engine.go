package e2ee

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/channel"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/files"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/native"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/ownership"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/searchindex"
	"e2ee-proxy/e2ee/internal/sharedhistory"
	"e2ee-proxy/e2ee/internal/unread"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Options is what an Engine needs. Zero durations and sizes get defaults.
type Options struct {
	Store      *store.DB
	Homeserver *url.URL
	Client     *http.Client // follows no redirects
	Log        zerolog.Logger
	Now        func() time.Time
	Metrics    prometheus.Registerer // nil registers none

	// Timeout bounds one request of the engine to the homeserver; 30 s.
	Timeout time.Duration
	// OwnSyncAfter is how long a device's client may be silent before the proxy syncs for
	// it; 5 s.
	OwnSyncAfter time.Duration

	locks *locks.Order // for tests
	// Spread is how long the first room keys of a device wait after it was first confirmed,
	// so that other devices have heard of it: some clients judge a message only once, when
	// it arrives. 1 s; negative is none.
	Spread time.Duration
	// OneTimeKeys is how many one-time keys of a device the homeserver should have; 50, which
	// is half of what libolm keeps and also the most.
	OneTimeKeys int
	// Workers bounds how many devices are maintained at the same time; 8.
	Workers int
	// Awake bounds the devices for which the proxy syncs by long polls; 1,000. The others
	// are visited once in a Round, 5 min, Visits of them at the same time, 16. See
	// upkeep.go.
	Awake  int
	Round  time.Duration
	Visits int
	// ClaimEvery is how often it is looked for accounts that nobody has, 1 s, and ShareEvery
	// whether another process is to have some, 15 s. See package ownership.
	ClaimEvery, ShareEvery time.Duration
	// IdleAfter is how long a device stays awake and in memory after its client last used
	// it; 30 min. See upkeep.go.
	IdleAfter time.Duration
	// CachedMembers bounds the users in the member lists in memory, over all devices;
	// 500,000.
	CachedMembers int
	// CachedSessions bounds the room keys kept unpickled in memory, over all devices; 20,000.
	CachedSessions int
	// CachedUsers bounds the users kept in memory, over all accounts; 20,000.
	CachedUsers int

	// Answers are those of the homeserver about users, for all accounts; by default those of this
	// engine.
	Answers *trustcache.Answers

	// ShareWithin is how long an invitation waits until the room's history is shared; 10 s.
	ShareWithin time.Duration

	// Undecryptable says what clients are shown of events that cannot be read.
	Undecryptable Undecryptable
	// ManualBootstrap leaves the creation of an identity to POST bootstrap.
	ManualBootstrap bool
	// Search has the settings of the search indexes.
	Search SearchOptions
	// Account returns the settings of one account.
	Account func(id.UserID) core.AccountSettings
	// Policy returns the policy in force, which Rules narrow.
	Policy func() trustcache.Policy
	Rules  Ruling
	// PolicyVersion returns the version of the policy's settings, for the audit log.
	PolicyVersion func() string
}

func (o *Options) setDefaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	o.OwnSyncAfter = cmp.Or(o.OwnSyncAfter, 5*time.Second)
	if o.Spread == 0 {
		o.Spread = time.Second
	}
	if o.ShareWithin == 0 {
		o.ShareWithin = 10 * time.Second
	}
	if o.OneTimeKeys <= 0 || o.OneTimeKeys > olm.OneTimeKeysWanted {
		o.OneTimeKeys = olm.OneTimeKeysWanted
	}
	if o.Workers == 0 {
		o.Workers = 8
	}
	if o.Awake == 0 {
		o.Awake = 1000
	}
	if o.Round == 0 {
		o.Round = 5 * time.Minute
	}
	if o.Visits == 0 {
		o.Visits = 16
	}
	o.ClaimEvery, o.ShareEvery = cmp.Or(o.ClaimEvery, time.Second), cmp.Or(o.ShareEvery, 15*time.Second)
	if o.IdleAfter == 0 {
		o.IdleAfter = 30 * time.Minute
	}
	if o.CachedMembers == 0 {
		o.CachedMembers = 500000
	}
	if o.CachedSessions == 0 {
		o.CachedSessions = 20000
	}
	if o.CachedUsers == 0 {
		o.CachedUsers = 20000
	}
	if o.Answers == nil {
		o.Answers = trustcache.NewAnswers(trustcache.AnswersOptions{Now: o.Now})
	}
	if o.Account == nil {
		o.Account = func(id.UserID) core.AccountSettings { return core.AccountSettings{} }
	}
	if o.Policy == nil {
		o.Policy = func() trustcache.Policy { return trustcache.Policy{} }
	}
	if o.PolicyVersion == nil {
		o.PolicyVersion = func() string { return "" }
	}
}

// Engine owns the devices whose keys the proxy holds, and every goroutine that works for
// them.
type Engine struct {
	opts Options
	env  *core.Env

	inbound  *roomkeys.Cache
	history  *sharedhistory.Bounds
	users    *trustcache.Cache
	answers  *trustcache.Answers
	search   *searchindex.Shared
	rooms    *rooms.Shared
	unread   *unread.Shared
	files    *files.Seen
	native   *native.Shared
	channels *channel.Shared
	awake    *lru.Cache[*Device, struct{}] // the least recently used first

	mu      locks.Mutex
	owned   *ownership.Table[*account]
	devices map[deviceKey]*Device
	gone    map[roomkeys.DeviceKeys]id.UserID // devices unloaded since the last round
	visited map[deviceKey]bool                // visited by a round of this process; true: something was left to do
	opening locks.Turns[deviceKey]

	cancel      context.CancelCauseFunc
	visiting    context.Context // ends with the rounds
	endVisits   context.CancelFunc
	maintenance chan *Device
	alerts      chan *account

	closing sync.Once
	stopped chan struct{} // closed once everything has ended
}

type deviceKey struct {
	user   id.UserID
	device id.DeviceID
}

// New returns an engine. It does nothing until Start.
func New(opts Options) (*Engine, error) {
	opts.setDefaults()
	if opts.Store == nil || opts.Homeserver == nil || opts.Client == nil {
		return nil, errors.New("e2ee: store, homeserver and client are required")
	}
	cache, err := roomkeys.NewCache(opts.CachedSessions)
	if err != nil {
		return nil, err
	}
	users, err := trustcache.NewCache(opts.CachedUsers)
	if err != nil {
		return nil, err
	}
	awake, err := lru.NewWithEvict(opts.Awake, func(d *Device, _ struct{}) { d.schedule.FallAsleep() })
	if err != nil {
		return nil, fmt.Errorf("make the list of devices that are awake: %w", err)
	}
	counted, err := core.NewCounts(opts.Metrics)
	if err != nil {
		return nil, err
	}
	asked, err := orgrules.New(opts.Rules, opts.PolicyVersion(), opts.Log, opts.Metrics)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	e := &Engine{
		env: &core.Env{
			Store: opts.Store, Homeserver: wire.NewHomeserver(opts.Homeserver, opts.Client, opts.Timeout),
			Now: opts.Now, Log: opts.Log, Counts: counted, Order: opts.locks,
			Policy: opts.Policy, PolicyVersion: opts.PolicyVersion, Settings: opts.Account, Rules: asked,
			Spread: opts.Spread, OneTimeKeys: opts.OneTimeKeys, ManualBootstrap: opts.ManualBootstrap, Context: ctx,
		},
		mu:      locks.Mutex{Place: opts.locks.At(locks.RankEngine)},
		opening: locks.Turns[deviceKey]{Place: opts.locks.At(locks.RankOpening)},
		opts:    opts, inbound: cache, history: sharedhistory.NewBounds(opts.ShareWithin), users: users, answers: opts.Answers, awake: awake,
		devices: make(map[deviceKey]*Device), visited: make(map[deviceKey]bool),
		cancel: cancel, stopped: make(chan struct{}), maintenance: make(chan *Device, 1024), alerts: make(chan *account, 256),
	}
	e.visiting, e.endVisits = context.WithCancel(ctx)
	e.owned = ownership.NewTable(e.env, owner{e}, ownership.Options{ClaimEvery: opts.ClaimEvery, ShareEvery: opts.ShareEvery})
	var errs [6]error
	e.rooms, errs[0] = rooms.NewShared(e.env, opts.CachedMembers)
	e.search, errs[1] = searchindex.NewShared(e.env, opts.Search)
	e.unread, errs[2] = unread.NewShared()
	e.files, errs[3] = files.NewSeen()
	e.native, errs[4] = native.NewShared()
	e.channels, errs[5] = channel.NewShared(e.env)
	if err := errors.Join(errs[:]...); err != nil {
		cancel(nil)
		return nil, err
	}
	e.env.RoomsStored = e.rooms.Learn
	return e, nil
}

// Start starts the engine's goroutines. Events that were withheld under another policy are
// judged again. To-device messages that came while the proxy was down are fetched device by
// device after Start has returned; a device in use does not wait for that.
func (e *Engine) Start(ctx context.Context) error {
	if err := e.judgeHeldBack(ctx); err != nil {
		return err
	}
	if err := e.search.Start(ctx, e.env); err != nil {
		return err
	}
	for range e.opts.Workers {
		e.env.WG.Go(e.worker)
	}
	e.env.WG.Go(func() { e.rounds(e.visiting) })
	e.env.WG.Go(e.tellAlerts)
	e.native.Run(e.env.Context, e.env.WG.Go)
	e.env.WG.Go(func() { e.opts.Answers.Run(e.env.Context) })
	e.env.WG.Go(func() { e.rooms.DropLists(e.env.Context) })
	return nil
}

// Device returns the device of a token, loading or adopting it first. device may be empty:
// such a token can have no keys.
func (e *Engine) Device(ctx context.Context, user id.UserID, device id.DeviceID, token secret.String) (*Device, error) {
	key := deviceKey{user, device}
	if d := e.get(key, true); d != nil && d.isFor(token) {
		d.schedule.InUse()
		return d, d.useToken(ctx, token)
	}
	if device == "" {
		return e.withoutDevice(user), nil
	}
	give, err := e.opening.Take(ctx, key)
	if err != nil {
		return nil, err
	}
	defer give()
	if d := e.get(key, true); d != nil && d.isFor(token) {
		d.schedule.InUse()
		return d, d.useToken(ctx, token)
	}
	d, err := e.open(ctx, key, token)
	if err != nil {
		return nil, err
	}
	d.hasClient = true
	d.schedule.InUse()
	if err := e.register(d); err != nil {
		return nil, err
	}
	e.awaken(d)
	d.kick()
	return d, nil
}

// withoutDevice returns what stands for a token that has no device. It is not kept, and
// nothing is stored of it.
func (e *Engine) withoutDevice(user id.UserID) *Device {
	acct := newAccount(e, &store.Account{UserID: user})
	none := &Device{core: &core.Device{Env: e.env, Account: &acct.Account, Self: core.Self{Mode: core.ModeNone}}, eng: e, acct: acct}
	none.connect()
	return none
}

func (e *Engine) loaded(key deviceKey) *Device { return e.get(key, false) }

// register adds a device to those in memory.
func (e *Engine) register(d *Device) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if d.acct.tenure.IsGone() {
		return ownership.ErrMoved
	}
	e.devices[deviceKey{d.acct.User, d.core.ID}] = d
	if d.core.Mode == core.ModeProxied && e.env.Context.Err() == nil {
		d.core.Context, d.core.Stop = context.WithCancelCause(e.env.Context)
		d.publication.Seen()
	}
	return nil
}

// closeWithin bounds Close.
const closeWithin = 10 * time.Second

// errStillBusy means that work did not end in time.
var errStillBusy = errors.New("some work has not ended yet")

// Close stops every device's work and waits for that, until ctx ends and for 10 s at most.
// Work that is still running then was told to stop, and stores nothing once the database is
// closed.
func (e *Engine) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, closeWithin, errStillBusy)
	defer cancel()
	e.closing.Do(e.stop)
	select {
	case <-e.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop the engine: %w", context.Cause(ctx))
	}
}

// stop ends everything and closes stopped when it has ended.
func (e *Engine) stop() {
	e.cancel(core.ErrClosed)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.owned.All() {
		a.identity.ForgetPassword()
		e.env.WG.Go(a.Tracker.Close) // waits for its queries
	}
	go func() { e.env.WG.Wait(); close(e.stopped) }()
}
