package e2ee

import (
	"time"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/internal/backoff"
)

// schedule is when a device does its own work: whether it syncs by itself, and when it is
// maintained.
type schedule struct {
	*part
	host scheduleHost

	// live says who syncs; syncTurn lets one of the engine's own syncs run, and upkeep one
	// look at what is to be done. They have locks of their own.
	live     liveness
	syncTurn locks.Turns[struct{}]
	upkeep   locks.Turns[struct{}]

	usedAt   time.Time // when a client used the device last, or it was loaded
	awake    bool      // the device is to sync by itself, see awake.go
	looping  bool      // the sync loop runs
	visiting bool      // maintenance is not queued, but noted in wanted

	queued     bool // in the engine's work queue
	wanted     bool
	maintained bool // maintenance has begun since the device was loaded
	retry      retries
	failures   backoff.Pauses
}

// scheduleHost is what the others do for it.
type scheduleHost interface {
	kickLocked()
}
