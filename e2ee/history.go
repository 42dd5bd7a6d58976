package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Missing room keys of events are fetched from the backup. Requests for history and a
// client's first sync wait for that a moment (see [Incoming.Wait]); other syncs never do:
// their events are delivered again when the key is here.
const (
	// fetchBatch is how many requests are made before their keys are stored, and
	// fetchParallel how many at the same time.
	fetchBatch    = 64
	fetchParallel = 8
	// fetchAgain is how often a fetch is retried while the backup is being set up.
	fetchAgain = 5
	// maxFetches bounds the keys that wait to be fetched, and the keys known to be in no
	// backup.
	maxFetches = 5000
	// absentFor is how long a key that is not in the backup is not fetched again.
	absentFor = 15 * time.Minute
)

// backups reads and writes the account's key backup for one device.
type backups struct {
	*core.Device
	acct *backupAccount
	own  *ownidentity.Identity
	host backupsHost

	fetching  fetching
	restoring restoring
}

// backupsHost is what backups needs of the other parts of a device.
type backupsHost interface {
	// KeepKept stores room keys from the backup, without those that add nothing, and returns
	// how many it stored.
	KeepKept(ctx context.Context, rows []store.InboundSession) (kept int, err error)
	// SignAsDevice adds the device's signature to an object.
	SignAsDevice(raw json.RawMessage) (json.RawMessage, error)
	// WantSecrets requests the secrets that are missing from the user's other devices.
	WantSecrets(ctx context.Context, own *trustcache.User) error
	// RetryRestore requests maintenance after a pause, because a restore failed. The caller
	// holds the device's lock.
	RetryRestore(pause time.Duration)
}

// newBackups returns the account's backup as a device reads and writes it.
func newBackups(dev *core.Device, acct *backupAccount, own *ownidentity.Identity, host backupsHost) backups {
	return backups{Device: dev, acct: acct, own: own, host: host}
}

// fetching are the room keys to be fetched from the backup. It is guarded by the Device.
type fetching struct {
	wanted   []*fetch
	of       map[store.SessionRef]*fetch
	absent   map[store.SessionRef]time.Time
	paused   time.Time // no fetch before this: the homeserver failed
	failures backoff.Pauses
	running  bool
	resumed  bool // the keys that waited for the backup were fetched
}

// fetch is one wanted key. done is closed when the key is here or will not come.
type fetch struct {
	ref  store.SessionRef
	done chan struct{}
}

