package verification

import (
	"cmp"
	"context"
	"slices"
	"time"

	"golang.org/x/time/rate"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/internal/backoff"
)

// Bounds of what anybody can make a device remember.
const (
	maxFlows    = 64  // of a device
	maxPerUser  = 4   // that wait for an answer
	maxOthers   = 32  // that others asked for: the rest is for the user
	maxOver     = 16  // that are over, the newest
	maxQueue    = 512 // events that are not handled yet
	maxUnknown  = 64  // transactions that are not known, and that was said
	maxSenders  = 256 // whose requests are counted
	maxRequests = 10  // of a user at once, then one each requestEvery
	keptFor     = 10 * time.Minute

	requestEvery = time.Minute
	maxAttempts  = 5 // to handle an event while the homeserver does not answer
)

// Host is what Flows need of the other parts of a device. No lock is held when it is called.
type Host interface {
	// Known returns what is known now of this side and of a user, and of a device of theirs
	// unless that is empty: the homeserver is asked if it may be out of date.
	Known(ctx context.Context, user id.UserID, device id.DeviceID) (Known, error)
	// KnownAgain is Known, but the homeserver is asked in every case.
	KnownAgain(ctx context.Context, user id.UserID) (Known, error)
	// SendToDevices sends a message in clear to devices of a user, SendInRoom one into a room,
	// encrypted if the room is.
	SendToDevices(ctx context.Context, m Message, user id.UserID) error
	SendInRoom(ctx context.Context, m Message, room id.RoomID) (id.EventID, error)
	// Record signs what was verified, and reads it back.
	Record(ctx context.Context, t *Target) error
	// ConfirmsUnseen reports whether the account confirms its own devices unseen.
	ConfirmsUnseen() bool
	// Keep stores what is to be known of the flows when they are gone from memory, nil for
	// nothing, and Kept returns it. Interrupted tells the person that one was ended by that.
	Keep(ctx context.Context, flows []byte) error
	Kept(ctx context.Context) ([]byte, error)
	Interrupted(ctx context.Context, v Verification)
	// Begun is called when a flow is under way, so that the device syncs. Waiting is called
	// when another flow waits for a person, or none does any more.
	Begun()
	Waiting(ctx context.Context)
}

// Flows are the verifications of a device. They are in memory only: when the process ends, so do
// they, and the next one says so (see resume.go).
type Flows struct {
	*core.Device
	host Host
	// turn lets one thing at a time happen.
	turn locks.Turns[struct{}]
	// stored is what is stored of the flows; the turn guards it.
	stored []byte

	mu      locks.Mutex
	resumed bool             // stored was read
	all     map[string]*Flow // replaced, never changed
	queue   []Event
	working bool
	stopped bool
	told    map[string]bool // transactions that are not known
	asks    map[id.UserID]*rate.Limiter
	waiting int  // flows that wait for a person's answer
	inRoom  bool // a request is on its way into a room
	changed chan struct{}
	timer   *time.Timer
}

// New returns the verifications of a device, of which there are none.
func New(dev *core.Device, host Host) Flows {
	return Flows{
		Device: dev, host: host, turn: locks.Turns[struct{}]{Place: dev.Env.Order.At(locks.RankVerify)},
		mu: locks.Mutex{Place: dev.Env.Order.At(locks.RankLeaf)},
	}
}

// Stop ends the device's own work.
func (x *Flows) Stop() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stopped, x.all, x.queue = true, nil, nil
	if x.timer != nil {
		x.timer.Stop()
	}
	x.wake()
}

// wake tells who watches. The caller holds mu.
func (x *Flows) wake() {
	if x.changed != nil {
		close(x.changed)
		x.changed = nil
	}
}

// Watch returns a channel that is closed when something changes after the call.
func (x *Flows) Watch() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.changed == nil {
		x.changed = make(chan struct{})
	}
	return x.changed
}

// IsBusy reports whether anything is under way.
func (x *Flows) IsBusy() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.working || len(x.queue) > 0 || slices.ContainsFunc(x.list(), func(f *Flow) bool { return !f.state.Over() })
}

// InRooms reports whether a flow in a room is under way.
func (x *Flows) InRooms() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.inRoom || slices.ContainsFunc(x.list(), func(f *Flow) bool { return f.room != "" && !f.state.Over() })
}

// Asking are requests of others that wait for an answer.
type Asking struct {
	User id.UserID
	Own  bool
}

// Asking returns them.
func (x *Flows) Asking() []Asking {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []Asking
	for _, f := range x.list() {
		if f.incoming && f.state == Requested && x.Env.Now().Before(f.Expires()) {
			out = append(out, Asking{f.user, f.own})
		}
	}
	return out
}

// list returns the flows, the newest first. The caller holds mu.
func (x *Flows) list() []*Flow {
	out := make([]*Flow, 0, len(x.all))
	for _, f := range x.all {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b *Flow) int {
		if c := b.cameAt.Compare(a.cameAt); c != 0 {
			return c
		}
		return cmp.Compare(a.ID, b.ID)
	})
	return out
}

// get returns a flow, nil when there is none.
func (x *Flows) get(flow string) *Flow {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.all[flow]
}

