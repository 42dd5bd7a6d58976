package main

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"e2ee-proxy/console"
	"e2ee-proxy/store"
)

// How long the database keeps what is needed for a while only.
const (
	// keepSeen covers to-device messages that a homeserver delivers again, at the latest after
	// it was restored from a backup.
	keepSeen = 30 * 24 * time.Hour
	// keepTransactions covers clients that repeat a send after having been offline.
	keepTransactions = 14 * 24 * time.Hour
	// keepPending is how long an event waits for its key, to be delivered again. After that
	// the client still gets it in clear when it asks for the history.
	keepPending = 30 * 24 * time.Hour

	// keepIntents is longer than a request that may have been done is made again.
	keepIntents = time.Hour

	// maxFiles is how many encrypted files of one account are known. One that was forgotten is
	// known again once a client is shown its event.
	maxFiles = 50_000

	housekeepingEvery = time.Hour
)

// housekeeping deletes what is no longer needed, now and every hour, until ctx is done.
// A run that fails is repeated an hour later; nothing depends on its success.
func housekeeping(ctx context.Context, db *store.DB, log zerolog.Logger, auditKeep time.Duration) error {
	for {
		n, err := prune(ctx, db, time.Now(), auditKeep)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			log.Warn().Err(err).Msg("deleting what is no longer needed failed; it is tried again in an hour")
		case n > 0:
			log.Debug().Int64("rows", n).Msg("deleted what is no longer needed")
		}
		logCheckpoint(ctx, db, log)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(housekeepingEvery):
		}
	}
}

// prune deletes everything that is too old, and returns how many rows that was.
func prune(ctx context.Context, db *store.DB, now time.Time, auditKeep time.Duration) (int64, error) {
	seen, err1 := db.PruneSeen(ctx, now.Add(-keepSeen))
	transactions, err2 := db.PruneTransactions(ctx, now.Add(-keepTransactions))
	pending, err3 := db.PrunePending(ctx, now.Add(-keepPending))
	shares, err4 := db.PruneShares(ctx)
	files, err5 := db.PruneFiles(ctx, now, maxFiles)
	records, err6 := truncateAudit(ctx, db, auditKeep, now)
	people, err7 := db.PruneConsoleSessions(ctx, now, now.Add(-console.Idle))
	intents, err8 := db.PruneIntents(ctx, now.Add(-keepIntents))
	return seen + transactions + pending + shares + files + records + people + intents, errors.Join(err1, err2, err3, err4, err5, err6, err7, err8)
}
