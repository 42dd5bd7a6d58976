package sharedhistory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"e2ee-proxy/e2ee/internal/channel"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/store"
)

// bundlesAtOnce is how many bundles are in memory at the same time, over all devices.
const bundlesAtOnce = 2

// Bounds are what all devices share: how many bundles are in memory, and how long an
// invitation waits for one.
type Bounds struct {
	slots       chan struct{}
	shareWithin time.Duration
}

// NewBounds returns bounds. An invitation waits no longer for a bundle than shareWithin.
func NewBounds(shareWithin time.Duration) *Bounds {
	return &Bounds{make(chan struct{}, bundlesAtOnce), shareWithin}
}

// take waits until a bundle may be in memory. The returned func gives its place back.
func (b *Bounds) take(ctx context.Context) (func(), error) {
	select {
	case b.slots <- struct{}{}:
		return func() { <-b.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Parts are the parts of a device that a History uses.
type Parts struct {
	Channel  *channel.Olm
	Identity *ownidentity.Identity
	Rooms    *rooms.Table
	Outbound *roomkeys.Outbound
	Inbound  *roomkeys.Inbound
	Backup   *ownbackup.Backup
}

// Host is what a History needs of the device itself.
type Host interface {
	// MayShareHistory returns why the device may not give keys to others, nil when it may. It
	// first catches up with the homeserver and sets the device up, if need be.
	MayShareHistory(ctx context.Context) error
	// HearNews takes in what the homeserver has for the device, unless a sync of the client is
	// there to bring it.
	HearNews(ctx context.Context) error
	// KickLocked requests maintenance. The caller holds the device's lock.
	KickLocked()
}

// History is a device's part in the sharing of history.
type History struct {
	*core.Device
	parts  Parts
	bounds *Bounds
	host   Host
	turns  locks.Turns[task]

	// The device's lock guards these.
	read    bool // waiting was loaded
	waiting waiting
}

// task is one of the two things that a device does at most once at a time.
type task int

const (
	sharing task = iota
	taking
)

// New returns a device's part in the sharing of history. What waited before a restart is
// loaded when it is needed.
func New(dev *core.Device, parts Parts, bounds *Bounds, host Host) History {
	return History{Device: dev, parts: parts, bounds: bounds, host: host, turns: locks.Turns[task]{Place: dev.Env.Order.At(locks.RankHistory)}}
}

// load loads what waits. The caller holds the device's lock.
func (h *History) load(ctx context.Context) error {
	if h.read {
		return nil
	}
	stored, err := core.ReadRecord[waiting](ctx, h.Device, identity.SecretHistory)
	if err != nil {
		return err
	}
	h.waiting, h.read = stored, true
	return nil
}

// staged is what waits as a step changes it.
type staged struct {
	h   *History
	now waiting
	row store.Secret
}

func (st *staged) Stage(s *core.Step) {
	if st.now.empty() {
		s.Changes.DeleteSecrets = append(s.Changes.DeleteSecrets, st.row.Name)
		return
	}
	s.Changes.Secrets = append(s.Changes.Secrets, st.row)
}

func (st *staged) Apply() { st.h.waiting = st.now }

// change stages a change of what waits. edit gets a copy, and reports whether it changed it.
// The caller holds the device's lock.
func (h *History) change(ctx context.Context, s *core.Step, edit func(w *waiting) bool) error {
	if err := h.load(ctx); err != nil {
		return err
	}
	now := h.waiting.clone()
	if st, ok := s.Part(h, nil).(*staged); ok {
		now = st.now.clone()
	}
	if !edit(&now) {
		return nil
	}
	raw, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("encode the bundles that wait: %w", err)
	}
	st, _ := s.Part(h, func() core.Staged { return &staged{h: h} }).(*staged)
	st.now = now
	st.row = store.Secret{Name: identity.OfDevice(identity.SecretHistory, h.Ed25519), Value: raw, CreatedAt: h.Env.Now()}
	return nil
}

// IsBusy reports whether a bundle waits to be taken now. The caller holds the device's lock.
func (h *History) IsBusy() bool {
	_, _, ok := h.waiting.next(h.Env.Now(), nil)
	return ok
}

// within does a piece of work that goes on without its caller, who waits for it no longer
// than a bound.
func (h *History) within(ctx context.Context, bound time.Duration, work func(ctx context.Context)) {
	done := make(chan struct{})
	if !h.begin(ctx, func(ctx context.Context) { defer close(done); work(ctx) }) {
		return
	}
	limit := time.NewTimer(bound)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
	case <-ctx.Done():
	}
}

// begin starts a piece of work of the device, unless the device has ended.
func (h *History) begin(ctx context.Context, work func(ctx context.Context)) bool {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	if h.Ended() {
		return false
	}
	ctx, cancel := h.DetachUntilStop(ctx)
	h.Env.WG.Go(func() {
		defer cancel()
		_ = h.Env.Survive(func() error { work(ctx); return nil })
	})
	return true
}

// Results in the metric of bundles.
const (
	resultSent    = "sent"
	resultNotSent = "not_sent"
	resultTaken   = "taken"
	resultRefused = "refused"
)

func (h *History) count(result string) { h.Env.Counts.Bundles.WithLabelValues(result).Inc() }

// Reasons why no history is shared, or a bundle is not taken.
var (
	errNotSigned     = errors.New("this device is not confirmed by its owner's identity")
	errIdentity      = errors.New("an identity is not known, or its change waits to be acknowledged")
	errUnreachable   = errors.New("the other's devices are not known at present")
	errNobody        = errors.New("the other has no device that its owner has confirmed and that can be reached")
	errChanged       = errors.New("who may have the history changed meanwhile")
	errWithdrawn     = errors.New("the invitation was taken back, the sender left the room, or later members may not see its history any more")
	errUnusable      = errors.New("the bundle cannot be used")
	errSenderRefused = errors.New("the sender's device is not confirmed by its owner, or the owner's identity changed")
)
