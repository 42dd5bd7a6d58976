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

// Every change of a device is a step: it is staged, stored, and only then taken over into
// memory. A step that fails is dropped, and memory is as it was before: nothing is ever
// undone, and nothing is read again to find out what holds.

// saveTimeout bounds one write. It does not end with the request that it is for: a client that
// hangs up must not leave half of something behind.
const saveTimeout = 10 * time.Second

// detachedFor bounds work of several steps that goes on without the request that began it.
const detachedFor = 2 * time.Minute

// step is one change of a device on its way. It is made, filled and committed under one
// hold of d.mu.
type step struct {
	d  *Device
	ch *store.Changes

	device *store.Device // the row as it will be; nil while nothing of it changes
	keys   *olm.Account  // the private keys as they will be, likewise
	rooms  map[id.RoomID]*roomStep
	then   []func()
}

// begin begins a step. The caller holds mu.
func (d *Device) begin() *step {
	return &step{d: d, ch: &store.Changes{}}
}

// row returns the device's row as it will be, to be changed.
func (s *step) row() *store.Device {
	if s.device == nil {
		row := s.d.record.row
		s.device = &row
	}
	return s.device
}

// account returns the device's private keys as they will be, to be changed.
func (s *step) account() *olm.Account {
	if s.keys == nil {
		s.keys = s.d.olmState.account.Clone()
	}
	return s.keys
}

// reading returns the device's private keys as they will be, only to be read.
func (s *step) reading() *olm.Account {
	if s.keys != nil {
		return s.keys
	}
	return s.d.olmState.account
}

// after has f called under d.mu once the step is stored.
func (s *step) after(f func()) { s.then = append(s.then, f) }

// commit stores the step and takes it over into memory. what names it in an error. The
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

// applyToMemory makes memory say what is stored now.
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
// with the request that caused it, but has a bound of its own.
func detach(ctx context.Context, bound time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), bound)
}

// detachUntilStop is detach for work of this device: it ends with the engine.
func (p *part) detachUntilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := detach(ctx, detachedFor)
	stop := context.AfterFunc(p.eng.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// ErrReload means that the database did not tell whether a step was stored. What memory
// says may be old: the device is loaded anew with its next use, and whoever still works
// with this one stores nothing and gives nothing out.
var ErrReload = errors.New("what is stored of the device is not known: it is loaded anew")
