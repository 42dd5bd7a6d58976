package devicekeys

import (
	"context"
	"time"

	"e2ee-proxy/e2ee/internal/core"
)

// Once the proxy has published keys for a device, the client cannot use its own any more. A
// client that does its own encryption uploads its keys after its first sync, so for a new
// device the proxy waits until the client does something that needs keys, or has had enough
// time to upload its own.
const (
	// publishAtLast is how long after a device is first seen its keys are published if
	// nothing else decides; a longer first sync of its client is waited for.
	publishAtLast = 10 * time.Second
	// publishAfterSync is the same, counted from the client's second sync.
	publishAfterSync = 1500 * time.Millisecond
)

// Publication is when a device's keys are published.
type Publication struct {
	*core.Device
	host Host

	ready     chan struct{} // closed once publishing is allowed
	timer     *time.Timer
	at        time.Time // when the timer fires
	beginning int       // first syncs of the client in flight
	overdue   bool      // publishing waits until they end
	allowed   bool
	trial     uploadTrial
}

// Host is what the package needs of the other parts of a device. The caller holds the device's
// lock.
type Host interface {
	// KickLocked requests maintenance.
	KickLocked()
	// KeysTakenLocked reports whether the homeserver accepted the device's keys and still has
	// them, and KeysWereTakenLocked records that it accepted them.
	KeysTakenLocked() bool
	KeysWereTakenLocked()
}

// NewPublication returns when a device's keys are published: not yet.
func NewPublication(d *core.Device, host Host) Publication {
	return Publication{Device: d, host: host, ready: make(chan struct{})}
}

// Load says whether the device's keys were published before.
func (p *Publication) Load(published bool) {
	if p.allowed = published; published {
		close(p.ready)
	}
}

// Allowed reports whether the keys may be published. The caller holds mu.
func (p *Publication) Allowed() bool { return p.allowed }

// Seen is called when the device is used first, or was loaded.
func (p *Publication) Seen() { p.PublishWithin(publishAtLast) }

// Stop ends the wait for the time to publish. The caller holds mu.
func (p *Publication) Stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// PublishWithin allows to publish the device's keys after a time, or earlier if that was
// said before. Zero means now: the client does something that needs keys.
func (p *Publication) PublishWithin(wait time.Duration) {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	if p.Mode != core.ModeProxied || p.allowed {
		return
	}
	if wait <= 0 {
		p.allowPublishing()
		return
	}
	due := p.Env.Now().Add(wait)
	if p.timer != nil {
		if !due.Before(p.at) {
			return
		}
		p.timer.Stop()
	}
	p.at = due
	p.timer = time.AfterFunc(wait, func() {
		p.Mu.Lock()
		defer p.Mu.Unlock()
		p.timer = nil
		if p.overdue = p.beginning > 0; !p.overdue {
			p.allowPublishing()
		}
	})
}

// FirstSyncBegins is called when the client's first sync begins. That of a large account
// takes minutes in which the client cannot upload keys, so it does not count as waiting.
func (p *Publication) FirstSyncBegins() {
	p.Mu.Lock()
	defer p.Mu.Unlock()
	p.beginning++
}

// FirstSyncEnds is called when it is over.
func (p *Publication) FirstSyncEnds() {
	p.Mu.Lock()
	p.beginning--
	overdue := p.overdue && p.beginning == 0
	p.overdue = p.overdue && !overdue
	p.Mu.Unlock()
	if overdue {
		p.PublishWithin(publishAtLast)
	}
}

// NextSyncBegins is called when the client syncs again.
func (p *Publication) NextSyncBegins() { p.PublishWithin(publishAfterSync) }

// allowPublishing allows to publish the keys now. The caller holds mu.
func (p *Publication) allowPublishing() {
	if p.allowed {
		return
	}
	p.allowed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	close(p.ready)
	p.host.KickLocked()
}

// Await waits until the device's keys may be published.
func (p *Publication) Await(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
