package channel

import (
	"context"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/store"
)

// A wedge is a device without a working Olm session with us: it sent something that no
// session can decrypt, or says that it has no session. It is recorded until it has a new
// session, or clearly gets none. The record is stored with the position of the sync that
// brought the message, because nothing repeats it.

const (
	// maxWedged bounds the wedges of a device, and maxWedgedOf those of one user: anybody
	// can send what makes one (attack N5).
	maxWedged   = 64
	maxWedgedOf = 8
	// maxRenewed bounds the remembered devices with a new session.
	maxRenewed = 256
	// wedgedFor is how long an unreachable device is retried.
	wedgedFor = 7 * 24 * time.Hour
)

// wedges are the wedges of a device, and the devices that got a new session within the last
// hour. They are never changed: a changed copy replaces them in memory once it is stored.
type wedges struct {
	Waiting []wedge   `json:"waiting,omitempty"`
	Renewed []renewal `json:"renewed,omitempty"`
}

// wedge is one device without a working session. It is known by its key or by its ID.
type wedge struct {
	User   id.UserID     `json:"user"`
	Key    id.Curve25519 `json:"key,omitempty"`
	Device id.DeviceID   `json:"device,omitempty"`
	Since  time.Time     `json:"since"`

	failures backoff.Pauses
	notYet   time.Time // no retry before this
	sought   bool      // the homeserver was asked for the device and does not have it
}

// renewal is when a device got a new session.
type renewal struct {
	User   id.UserID   `json:"user"`
	Device id.DeviceID `json:"device"`
	At     time.Time   `json:"at"`
}

func (w *wedge) about(other *wedge) bool {
	return w.User == other.User && w.Key == other.Key && w.Device == other.Device
}

// with adds wedges. When a user has too many, the oldest are dropped.
func (w *wedges) with(came []Wedged, now time.Time) *wedges {
	next := &wedges{Waiting: slices.Clone(w.Waiting), Renewed: w.Renewed}
	for _, c := range came {
		one := wedge{User: c.User, Key: c.Key, Device: c.Device, Since: now}
		if slices.ContainsFunc(next.Waiting, func(have wedge) bool { return have.about(&one) }) {
			continue
		}
		of := func(have wedge) bool { return have.User == one.User }
		if count(next.Waiting, of) >= maxWedgedOf {
			i := slices.IndexFunc(next.Waiting, of)
			next.Waiting = slices.Delete(next.Waiting, i, i+1)
		}
		next.Waiting = append(next.Waiting, one)
	}
	if more := len(next.Waiting) - maxWedged; more > 0 {
		next.Waiting = next.Waiting[more:]
	}
	return next
}

func count[T any](list []T, holds func(T) bool) (n int) {
	for _, one := range list {
		if holds(one) {
			n++
		}
	}
	return n
}

// without removes the wedges that are finished, and adds the devices with a new session.
func (w *wedges) without(settled []wedge, renewed []store.DeviceRef, now time.Time) *wedges {
	next := &wedges{
		Waiting: slices.DeleteFunc(slices.Clone(w.Waiting), func(have wedge) bool {
			return slices.ContainsFunc(settled, func(s wedge) bool { return s.about(&have) })
		}),
		Renewed: slices.DeleteFunc(slices.Clone(w.Renewed), func(r renewal) bool { return now.Sub(r.At) >= unwedgeEvery }),
	}
	for _, ref := range renewed {
		next.Renewed = append(next.Renewed, renewal{ref.UserID, ref.DeviceID, now})
	}
	if more := len(next.Renewed) - maxRenewed; more > 0 {
		next.Renewed = next.Renewed[more:]
	}
	return next
}

// postpone delays the next try of wedges. It returns the shortest pause.
func (w *wedges) postpone(failed []wedge, now time.Time) (next *wedges, pause time.Duration) {
	next = &wedges{Waiting: slices.Clone(w.Waiting), Renewed: w.Renewed}
	for i := range next.Waiting {
		one := &next.Waiting[i]
		at := slices.IndexFunc(failed, func(f wedge) bool { return f.about(one) })
		if at < 0 {
			continue
		}
		wait := one.failures.Next(core.WedgePauses())
		one.notYet, one.sought = now.Add(wait), failed[at].sought
		if pause == 0 || wait < pause {
			pause = wait
		}
	}
	return next, pause
}

// renewedAt returns when a device last got a new session.
func (w *wedges) renewedAt(ref store.DeviceRef) time.Time {
	for _, r := range slices.Backward(w.Renewed) {
		if r.User == ref.UserID && r.Device == ref.DeviceID {
			return r.At
		}
	}
	return time.Time{}
}

// store adds the wedges to ch.
func (w *wedges) store(d *core.Device, ch *store.Changes) error {
	return d.StoreRecord(identity.SecretWedged, w, len(w.Waiting)+len(w.Renewed) == 0, ch)
}

// readWedges loads the wedges recorded before a restart. The caller holds mu.
func (o *Olm) readWedges(ctx context.Context) error {
	if o.wedges != nil {
		return nil
	}
	w, err := core.ReadRecord[wedges](ctx, o.Device, identity.SecretWedged)
	if err != nil {
		return err
	}
	o.wedges = &w // what could not be read is recorded again with the next message
	return nil
}

// StageWedged adds wedges to a step. The caller holds mu.
func (o *Olm) StageWedged(ctx context.Context, came []Wedged, s *core.Step) error {
	if len(came) == 0 {
		return nil
	}
	if err := o.readWedges(ctx); err != nil {
		return err
	}
	return o.replaceWedges(s, o.wedges.with(came, o.Env.Now()))
}

// replaceWedges stages the replacement of the wedges.
func (o *Olm) replaceWedges(s *core.Step, next *wedges) error {
	if err := next.store(o.Device, s.Changes); err != nil {
		return err
	}
	s.After(func() { o.wedges = next })
	return nil
}

// dueWedges returns the wedges that can be tried now.
func (o *Olm) dueWedges(ctx context.Context) ([]wedge, error) {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	if err := o.readWedges(ctx); err != nil {
		return nil, err
	}
	now := o.Env.Now()
	return slices.DeleteFunc(slices.Clone(o.wedges.Waiting), func(w wedge) bool { return now.Before(w.notYet) }), nil
}

// postpone delays the next try of wedges and schedules maintenance for it.
func (o *Olm) postpone(failed []wedge) {
	if len(failed) == 0 {
		return
	}
	o.Mu.Lock()
	defer o.Mu.Unlock()
	next, pause := o.wedges.postpone(failed, o.Env.Now())
	o.wedges = next
	if pause > 0 {
		o.host.RetryWedges(pause)
	}
}

// HasWedges reports whether a wedge is recorded. The device need not stay in memory for it,
// but must be visited.
func (o *Olm) HasWedges() bool {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	return o.wedges != nil && len(o.wedges.Waiting) > 0
}

// Wedged is a device that sent something that no session can decrypt, or said that it
// has no session with us. It is known by its key or by its ID.
type Wedged struct {
	User   id.UserID
	Key    id.Curve25519
	Device id.DeviceID
}
