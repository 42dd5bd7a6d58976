package e2ee

import (
	"time"

	"e2ee-proxy/e2ee/internal/live"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/internal/backoff"
)

// schedule is when a device syncs by itself and when it is maintained.
type schedule struct {
	*part
	host scheduleHost

	// live records who syncs; syncTurn lets one of the engine's own syncs run at a time,
	// and upkeep one maintenance. They have their own locks.
	live     live.View
	syncTurn locks.Turns[struct{}]
	upkeep   locks.Turns[struct{}]

	usedAt   time.Time // when a client last used the device, or it was loaded
	awake    bool      // the device syncs by itself, see awake.go
	looping  bool      // the sync loop runs
	visiting bool      // a visit is in progress: maintenance is not queued, but recorded in wanted

	queued     bool // in the engine's maintenance queue
	wanted     bool
	maintained bool // maintenance has run since the device was loaded
	retry      retries
	failures   backoff.Pauses
}

// scheduleHost is what schedule needs of the other parts.
type scheduleHost interface {
	kickLocked()
}
