package schedule

import (
	"context"
	"time"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/live"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/internal/backoff"
)

// Schedule is when a device syncs by itself and when it is maintained.
type Schedule struct {
	*core.Device
	host Host

	// Live records who syncs; SyncTurn lets one of the engine's own syncs run at a time,
	// and UpkeepTurn one maintenance. They have their own locks.
	Live       live.View
	SyncTurn   locks.Turns[struct{}]
	UpkeepTurn locks.Turns[struct{}]

	usedAt time.Time // when a client last used the device, or it was loaded

	awake    bool // the device syncs by itself
	looping  bool // the sync loop runs
	visiting bool // a visit is in progress: maintenance is not queued, but recorded in wanted

	queued     bool // in the engine's maintenance queue
	wanted     bool
	maintained bool // maintenance has run since the device was loaded
	retry      retries
	failures   backoff.Pauses
}

// Host is what Schedule needs of a device. The caller holds the device's lock.
type Host interface {
	// Enqueue puts the device into the queue for maintenance. It reports false if the queue
	// is full.
	Enqueue() bool
	// RunLoop starts the sync loop, which asks [Schedule.LoopContinues] after each sync.
	RunLoop()
}

// New returns the schedule of a device that is asleep, and is used now.
func New(d *core.Device, host Host) Schedule {
	order := d.Env.Order
	return Schedule{
		Device: d, host: host, usedAt: d.Env.Now(), Live: live.New(order),
		SyncTurn:   locks.Turns[struct{}]{Place: order.At(locks.RankSync)},
		UpkeepTurn: locks.Turns[struct{}]{Place: order.At(locks.RankUpkeep)},
	}
}

// InUse records that a client uses the device.
func (sc *Schedule) InUse() {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	sc.usedAt = sc.Env.Now()
}

// UsedAt returns when the device was last used, or loaded.
func (sc *Schedule) UsedAt() time.Time {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	return sc.usedAt
}

// Unused reports whether no client has used the device since a time, and none syncs now.
func (sc *Schedule) Unused(since time.Time) bool {
	sc.Mu.Lock()
	used := sc.usedAt
	sc.Mu.Unlock()
	return used.Before(since) && sc.Live.UnusedSince(since)
}

// WakeUp starts the sync loop unless it runs, and reports whether the device is awake: it
// needs a token.
func (sc *Schedule) WakeUp() bool {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	if sc.Record.Token.IsZero() || sc.Ended() {
		return false
	}
	sc.awake = true
	sc.runLoop()
	return true
}

// ResumeLoop restarts the sync loop after the client's sync, if the device is awake.
func (sc *Schedule) ResumeLoop() {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	if sc.awake && !sc.Ended() {
		sc.runLoop()
	}
}

// runLoop runs the sync loop unless it runs. The caller holds mu.
func (sc *Schedule) runLoop() {
	if !sc.looping {
		sc.looping = true
		sc.host.RunLoop()
	}
}

// LoopContinues reports whether the sync loop continues. If not, the loop counts as ended
// until the device wakes up or the client's sync in flight ends.
func (sc *Schedule) LoopContinues(ctx context.Context) bool {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	sc.looping = sc.awake && ctx.Err() == nil && !sc.Live.ClientSyncs()
	return sc.looping
}

// LoopFailed records that the sync loop has ended until a client brings a token.
func (sc *Schedule) LoopFailed() {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	sc.awake, sc.looping = false, false
}

// FallAsleep ends the device's own syncs.
func (sc *Schedule) FallAsleep() {
	sc.Mu.Lock()
	sc.awake = false
	sc.Mu.Unlock()
	sc.Live.Interrupt()
}

// IsAwake reports whether the device makes its own syncs.
func (sc *Schedule) IsAwake() bool {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	return sc.awake
}

// IsIdle reports whether the device is asleep and nothing that failed is to be tried again.
// The caller holds mu.
func (sc *Schedule) IsIdle() bool { return !sc.looping && !sc.awake && !sc.failures.Failing() }

// VisitBegins records that a visit is in progress. wanted asks for maintenance, unless it
// has run or is queued. The caller holds mu.
func (sc *Schedule) VisitBegins(wanted bool) {
	sc.visiting, sc.wanted = true, wanted && !sc.maintained && !sc.queued // it is not to be done twice
}

// VisitEnds records that it is over, and reports whether maintenance is to be done.
func (sc *Schedule) VisitEnds() (wanted bool) {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	sc.visiting = false
	return sc.wanted
}

// Visiting reports whether a visit is in progress. The caller holds mu.
func (sc *Schedule) Visiting() bool { return sc.visiting }
