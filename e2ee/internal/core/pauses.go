package core

import (
	"errors"
	"time"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
)

// Backoff before what failed is tried again. All retries of the engine take their pauses
// from here.

// SyncPauses are for the proxy's own syncs.
func SyncPauses() backoff.Range { return backoff.Range{First: time.Second, Last: 2 * time.Minute} }

// MovePauses are for tokens of syncs that do not move.
func MovePauses() backoff.Range { return backoff.Range{First: 4 * time.Second, Last: 5 * time.Minute} }

// UpkeepPauses are for maintenance: uploads of keys and of the backup, and signatures that
// the homeserver does not show.
func UpkeepPauses() backoff.Range {
	return backoff.Range{First: 2 * time.Second, Last: 10 * time.Minute}
}

// RoundPauses are for rounds in which most visits failed because the homeserver was down.
func RoundPauses() backoff.Range {
	return backoff.Range{First: 30 * time.Second, Last: 5 * time.Minute}
}

// FetchPauses are for single room keys from the backup.
func FetchPauses() backoff.Range {
	return backoff.Range{First: 30 * time.Second, Last: 5 * time.Minute}
}

// RestorePauses are for the restore of the whole history.
func RestorePauses() backoff.Range { return backoff.Range{First: time.Minute, Last: 30 * time.Minute} }

// WedgePauses are for new Olm sessions with devices that cannot be reached or have no
// one-time keys.
func WedgePauses() backoff.Range { return backoff.Range{First: time.Minute, Last: 30 * time.Minute} }

// RereadPauses are for reading back a signature that the homeserver accepted and does not
// show yet.
func RereadPauses() backoff.Range {
	return backoff.Range{First: 100 * time.Millisecond, Last: time.Second}
}

// ListPauses are for member lists that are out of date.
func ListPauses() backoff.Range {
	return backoff.Range{First: 50 * time.Millisecond, Last: time.Second}
}

// KeylessPauses are for devices that had no one-time key left.
func KeylessPauses() backoff.Range { return backoff.Range{First: 15 * time.Second, Last: time.Hour} }

// PauseAfter returns the pause after an error. It is at least the error's Retry-After.
func PauseAfter(err error, pause time.Duration, within backoff.Range) time.Duration {
	var up *wire.UpstreamError
	if errors.As(err, &up) {
		return within.AtLeast(pause, up.RetryAfter)
	}
	return pause
}