// set puts what a flow became in its place.
func (x *Flows) set(f Flow) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.stopped {
		return
	}
	if x.all == nil {
		x.all = make(map[string]*Flow)
	}
	x.all[f.ID] = &f
	x.dropOver()
	x.wake()
	x.wind()
}

// dropOver forgets the oldest of the flows that are over, first those at which nobody has
// looked: anybody can make those. The caller holds mu.
func (x *Flows) dropOver() {
	var over []*Flow
	for _, f := range x.all {
		if f.state.Over() {
			over = append(over, f)
		}
	}
	slices.SortFunc(over, func(a, b *Flow) int {
		if a.looked != b.looked {
			if a.looked {
				return -1
			}
			return 1
		}
		return b.overAt.Compare(a.overAt)
	})
	for _, f := range over[min(len(over), maxOver):] {
		delete(x.all, f.ID)
	}
}

// wind sets the timer to when the next flow ends. The caller holds mu.
func (x *Flows) wind() {
	var next time.Time
	for _, f := range x.all {
		at := f.Expires()
		if since, over := f.Over(); over {
			at = since.Add(keptFor)
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if x.timer != nil {
		x.timer.Stop()
		x.timer = nil
	}
	if !next.IsZero() && !x.stopped {
		x.timer = time.AfterFunc(max(next.Sub(x.Env.Now()), time.Second), func() { x.Receive(nil) })
	}
}

// Receive takes events of a sync. It never waits.
func (x *Flows) Receive(events []Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.stopped || x.Ended() {
		return
	}
	x.queue = append(x.queue, events[:min(len(events), maxQueue-len(x.queue))]...)
	if !x.working {
		x.working = true
		x.Env.WG.Go(func() { x.work(x.Context) })
	}
}

// work handles the queue until it is empty.
func (x *Flows) work(ctx context.Context) {
	for {
		_ = x.Env.Survive(func() error { x.tend(ctx); return nil })
		x.mu.Lock()
		if len(x.queue) == 0 || ctx.Err() != nil {
			x.working = false
			x.mu.Unlock()
			return
		}
		ev := x.queue[0]
		x.queue = x.queue[1:]
		x.mu.Unlock()
		var failures backoff.Pauses
		for attempt := 1; ; attempt++ {
			err := x.Env.Survive(func() error { return x.handle(ctx, &ev) })
			if err == nil || ctx.Err() != nil {
				break
			}
			if attempt == maxAttempts {
				x.Env.Log.Warn().Err(err).Msg("A message of a verification could not be handled")
				break
			}
			_ = backoff.Wait(ctx, failures.Next(core.RereadPauses())) // ctx is looked at above
		}
	}
}

// tend ends the flows whose time is over, and forgets old ones.
func (x *Flows) tend(ctx context.Context) {
	give, err := x.take(ctx)
	if err != nil {
		return
	}
	defer give()
	x.expire(ctx)
	x.tellWaiting(ctx)
}

// expire is tend for a caller that has the turn.
func (x *Flows) expire(ctx context.Context) {
	now := x.Env.Now()
	x.mu.Lock()
	all := x.list()
	x.mu.Unlock()
	for _, f := range all {
		if since, over := f.Over(); over {
			if now.Sub(since) >= keptFor {
				x.mu.Lock()
				delete(x.all, f.ID)
				x.wind()
				x.mu.Unlock()
			}
			continue
		}
		if next, eff := f.Expire(now); next.state.Over() {
			x.set(next)
			if err := x.send(ctx, &next, eff.Send); err != nil {
				x.Env.Log.Debug().Err(err).Msg("The other side of a verification was not told that it timed out")
			}
		}
	}
}

// tellWaiting tells the host when the number of flows that wait for a person has changed. The
// caller has the turn.
func (x *Flows) tellWaiting(ctx context.Context) {
	asking := len(x.Asking())
	x.mu.Lock()
	news := asking != x.waiting
	x.waiting = asking
	x.mu.Unlock()
	if news {
		x.host.Waiting(ctx)
	}
}

// perform sends what follows of a change of a flow, records what was verified, and puts the
// flow that it becomes in its place. The caller has the turn. On an error nothing has changed
// here, and what was sent may be sent again.
func (x *Flows) perform(ctx context.Context, f Flow, eff Effects) (Flow, error) {
	if err := x.send(ctx, &f, eff.Send); err != nil && !f.state.Over() {
		return f, err
	}
	if eff.Target != nil {
		x.set(f)
		err := x.host.Record(ctx, eff.Target)
		if err != nil {
			x.Env.Log.Warn().Err(err).Stringer("account", x.Account.User).Msg("A verification could not be saved")
		}
		var last Effects
		f, last = f.Recorded(x.Env.Now(), err)
		if err := x.send(ctx, &f, last.Send); err != nil {
			x.Env.Log.Debug().Err(err).Msg("The other side of a verification was not told how it ended")
		}
	}
	x.set(f)
	if !f.state.Over() {
		x.host.Begun()
	}
	x.tellWaiting(ctx)
	return f, nil
}

// send sends messages of a flow.
func (x *Flows) send(ctx context.Context, f *Flow, messages []Message) error {
	for _, m := range messages {
		var err error
		switch {
		case f.room != "":
			_, err = x.host.SendInRoom(ctx, m, f.room)
		case len(m.Devices) > 0:
			err = x.host.SendToDevices(ctx, m, f.user)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