// fetchMissing fetches the missing keys of events from the backup. It returns the events to
// decrypt again: those that may wait, and whose fetch has ended.
func (b *backups) fetchMissing(ctx context.Context, jobs []*eventJob) []*eventJob {
	if standing := b.acct.standing(); standing != keybackup.StandingOurs && standing != keybackup.StandingUnknown {
		return nil
	}
	var waiting []*eventJob
	var fetches []*fetch
	var wait time.Duration
	for _, job := range jobs {
		if !errors.Is(job.err, errNoKey) && !errors.Is(job.err, errTooEarly) {
			continue
		}
		f := b.requestFetch(job.ref)
		if f != nil && job.wait > 0 {
			waiting, fetches, wait = append(waiting, job), append(fetches, f), max(wait, job.wait)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	waitForAll(ctx, fetches, wait)
	var ready []*eventJob
	for i, f := range fetches {
		if f.over() {
			ready = append(ready, waiting[i])
		}
	}
	for _, job := range ready {
		job.err, job.session = nil, nil
	}
	return ready
}

// waitForAll waits until all fetches have ended, or until the time is over.
func waitForAll(ctx context.Context, fetches []*fetch, wait time.Duration) {
	limit := time.NewTimer(wait)
	defer limit.Stop()
	for _, f := range fetches {
		select {
		case <-f.done:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// over reports whether a fetch has ended.
func (f *fetch) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// requestFetch starts the fetch of a key; nil when that is useless now.
func (b *backups) requestFetch(ref store.SessionRef) *fetch {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	q := &b.fetching
	if f := q.of[ref]; f != nil {
		return f
	}
	now := b.Env.Now()
	if until, ok := q.absent[ref]; (ok && now.Before(until)) || now.Before(q.paused) || len(q.of) >= maxFetches {
		return nil
	}
	if b.Ended() {
		return nil
	}
	f := &fetch{ref: ref, done: make(chan struct{})}
	if q.of == nil {
		q.of, q.absent = make(map[store.SessionRef]*fetch), make(map[store.SessionRef]time.Time)
	}
	q.of[ref] = f
	q.wanted = append(q.wanted, f)
	if !q.running {
		q.running = true
		b.Env.WG.Go(func() { b.fetchLoop(b.Context) })
	}
	return f
}

// fetchLoop fetches keys until none is wanted.
func (b *backups) fetchLoop(ctx context.Context) {
	for {
		batch := b.nextFetches()
		if len(batch) == 0 {
			return
		}
		absent, err := b.fetchKeys(ctx, batch)
		for again := 1; errors.Is(err, core.ErrMoreToDo) && again <= fetchAgain; again++ {
			// The owner of the backup changed meanwhile, as while a device is set up.
			if err = backoff.Wait(ctx, core.RereadPauses().After(again)); err == nil {
				absent, err = b.fetchKeys(ctx, batch)
			}
		}
		if err != nil && ctx.Err() == nil {
			b.Env.Log.Warn().Err(err).Msg("Room keys could not be fetched from the backup")
		}
		b.finishFetches(batch, absent, err)
	}
}

func (b *backups) nextFetches() []*fetch {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	q := &b.fetching
	var batch []*fetch
	batch, q.wanted = nextRequests(q.wanted, fetchBatch)
	if len(batch) == 0 {
		q.wanted, q.running = nil, false
	}
	return batch
}

// finishFetches ends fetches and remembers which keys are absent.
func (b *backups) finishFetches(batch []*fetch, absent map[store.SessionRef]bool, err error) {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	q := &b.fetching
	now := b.Env.Now()
	if err != nil {
		q.paused = now.Add(core.PauseAfter(err, q.failures.Next(core.FetchPauses()), core.FetchPauses()))
	} else {
		q.failures.Reset()
	}
	if len(q.absent)+len(absent) > maxFetches {
		clear(q.absent)
	}
	for ref := range absent {
		q.absent[ref] = now.Add(absentFor)
	}
	for _, f := range batch {
		delete(q.of, f.ref)
		close(f.done)
	}
}

// fetchKeys fetches and stores keys, and returns which the backup does not have.
func (b *backups) fetchKeys(ctx context.Context, batch []*fetch) (absent map[store.SessionRef]bool, err error) {
	target, err := b.backupTarget(ctx)
	if err != nil {
		return nil, err
	}
	absent = make(map[store.SessionRef]bool)
	if target == nil || target.Private == nil {
		for _, f := range batch {
			absent[f.ref] = true
		}
		return absent, nil
	}
	found, err := b.fetchBacked(ctx, target.Version, batch)
	var rows []store.InboundSession
	for _, f := range batch {
		if found[f.ref] == nil {
			absent[f.ref] = err == nil
			continue
		}
		row, bad := keybackup.Open(f.ref, found[f.ref], target.Private, target.MACKey)
		if bad != nil {
			absent[f.ref] = true
			continue
		}
		row.BackupVersion = target.Version
		rows = append(rows, row)
	}
	for ref, gone := range absent {
		if !gone {
			delete(absent, ref)
		}
	}
	kept, saveErr := b.host.KeepKept(ctx, rows)
	b.Env.Counts.Restores.Add(float64(kept))
	return absent, errors.Join(err, saveErr)
}

// resumeHistory continues, once the backup can be read, what waited for that: a requested
// restore, and the fetch of keys that delivered events need.
func (b *backups) resumeHistory(ctx context.Context) error {
	standing := b.acct.standing()
	b.Mu.Lock()
	first := !b.fetching.resumed
	again := b.restoring.status != nil && b.restoring.status.State == restoreFailed
	b.Mu.Unlock()
	if standing != keybackup.StandingOurs || (!first && !again) {
		return nil
	}
	if err := b.continueRestore(ctx); err != nil {
		return err
	}
	refs, err := b.Env.Store.PendingSessions(ctx, b.acct.Row, b.RowID, maxFetches)
	if err != nil {
		return fmt.Errorf("look for events that wait: %w", err)
	}
	b.Mu.Lock()
	clear(b.fetching.absent)
	b.fetching.resumed = true
	b.Mu.Unlock()
	for _, ref := range refs {
		b.requestFetch(ref)
	}
	return nil
}

// isBusy reports whether keys are fetched, or wait for that, or a restore runs. The caller
// holds mu.
func (b *backups) isBusy() bool {
	return len(b.fetching.wanted) > 0 || b.fetching.running || b.restoring.running
}
