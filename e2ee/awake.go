package e2ee

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"e2ee-proxy/e2ee/internal/core"
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
	if d.startLoop() {
		e.awake.Add(d, struct{}{})
	}
}

// fallAsleep ends the device's own syncs.
func (sc *schedule) fallAsleep() {
	sc.Mu.Lock()
	sc.awake = false
	sc.Mu.Unlock()
	sc.live.Interrupt()
}

// isAwake reports whether the device makes its own syncs.
func (sc *schedule) isAwake() bool {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	return sc.awake
}

// loopContinues reports whether the sync loop continues. If not, the loop counts as ended
// until the device wakes up or the client's sync in flight ends.
func (sc *schedule) loopContinues(ctx context.Context) bool {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	sc.looping = sc.awake && ctx.Err() == nil && !sc.live.ClientSyncs()
	return sc.looping
}

// resumeLoop restarts the sync loop after the client's sync, if the device is awake.
func (d *Device) resumeLoop() {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	if d.schedule.awake && !d.core.Ended() {
		d.runLoop()
	}
}

// loopFailed ends the sync loop until a client brings a token.
func (d *Device) loopFailed() {
	d.core.Mu.Lock()
	d.schedule.awake, d.schedule.looping = false, false
	d.core.Mu.Unlock()
	d.eng.awake.Remove(d)
}

// rounds visits the sleeping devices again and again.
func (e *Engine) rounds() {
	var failures backoff.Pauses
	for {
		timer := time.NewTimer(e.opts.Round)
		if e.round(e.env.Context) {
			failures.Reset()
		} else {
			timer.Reset(min(failures.Next(core.RoundPauses()), e.opts.Round))
		}
		select {
		case <-timer.C:
		case <-e.env.Context.Done():
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
		if ctx.Err() != nil {
			return
		}
		failed.Add(1)
		var up *wire.UpstreamError
		level := zerolog.ErrorLevel
		if errors.As(err, &up) {
			level = zerolog.DebugLevel // every failed request logs that the homeserver is down
		}
		e.env.Log.WithLevel(level).Err(err).Msg("A device that sleeps could not be visited")
	}
	for ref, err := range e.env.Store.OwnDevices(ctx) {
		if err != nil {
			fail(err)
			break
		}
		key := deviceKey{ref.UserID, ref.DeviceID}
		if d := e.loaded(key); d != nil && d.schedule.isAwake() {
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
			if err := e.visit(ctx, key); err != nil {
				fail(err)
			}
		})
	}
	visits.Wait()
	e.forgetUnloaded()
	return 2*failed.Load() <= all.Load()
}

// visit syncs once for a device. The first visit also runs the maintenance that the last
// process left undone, and wakes the device up if there is room.
func (e *Engine) visit(ctx context.Context, key deviceKey) error {
	d, err := e.fromStore(ctx, key, false)
	if errors.Is(err, store.ErrNotFound) {
		return nil // the device was logged out
	}
	if err != nil || d.core.Mode != core.ModeProxied {
		return err
	}
	first, left := e.firstVisit(key)
	d.core.Mu.Lock()
	gone, ready := d.core.Ended() || d.core.Record.Token.IsZero(), d.publication.Allowed()
	d.schedule.visiting, d.schedule.wanted = true, (first || left) && !d.schedule.maintained && !d.schedule.queued // it is not to be done twice
	d.core.Mu.Unlock()
	if !gone && ready && !d.schedule.live.ClientSyncs() {
		token := d.core.CurrentToken()
		if err = d.catchUp(d.core.Context); err != nil && d.tokenGone(token, err) {
			err = nil
		}
	}
	d.core.Mu.Lock()
	wanted := d.schedule.wanted && !gone
	d.schedule.visiting = false
	d.core.Mu.Unlock()
	if wanted {
		d.maintain(d.core.Context)
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
	give, err := d.schedule.upkeep.Take(ctx, struct{}{})
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
}

// idle reports whether the device is asleep and nothing is left to do that only memory
// knows of.
func (d *Device) idle() bool {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	return !d.schedule.looping && !d.schedule.awake && d.publication.Allowed() && !d.schedule.failures.Failing() && !d.gossip.IsAsking() &&
		!d.backups.IsBusy() && d.core.Record.NextToken.IsZero()
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
	row, err := e.env.Store.LookupAccount(ctx, key.user)
	if err != nil {
		return nil, fmt.Errorf("load account: %w", err)
	}
	dev, err := e.env.Store.Device(ctx, row, key.device)
	if err != nil {
		return nil, fmt.Errorf("load device: %w", err)
	}
	d, err := e.restore(ctx, row, dev)
	if err != nil {
		return nil, err
	}
	d.hasClient = claim
	e.register(d)
	return d, nil
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
	d.retire()
	d.rooms.Release()
	e.awake.Remove(d)
	e.inbound.Forget(map[int64]struct{}{d.core.RowID: {}})
}

// Only what is used stays in memory. A device that its client has not used for
// Options.IdleAfter goes to sleep and is unloaded with the next round; its next use loads
// it again.

// inUse records that a client uses the device.
func (sc *schedule) inUse() {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	sc.usedAt = sc.Env.Now()
}

// unused reports whether no client has used the device since a time, and none syncs now.
func (sc *schedule) unused(since time.Time) bool {
	sc.Mu.Lock()
	used := sc.usedAt
	sc.Mu.Unlock()
	return used.Before(since) && sc.live.UnusedSince(since)
}

// putToSleep makes devices fall asleep that no client uses any more, so that the rounds
// unload them.
func (e *Engine) putToSleep() {
	since := e.env.Now().Add(-e.opts.IdleAfter)
	e.mu.Lock()
	var idle []*Device
	for key, d := range e.devices {
		switch {
		case !d.schedule.unused(since):
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
		e.gone = make(map[int64]struct{})
	}
	e.gone[d.core.RowID] = struct{}{}
}

// forgetUnloaded removes cache entries of unloaded devices.
func (e *Engine) forgetUnloaded() {
	e.mu.Lock()
	gone := e.gone
	e.gone = nil
	for _, d := range e.devices {
		delete(gone, d.core.RowID) // it was loaded again
	}
	e.mu.Unlock()
	if len(gone) > 0 {
		e.inbound.Forget(gone)
	}
}
