package e2ee

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/ownership"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/store"
)

// While its client does not sync, the proxy syncs for a device that is awake, by long
// polls. Each costs a connection, so only the devices used last are awake, Options.Awake of
// them. The others sleep: rounds visit them and fetch what came for them. The first round
// begins when the process starts, and fetches what came while it did not run. A device in
// use misses nothing: its client's sync and its sends catch up first.
//
// A device that no client has used since the process started is in memory only while it is
// visited or has something left to do.

// awaken starts the device's own syncs. If too many devices are awake, the one used longest
// ago goes to sleep. The caller holds no lock.
func (e *Engine) awaken(d *Device) {
	if d.schedule.WakeUp() {
		e.awake.Add(d, struct{}{})
	}
}

// loopFailed ends the sync loop until a client brings a token.
func (d *Device) loopFailed() {
	d.schedule.LoopFailed()
	d.eng.awake.Remove(d)
}

// rounds visits the sleeping devices again and again. In a cluster they are those of its own
// accounts, and at first it claims all that nobody has.
func (e *Engine) rounds(ctx context.Context) {
	if e.env.Store.Clustered() {
		e.owned.ClaimOrphans(ctx)
		e.env.WG.Go(func() { e.owned.Tend(ctx) })
	}
	var failures backoff.Pauses
	for {
		timer := time.NewTimer(e.opts.Round)
		if e.round(ctx) {
			failures.Reset()
		} else {
			timer.Reset(min(failures.Next(core.RoundPauses()), e.opts.Round))
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// round visits every sleeping device, Options.Visits at the same time. It reports whether
// at least half of the visits succeeded.
func (e *Engine) round(ctx context.Context) bool {
	e.putToSleep()
	slots := make(chan struct{}, e.opts.Visits)
	var visits sync.WaitGroup
	defer visits.Wait()
	var all, failed atomic.Int64
	fail := func(err error) {
		if e.visitFailed(ctx, err) {
			failed.Add(1)
		}
	}
	for ref, err := range e.env.Store.OwnDevices(ctx) {
		if err != nil {
			fail(err)
			break
		}
		key := deviceKey{ref.UserID, ref.DeviceID}
		if d := e.loaded(key); d != nil && d.schedule.IsAwake() {
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return false
		}
		all.Add(1)
		visits.Go(func() {
			defer func() { <-slots }()
			if err := e.env.Survive(func() error { return e.visit(ctx, key) }); err != nil {
				fail(err)
			}
		})
	}
	visits.Wait()
	e.forgetUnloaded()
	return 2*failed.Load() <= all.Load()
}

// visitFailed logs why a visit failed. It reports false if the reason is not the visit's.
func (e *Engine) visitFailed(ctx context.Context, err error) bool {
	if ctx.Err() != nil || ownership.IsMoved(err) {
		return false
	}
	var up *wire.UpstreamError
	level := zerolog.ErrorLevel
	if errors.As(err, &up) {
		level = zerolog.DebugLevel // every failed request logs that the homeserver is down
	}
	e.env.Log.WithLevel(level).Err(err).Msg("A device that sleeps could not be visited")
	return true
}

// visit syncs once for a device. The first visit also runs the maintenance that the last
// process left undone, and wakes the device up if there is room.
func (e *Engine) visit(ctx context.Context, key deviceKey) error {
	d, err := e.fromStore(ctx, key, false)
	if errors.Is(err, store.ErrNotFound) {
		return nil // the device was logged out, or the account handed over
	}
	if err != nil || d.core.Mode != core.ModeProxied {
		return err
	}
	first, left := e.firstVisit(key)
	d.core.Mu.Lock()
	gone, ready := d.core.Ended() || d.core.Record.Token.IsZero(), d.publication.Allowed()
	d.schedule.VisitBegins(first || left)
	d.core.Mu.Unlock()
	if !gone && ready && !d.schedule.Live.ClientSyncs() {
		token := d.core.CurrentToken()
		if err = d.catchUp(d.core.Context); err != nil && d.tokenGone(token, err) {
			err = nil
		}
	}
	switch wanted := d.schedule.VisitEnds(); {
	case gone:
	case wanted:
		d.maintain(d.core.Context)
	case err == nil:
		err = d.ControlRoom().ForgetOldSecrets(d.core.Context)
	}
	if !gone && first && e.awake.Len() < e.opts.Awake {
		e.awaken(d)
	}
	e.unloadIdle(ctx, key, d)
	return err
}

// firstVisit records a visit. It reports whether the device was not visited before (first),
// or was unloaded with something left to do (left).
func (e *Engine) firstVisit(key deviceKey) (first, left bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	left, visited := e.visited[key]
	e.visited[key] = false
	return !visited, left
}

// unloadIdle removes a device from memory that no client uses, that is asleep and has
// nothing left to do. All of it is stored.
func (e *Engine) unloadIdle(ctx context.Context, key deviceKey, d *Device) {
	give, err := d.schedule.UpkeepTurn.Take(ctx, struct{}{})
	if err != nil {
		return
	}
	defer give() // maintenance that begins after this sees
	if !d.idle() {
		return
	}
	if err := d.channel.KeepBegun(ctx, d.outbound.GivenSince); err != nil {
		return // it stays in memory
	}
	e.mu.Lock()
	if e.devices[key] != d || d.hasClient || !d.idle() {
		e.mu.Unlock()
		return
	}
	delete(e.devices, key)
	e.recordUnloaded(d)
	e.visited[key] = d.channel.HasWedges() // the next visit has it maintained
	e.mu.Unlock()
	d.rooms.Release()
	d.retire()
	d.acct.Tracker.DropOwn()
}

// idle reports whether the device is asleep and nothing is left to do that only memory
// knows of.
func (d *Device) idle() bool {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	return d.schedule.IsIdle() && d.publication.Allowed() && !d.gossip.IsAsking() &&
		d.channel.IsSettled() && !d.backups.IsBusy() && !d.flows.IsBusy() && !d.history.IsBusy() && d.core.Record.NextToken.IsZero()
}

// fromStore returns a known device, loaded from the store if it is not in memory. It makes
// no request. With claim it stays in memory, because a client uses it.
func (e *Engine) fromStore(ctx context.Context, key deviceKey, claim bool) (*Device, error) {
	if d := e.get(key, claim); d != nil {
		return d, nil
	}
	give, err := e.opening.Take(ctx, key)
	if err != nil {
		return nil, err
	}
	defer give()
	if d := e.get(key, claim); d != nil {
		return d, nil
	}
	by := e.owned.OursOnly
	if claim {
		by = e.env.Store.ClaimExisting
	}
	acct, err := e.owned.Claim(ctx, key.user, by)
	if err != nil {
		return nil, err
	}
	dev, err := e.env.Store.Device(ctx, acct.Row, key.device)
	if err != nil {
		return nil, fmt.Errorf("load device: %w", err)
	}
	d, err := e.restore(ctx, acct, dev)
	if err != nil {
		return nil, err
	}
	d.hasClient = claim
	return d, e.register(d)
}

// get returns a device that is in memory, nil if it is not. claim is as for fromStore.
func (e *Engine) get(key deviceKey, claim bool) *Device {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.devices[key]
	if d != nil && d.core.MustReload.Load() {
		delete(e.devices, key)
		e.env.WG.Go(func() { e.stopDevice(d) })
		return nil
	}
	if d != nil && claim {
		d.hasClient = true
	}
	return d
}

// stopDevice ends the work of a device that is no longer in use, and removes its room keys
// from the cache.
func (e *Engine) stopDevice(d *Device) {
	e.endDevice(d)
	e.inbound.Forget(map[roomkeys.DeviceKeys]id.UserID{roomkeys.KeysOf(d.core): d.acct.User})
}

// endDevice is stopDevice without the cache of room keys, all of which is looked through.
func (e *Engine) endDevice(d *Device) {
	d.retire()
	d.rooms.Release()
	e.awake.Remove(d)
}

// Only what is used stays in memory. A device that its client has not used for
// Options.IdleAfter goes to sleep and is unloaded with the next round; its next use loads
// it again.

// putToSleep makes devices fall asleep that no client uses any more, so that the rounds
// unload them.
func (e *Engine) putToSleep() {
	since := e.env.Now().Add(-e.opts.IdleAfter)
	e.mu.Lock()
	var idle []*Device
	for key, d := range e.devices {
		switch {
		case !d.schedule.Unused(since):
		case d.core.Mode == core.ModeProxied:
			d.hasClient = false
			idle = append(idle, d)
		default: // no round visits it, and all of it is stored
			delete(e.devices, key)
			e.recordUnloaded(d)
		}
	}
	e.mu.Unlock()
	for _, d := range idle {
		e.awake.Remove(d) // its eviction makes it fall asleep
	}
}

// recordUnloaded records a device that was removed from memory. The caller holds e.mu.
func (e *Engine) recordUnloaded(d *Device) {
	// A request that has used this Device for longer than IdleAfter stores nothing and
	// returns nothing: another Device may exist by then.
	d.core.MustReload.Store(true)
	if e.gone == nil {
		e.gone = make(map[roomkeys.DeviceKeys]id.UserID)
	}
	e.gone[roomkeys.KeysOf(d.core)] = d.acct.User
}

// forgetUnloaded removes cache entries of unloaded devices, and what no device used as long.
func (e *Engine) forgetUnloaded() {
	e.mu.Lock()
	gone := e.gone
	e.gone = nil
	for _, d := range e.devices {
		delete(gone, roomkeys.KeysOf(d.core)) // it was loaded again
	}
	users := make(map[id.UserID]bool)
	for _, user := range gone {
		users[user] = true
	}
	for key := range e.devices {
		delete(users, key.user) // another device of theirs is used
	}
	e.mu.Unlock()
	if len(gone) > 0 {
		e.inbound.Forget(gone)
		e.rooms.Forget(users)
	}
	e.inbound.ForgetUnused(e.env.Now().Add(-e.opts.IdleAfter))
}

// maintain does what is due for a device: keys, outbox, identity, backup. It is safe to repeat.
func (d *Device) maintain(ctx context.Context) {
	d.schedule.UpkeepBegins()
	give, err := d.schedule.UpkeepTurn.Take(ctx, struct{}{})
	if err != nil {
		return
	}
	defer give()
	if d.core.Ended() {
		return // retired: another Device took its place
	}
	failed, more := false, false
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"upload keys", d.keySupply.Upload},
		{"replace dead keys", d.keySupply.ClaimDead},
		{"flush outbox", d.channel.FlushOutbox},
		{"check received secrets", d.backups.CheckReceived},
		{"set up identity", d.ownIdentity.SetUp},
		{"pass the signature on", d.ownIdentity.PassOn},
		{"answer requests for secrets", d.gossip.AnswerSecretRequests},
		{"answer requests for room keys", d.gossip.AnswerKeyRequests},
		{"flush outbox", d.channel.FlushOutbox},
		{"back up room keys", d.backups.BackUp},
		{"restore history", d.backups.ResumeHistory},
		{"take shared history", d.history.Take},
		{"request room keys", d.gossip.RequestKeys},
		{"unwedge", d.channel.Unwedge},
		{"refresh device lists", d.refreshDeviceLists},
		{"say which verifications ended", d.flows.Resume},
		{"review warnings", d.reviewWarnings},
		{"locate warnings", d.locateWarnings},
		{"forget secrets that were told", d.ControlRoom().ForgetOldSecrets},
		{"fill the search index again", d.reader().Refill},
	} {
		switch err := d.core.Env.Survive(func() error { return step.do(ctx) }); {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, core.ErrMoreToDo):
			more = true
		case ownidentity.NeedsPerson(err):
			d.core.Env.Log.Info().Err(err).Str("step", step.name).Msg("A step of a device's upkeep waits for what its owner has to do; status tells them")
		default:
			failed = true
			d.core.Env.Log.Warn().Err(err).Str("step", step.name).Msg("A step of a device's upkeep failed; it is tried again")
		}
	}
	d.schedule.UpkeepEnds(failed, more)
}

// refreshDeviceLists queries whose devices may have changed before a send needs it (requirement 4.3).
func (d *Device) refreshDeviceLists(ctx context.Context) error {
	if d.core.Mode != core.ModeProxied || !d.core.IsPublished() || d.core.CurrentToken().IsZero() {
		return nil
	}
	return d.acct.Tracker.Refresh(ctx, d.core.Query())
}

// worker maintains the devices in the queue.
func (e *Engine) worker() {
	for {
		select {
		case <-e.env.Context.Done():
			return
		case d := <-e.maintenance:
			d.maintain(e.env.Context)
		}
	}
}
