package e2ee

import (
	"context"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// Publishing keys for a device that has none makes it ours for good. A client that
// does its own encryption uploads its keys only after its first sync, so for a new
// device the proxy waits: until the client does what needs keys, or until it has had
// time enough to upload its own.
const (
	// publishAtLast is how long after a device is first seen, or after its client's first
	// sync if that takes longer, its keys are published if its client does nothing that tells.
	publishAtLast = 10 * time.Second
	// publishAfterSync is how long after the client's second sync.
	publishAfterSync = 1500 * time.Millisecond
)

// publication is when a device's keys are published.
type publication struct {
	*part
	host publicationHost

	ready     chan struct{} // closed once they may be
	allowed   bool
	timer     *time.Timer
	at        time.Time // the timer goes off
	beginning int       // first syncs of the client in flight
	overdue   bool      // publishing waits for their end
	trial     uploadTrial
}

// publicationHost is what the others do for it.
type publicationHost interface {
	kickLocked()
}

// PublishWithin lets the device's keys be published after a time, or earlier if that
// was said before. Zero is now: the client does something that needs keys.
func (p *publication) PublishWithin(wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode != ModeProxied || p.allowed {
		return
	}
	if wait <= 0 {
		p.allowPublishing()
		return
	}
	due := p.eng.now().Add(wait)
	if p.timer != nil {
		if !due.Before(p.at) {
			return
		}
		p.timer.Stop()
	}
	p.at = due
	p.timer = time.AfterFunc(wait, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.timer = nil
		if p.overdue = p.beginning > 0; !p.overdue {
			p.allowPublishing()
		}
	})
}

// firstSyncBegins and firstSyncEnds enclose the sync with which a client begins. That of a
// large account takes minutes, and is no time in which a client could have uploaded keys.
func (p *publication) firstSyncBegins() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beginning++
}

func (p *publication) firstSyncEnds() {
	p.mu.Lock()
	p.beginning--
	overdue := p.overdue && p.beginning == 0
	p.overdue = p.overdue && !overdue
	p.mu.Unlock()
	if overdue {
		p.PublishWithin(publishAtLast)
	}
}

// allowPublishing allows publishing. The caller holds mu.
func (p *publication) allowPublishing() {
	if p.allowed {
		return
	}
	p.allowed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	close(p.ready)
	p.host.kickLocked()
}

func (p *part) isPublished() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record.row.KeysUploaded
}

// awaitPublishing waits until the device's keys may be published.
func (p *publication) awaitPublishing(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ClientHasKeys is called before device keys that a client made itself go to the
// homeserver. settle is nil when the proxy's own keys are published: the upload must
// be refused. Otherwise none are published until settle says whether the homeserver
// accepted the client's, which makes the device foreign.
func (e *Engine) ClientHasKeys(ctx context.Context, user id.UserID, device id.DeviceID, token secret.String) (settle func(ctx context.Context, accepted bool) error, err error) {
	d, err := e.Device(ctx, user, device, token)
	if err != nil {
		return nil, err
	}
	switch d.mode {
	case ModeProxied:
	case ModeLost:
		return nil, ErrKeysLost // others know the old ones
	case ModeForeign, ModeNone, ModeUnknown:
		return func(context.Context, bool) error { return nil }, nil
	}
	give, err := d.schedule.upkeep.Take(ctx, struct{}{})
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	uploaded := d.record.row.KeysUploaded
	d.mu.Unlock()
	if uploaded {
		give()
		return nil, nil
	}
	return func(ctx context.Context, accepted bool) error {
		defer give()
		if !accepted {
			return nil
		}
		return e.makeForeign(ctx, d, token)
	}, nil
}

// makeForeign replaces a device that never published keys by one that is passed
// through. What its client was shown while nobody knew lacked the encryption of rooms,
// so its next sync must carry the whole state.
func (e *Engine) makeForeign(ctx context.Context, d *Device, token secret.String) error {
	user, device := d.acct.user, d.id
	if err := e.discard(ctx, user, device); err != nil {
		return err
	}
	row, err := e.store.Account(ctx, user)
	if err != nil {
		return fmt.Errorf("load account: %w", err)
	}
	foreign := store.Device{DeviceID: device, State: store.DeviceForeign, Token: token, Meta: []byte(metaFullState)}
	if _, err := e.store.CreateDevice(ctx, row, foreign); err != nil {
		return fmt.Errorf("store foreign device: %w", err)
	}
	return nil
}

// metaFullState marks a foreign device whose client needs the whole state once.
const metaFullState = `{"full_state":true}`

// NeedsFullState reports whether the client of a foreign device must be given the whole
// state with its next sync.
func (d *Device) NeedsFullState() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mode == ModeForeign && string(d.record.row.Meta) == metaFullState
}

// GaveFullState records that it was given.
func (d *Device) GaveFullState(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.begin()
	s.row().Meta = nil
	return s.commit(ctx, "what the client was given")
}

// Refreshed tells that the homeserver gave a device a new access token. Using it would
// revoke the old one, so it is used only once the client has, or the old one is refused
// (requirement 22.3).
func (e *Engine) Refreshed(ctx context.Context, user id.UserID, device id.DeviceID, token secret.String) error {
	d, err := e.fromStore(ctx, deviceKey{user, device}, true)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil || d.mode != ModeProxied {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.record.nextToken = token
	return nil
}

// LoggedIn tells of a login through the proxy. The password serves the first bootstrap
// only; a copy of it is kept in memory only, for a minute at most.
func (e *Engine) LoggedIn(ctx context.Context, user id.UserID, device id.DeviceID, token secret.String, password secret.Bytes) error {
	if device == "" {
		return nil
	}
	// A login with the ID of a device that was logged out behind our back makes a new device.
	d, err := e.Device(ctx, user, device, token)
	if err != nil {
		return err
	}
	if d.mode != ModeProxied || len(password) == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ownIdentity.checked && d.ownIdentity.own == ownSigned {
		return nil // it has nothing to do
	}
	d.acct.password.keep(password, device)
	d.ownIdentity.checked = false
	d.ownIdentity.changeSeq++ // an attempt that is under way does not have it
	d.kickLocked()
	return nil
}
