package e2ee

import (
	"context"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
)

// Every change of a device is a step: it is staged, stored, and only then applied to
// memory. A step that fails is dropped and leaves memory as it was: nothing is ever undone,
// and nothing is read again to find out what holds.

// saveTimeout bounds one write. A write does not end with the request that it is for: a
// client that hangs up must not leave something half done.
const saveTimeout = 10 * time.Second

// detachedFor bounds work of several steps that continues without the request that began
// it.
const detachedFor = 2 * time.Minute

// step is one change of a device. It is made, filled and committed under one hold of d.mu.
type step struct {
	d  *Device
	ch *store.Changes

	device *store.Device // the staged row; nil while it does not change
	keys   *olm.Account  // the staged private keys, likewise
	rooms  map[id.RoomID]*roomStep
	then   []func()
}

// begin returns a new step. The caller holds mu.
func (d *Device) begin() *step {
	return &step{d: d, ch: &store.Changes{}}
}

// row returns the staged row of the device, to be changed.
func (s *step) row() *store.Device {
	if s.device == nil {
		row := s.d.record.row
		s.device = &row
	}
	return s.device
}

// account returns the staged private keys, to be changed.
func (s *step) account() *olm.Account {
	if s.keys == nil {
		s.keys = s.d.olmState.account.Clone()
	}
	return s.keys
}

// reading returns the private keys as staged, only to be read.
func (s *step) reading() *olm.Account {
	if s.keys != nil {
		return s.keys
	}
	return s.d.olmState.account
}

// after registers f to be called under d.mu once the step is stored.
func (s *step) after(f func()) { s.then = append(s.then, f) }

// commit stores the step and applies it to memory. what describes it in an error. The
// caller holds mu.
func (s *step) commit(ctx context.Context, what string) error {
	for _, r := range s.rooms {
		if r.stored {
			s.ch.Rooms = append(s.ch.Rooms, r.row)
		}
	}
	if s.keys != nil {
		s.row().Olm = s.keys.Pickled()
	}
	s.ch.Device = s.device
	if err := s.d.save(ctx, s.ch); err != nil {
		return fmt.Errorf("store %s: %w", what, err)
	}
	s.applyToMemory()
	return nil
}

// applyToMemory makes memory what is stored now.
func (s *step) applyToMemory() {
	if s.device != nil {
		s.d.record.row = *s.device
	}
	if s.keys != nil {
		s.d.olmState.account = s.keys
	}
	for _, r := range s.rooms {
		r.apply()
	}
	for _, f := range s.then {
		f()
	}
}

// save writes changes of this device that nothing in memory depends on, or whose caller
// changes memory after it.
func (p *part) save(ctx context.Context, ch *store.Changes) error {
	if p.mustReload.Load() {
		return ErrReload
	}
	ctx, cancel := detach(ctx, saveTimeout)
	defer cancel()
	err := p.eng.store.Save(ctx, p.acct.row, p.rowID, ch)
	if errors.Is(err, store.ErrUnsure) || errors.Is(err, store.ErrStale) {
		p.mustReload.Store(true)
		return fmt.Errorf("%w: %w", ErrReload, err)
	}
	if err == nil {
		p.eng.learnRooms(ch.Rooms)
	}
	return err
}

// detach returns a context for work that has begun to change something: it does not end
// with the request that caused it, but after a bound of its own.
func detach(ctx context.Context, bound time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), bound)
}

// detachUntilStop is detach for work of this device: it also ends when the engine stops.
func (p *part) detachUntilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := detach(ctx, detachedFor)
	stop := context.AfterFunc(p.eng.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// ErrReload means that the database did not tell whether a step was stored. Memory may be
// outdated: the next use loads the device again, and work that still uses this Device
// stores nothing and returns nothing.
var ErrReload = errors.New("what is stored of the device is not known: it is loaded anew")
