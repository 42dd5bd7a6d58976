package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"e2ee-proxy/store"
)

// Every change of a device is a step: it is staged, stored, and only then applied to
// memory. A step that fails is dropped and leaves memory as it was: nothing is ever undone,
// and nothing is read again to find out what holds.

// Step is one change of a device. It is made, filled and committed under one hold of the
// device's lock.
type Step struct {
	Changes *store.Changes

	d      *Device
	device *store.Device // the staged row; nil while it does not change
	parts  map[any]Staged
	order  []Staged
	Then   []func()
}

// Staged is a part's share of a step.
type Staged interface {
	// Stage adds it to what the step stores.
	Stage(s *Step)
	// Apply makes it what memory has, once it is stored.
	Apply()
}

// Begin returns a new step. The caller holds mu.
func (p *Device) Begin() *Step {
	return &Step{d: p, Changes: &store.Changes{}}
}

// Row returns the staged row of the device, to be changed.
func (s *Step) Row() *store.Device {
	if s.device == nil {
		row := s.d.Record.Row
		s.device = &row
	}
	return s.device
}

// ChangeMeta changes the Meta of the staged row.
func (s *Step) ChangeMeta(change func(*Meta)) error {
	m := ReadMeta(s.Row().Meta)
	change(&m)
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode what a device keeps: %w", err)
	}
	s.Row().Meta = raw
	return nil
}

// Part returns what owner has staged in the step, and adds it first if that is nothing.
// begin makes it; nil adds nothing.
func (s *Step) Part(owner any, begin func() Staged) Staged {
	if p, ok := s.parts[owner]; ok || begin == nil {
		return p
	}
	if s.parts == nil {
		s.parts = make(map[any]Staged, 1)
	}
	p := begin()
	s.parts[owner], s.order = p, append(s.order, p)
	return p
}

// After registers f to be called under the device's lock once the step is stored.
func (s *Step) After(f func()) { s.Then = append(s.Then, f) }

// Commit stores the step and applies it to memory. what describes it in an error. The
// caller holds the device's lock.
func (s *Step) Commit(ctx context.Context, what string) error {
	for _, p := range s.order {
		p.Stage(s)
	}
	s.Changes.Device = s.device
	if err := s.d.Save(ctx, s.Changes); err != nil {
		return fmt.Errorf("store %s: %w", what, err)
	}
	s.ApplyToMemory()
	return nil
}

// ApplyToMemory makes memory what is stored now. If it cannot, the device is loaded anew.
func (s *Step) ApplyToMemory() {
	applied := false
	defer func() {
		if !applied {
			s.d.MustReload.Store(true)
		}
	}()
	if s.device != nil {
		s.d.Record.Row = *s.device
	}
	for _, p := range s.order {
		p.Apply()
	}
	for _, f := range s.Then {
		f()
	}
	applied = true
}

// saveTimeout bounds one write. A write does not end with the request that it is for: a
// client that hangs up must not leave something half done.
const saveTimeout = 10 * time.Second

// Save writes changes of this device that nothing in memory depends on, or whose caller
// changes memory after it.
func (p *Device) Save(ctx context.Context, ch *store.Changes) error {
	if p.MustReload.Load() {
		return ErrReload
	}
	ctx, cancel := Detach(ctx, saveTimeout)
	defer cancel()
	err := p.Env.Store.Save(ctx, p.Account.Row, p.RowID, ch)
	if errors.Is(err, store.ErrUnsure) || errors.Is(err, store.ErrStale) || errors.Is(err, store.ErrNotOwner) {
		p.MustReload.Store(true)
		return fmt.Errorf("%w: %w", ErrReload, err)
	}
	if err == nil {
		p.Env.RoomsStored(ch.Rooms)
	}
	return err
}
