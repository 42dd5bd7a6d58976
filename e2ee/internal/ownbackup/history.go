package ownbackup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/store"
)

// Missing room keys of events are fetched from the backup. Requests for history and a
// client's first sync wait for that a moment (see e2ee.Incoming.Wait); other syncs never do:
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

// fetching are the room keys to be fetched from the backup. It is guarded by the Device.
type fetching struct {
	wanted   []*fetch
	of       map[store.SessionRef]*fetch
	absent   map[store.SessionRef]time.Time
	paused   time.Time // no fetch before this: the homeserver failed
	failures backoff.Pauses
	// large are rooms of which the backup has too many keys to ask for all at once.
	large   map[id.RoomID]bool
	running bool
	resumed bool // the keys that waited for the backup were fetched
}

// fetch is one wanted key. done is closed when the key is here or will not come.
type fetch struct {
	ref  store.SessionRef
	done chan struct{}
}

// WantedKey is a room key that is missing, and how long its event may wait for it.
type WantedKey struct {
	Ref  store.SessionRef
	Wait time.Duration
}

// Fetch fetches missing room keys from the backup. It returns which fetches have
// ended, of those that may be waited for.
func (b *Backup) Fetch(ctx context.Context, keys []WantedKey) map[store.SessionRef]bool {
	if standing := b.acct.Standing(); standing != keybackup.StandingOurs && standing != keybackup.StandingUnknown {
		return nil
	}
	refs := make([]store.SessionRef, len(keys))
	for i := range keys {
		refs[i] = keys[i].Ref
	}
	var waiting []*fetch
	var wait time.Duration
	for i, f := range b.requestFetches(refs) {
		if f != nil && keys[i].Wait > 0 {
			waiting, wait = append(waiting, f), max(wait, keys[i].Wait)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	waitForAll(ctx, waiting, wait)
	ended := make(map[store.SessionRef]bool, len(waiting))
	for _, f := range waiting {
		if f.over() {
			ended[f.ref] = true
		}
	}
	return ended
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

// requestFetches starts the fetches of keys, all of them before the first request is made. The
// result has nil for a key whose fetch is useless now.
func (b *Backup) requestFetches(refs []store.SessionRef) []*fetch {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	out := make([]*fetch, len(refs))
	for i, ref := range refs {
		out[i] = b.requestFetch(ref)
	}
	if q := &b.fetching; len(q.wanted) > 0 && !q.running {
		q.running = true
		b.Env.WG.Go(func() { b.fetchLoop(b.Context) })
	}
	return out
}

// requestFetch adds a key to those that are wanted; nil when that is useless now. The caller
// holds the device's lock.
func (b *Backup) requestFetch(ref store.SessionRef) *fetch {
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
	return f
}

// fetchLoop fetches keys until none is wanted.
func (b *Backup) fetchLoop(ctx context.Context) {
	for {
		batch := b.nextFetches()
		if len(batch) == 0 {
			return
		}
		var absent map[store.SessionRef]bool
		var others *otherKeys
		fetch := func() error {
			return b.Env.Survive(func() (err error) {
				absent, others, err = b.fetchKeys(ctx, batch)
				return err
			})
		}
		err := fetch()
		for again := 1; errors.Is(err, core.ErrMoreToDo) && again <= fetchAgain; again++ {
			// The owner of the backup changed meanwhile, as while a device is set up.
			if err = backoff.Wait(ctx, core.RereadPauses().After(again)); err == nil {
				err = fetch()
			}
		}
		if err != nil && ctx.Err() == nil {
			b.Env.Log.Warn().Err(err).Msg("Room keys could not be fetched from the backup")
		}
		b.finishFetches(batch, absent, err)
		_ = b.Env.Survive(func() error { b.keepOthers(ctx, others); return nil })
	}
}

func (b *Backup) nextFetches() []*fetch {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	q := &b.fetching
	var batch []*fetch
	batch, q.wanted = nextRequests(q.wanted, fetchBatch, q.large)
	if len(batch) == 0 {
		q.wanted, q.running = nil, false
	}
	return batch
}

// finishFetches ends fetches and remembers which keys are absent.
func (b *Backup) finishFetches(batch []*fetch, absent map[store.SessionRef]bool, err error) {
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

// fetchKeys fetches and stores keys, and returns which the backup does not have, and what other
// keys came with them.
func (b *Backup) fetchKeys(ctx context.Context, batch []*fetch) (absent map[store.SessionRef]bool, others *otherKeys, err error) {
	target, err := b.target(ctx)
	if err != nil {
		return nil, nil, err
	}
	absent = make(map[store.SessionRef]bool)
	if target == nil || target.Private == nil {
		for _, f := range batch {
			absent[f.ref] = true
		}
		return absent, nil, nil
	}
	found, others, err := b.fetchBacked(ctx, target, batch)
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
	return absent, others, errors.Join(err, saveErr)
}

// ResumeHistory continues, once the backup can be read, what waited for that: a requested
// restore, and the fetch of keys that delivered events need.
func (b *Backup) ResumeHistory(ctx context.Context) error {
	standing := b.acct.Standing()
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
	b.requestFetches(refs)
	return nil
}

// IsBusy reports whether keys are fetched, or wait for that, or a restore runs. The caller
// holds mu.
func (b *Backup) IsBusy() bool {
	return len(b.fetching.wanted) > 0 || b.fetching.running || b.restoring.running
}
