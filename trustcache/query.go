package trustcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/store"
)

// flight is a query about one user that is in flight. There is at most one per user; who
// joins it asks again afterwards if something changed meanwhile.
type flight struct {
	user     id.UserID
	failures int
	cancel   context.CancelCauseFunc // of the query, which may be about others too
	done     chan struct{}
	err      error // once done
	// dirty and untracked are set, under mu, when a change arrives that the answer may not contain
	// (requirement 4.5); untracked when tracking stopped.
	dirty, untracked bool
	// passive is a flight for somebody who does not follow device lists, see [Tracker.Within].
	passive bool
	// joined reports who is in a room with the account, see [Tracker.LookupMembers]; nil for
	// nobody.
	joined func(id.UserID) bool
}

// startFlights starts queries about users who have none in flight, and returns the flights of
// all: mine were started by this call, joined by others.
func (t *Tracker) startFlights(ctx context.Context, q KeyQuerier, ask []*entry, like flight) (mine, joined []*flight, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, nil, ErrClosed
	}
	for _, e := range ask {
		user := e.row.UserID
		if f := t.flights[user]; f != nil {
			joined = append(joined, f)
			continue
		}
		// A flight that ended meanwhile may have answered already.
		if now := t.cached(user); now != nil && now != e && (now.user.Knowledge == KnowledgeFresh || !askable(now, t.opts.Now())) {
			continue
		}
		f := like
		f.user, f.failures, f.done = user, e.row.Failures, make(chan struct{})
		put(&t.flights, user, &f)
		mine = append(mine, &f)
	}
	for _, batch := range t.batches(mine) {
		query, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		for _, f := range batch {
			f.cancel = cancel
		}
		t.queries.Go(func() { t.runQuery(query, q, batch); cancel(nil) })
	}
	return mine, joined, nil
}

// runQuery makes one query and ends its flights, whatever the result.
func (t *Tracker) runQuery(ctx context.Context, q KeyQuerier, batch []*flight) {
	err := parallel.Try(func() error { return t.queryBatch(ctx, q, batch) })
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range batch {
		f.err = err
		drop(&t.flights, f.user)
		close(f.done)
	}
}

// batches divides flights into queries. Users whose queries failed go into smaller and
// smaller ones, so that one user whom the homeserver cannot handle does not fail the
// others' for long.
func (t *Tracker) batches(all []*flight) [][]*flight {
	slices.SortStableFunc(all, func(a, b *flight) int { return a.failures - b.failures })
	var out [][]*flight
	for len(all) > 0 {
		n := 1
		for n < len(all) && n < max(1, t.opts.BatchSize>>min(all[n].failures, 16)) {
			n++
		}
		out = append(out, all[:n])
		all = all[n:]
	}
	return out
}

// queryBatch makes one query and stores the answer. Errors are the store's, ErrClosed and
// ErrAsker.
func (t *Tracker) queryBatch(ctx context.Context, q KeyQuerier, batch []*flight) error {
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	case <-ctx.Done():
		return fmt.Errorf("wait to query devices: %w", context.Cause(ctx))
	}
	needs, err := t.needs(ctx, batch)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, t.opts.QueryTimeout)
	res, err := t.ask(limited, q, batch, needs)
	cancel()
	if ctx.Err() != nil {
		return fmt.Errorf("query devices: %w", context.Cause(ctx)) // not the homeserver's failure
	}
	if errors.Is(err, ErrAsker) {
		return fmt.Errorf("query devices: %w", err)
	}
	if err != nil || res.keys == nil {
		t.opts.QueryFailed(len(batch), err)
		return t.storeFailures(ctx, batch)
	}
	err = parallel.Try(func() error { return t.storeAnswer(ctx, batch, res) })
	if _, thrown := errors.AsType[*parallel.PanicError](err); thrown { // by somebody's keys, which hold up only theirs soon
		t.opts.QueryFailed(len(batch), err)
		return t.storeFailures(ctx, batch)
	}
	return err
}

// firstBackoff is the pause after the first query that failed.
const firstBackoff = 2 * time.Second

// backoff returns the pause after so many failures in a row.
func (t *Tracker) backoff(failures int) time.Duration {
	return backoff.Range{First: firstBackoff, Last: t.opts.MaxBackoff}.After(failures)
}

// failure returns the row of a user after a query that failed (requirement 3.11).
func (t *Tracker) failure(row store.User, f *flight) store.User {
	if !f.passive {
		row.Tracked, row.Outdated = !f.untracked, true
	}
	row.Failures++
	row.RetryAt = t.opts.Now().Add(t.backoff(row.Failures))
	return row
}

// storeFailures records a query that failed.
func (t *Tracker) storeFailures(ctx context.Context, batch []*flight) error {
	return t.change(ctx, usersOf(batch), func(w *rowsTx) error {
		flights := t.copyFlights(batch)
		for _, f := range batch {
			w.setRow(w.get(f.user), t.failure(w.get(f.user).row, flights[f.user]))
		}
		return nil
	})
}

// storeAnswer works out and stores the answer to a query.
func (t *Tracker) storeAnswer(ctx context.Context, batch []*flight, res answered) error {
	users := usersOf(batch)
	worked, err := t.workOut(ctx, users, res.keys)
	if err != nil {
		return err
	}
	// The own user comes first: others are judged by its keys.
	slices.SortStableFunc(users, func(a, b id.UserID) int { return t.rank(a) - t.rank(b) })
	return t.change(ctx, users, func(w *rowsTx) error {
		flights := t.copyFlights(batch)
		for _, user := range users {
			e, f := w.get(user), flights[user]
			at := res.at(user)
			if e.asked.After(at) {
				continue // a client has learned something newer meanwhile: asked again from there
			}
			if f.dirty {
				at = time.Time{}
			}
			up, ok, err := worked.of(ctx, e)
			if err != nil {
				return err
			}
			if !ok {
				w.set(e.with(t.account.UserID, t.failure(e.row, f)).askedAt(at))
				continue
			}
			row := e.row
			if f.passive {
				row, up.passive = passiveRow(row, &up), true
			} else {
				row.Tracked, row.Outdated = !f.untracked, f.dirty || f.untracked
			}
			row.Failures, row.RetryAt = 0, time.Time{}
			up.asked = at
			if err := w.applyUpdate(ctx, e, row, up); err != nil {
				return err
			}
			w.answered = append(w.answered, user)
		}
		return nil
	})
}

// retired returns the self-signing keys that the master key in an answer has replaced, if
// the answer has another self-signing key than before. A homeserver could bring back an old
// key, whose private half somebody has, and every device that it ever signed; also after it
// has shown another identity in between.
func (t *Tracker) retired(ctx context.Context, before *User, res *QueryResult) (map[id.Ed25519]bool, error) {
	if before.SelfSigning == "" || bytes.Equal(res.SelfSigningKeys[before.UserID], before.SelfSigningRaw) {
		return nil, nil
	}
	shown, _ := nextIdentity(before, res)
	if shown.SelfSigning == before.SelfSigning && shown.Master == before.Master {
		return nil, nil
	}
	history, err := t.store.UserChanges(ctx, t.account, before.UserID)
	if err != nil {
		return nil, fmt.Errorf("load history of a user: %w", err)
	}
	out := make(map[id.Ed25519]bool)
	var left id.Ed25519 // the last key under the master key, if it is not the current one
	for _, c := range history {
		if c.Master != shown.Master.String() || (c.Kind != kindRetired && c.Kind != kindLeft) {
			continue
		}
		out[id.Ed25519(c.Previous)] = true
		if left = ""; c.Kind == kindLeft && shown.Master != before.Master {
			left = id.Ed25519(c.Previous)
		}
	}
	delete(out, left)
	return out, nil
}

// copyFlights returns copies of flights with their flags, by user. Changes that arrive
// later wait for rows, and so are committed after what is written now.
func (t *Tracker) copyFlights(batch []*flight) map[id.UserID]*flight {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[id.UserID]*flight, len(batch))
	for _, f := range batch {
		now := *f
		out[f.user] = &now
	}
	return out
}

func (t *Tracker) rank(user id.UserID) int {
	if user == t.account.UserID {
		return 0
	}
	return 1
}

func usersOf(batch []*flight) []id.UserID {
	out := make([]id.UserID, len(batch))
	for i, f := range batch {
		out[i] = f.user
	}
	return out
}

// Changed records that users' devices changed (requirement 4.3), and adds to ch what the
// caller must store together with its sync position. From now on, whether or not that
// succeeds, the users are not fresh. The caller calls committed once ch is stored, and only
// then.
func (t *Tracker) Changed(ch *store.Changes, users []id.UserID) (committed func()) {
	t.rows.Lock()
	defer t.rows.Unlock()
	ch.OutdatedUsers = append(ch.OutdatedUsers, users...)
	return t.markAll(users, false)
}

// Left is like Changed, when the homeserver no longer reports the users' changes
// (requirement 4.6). What is known of them is kept, and so are their pins.
func (t *Tracker) Left(ch *store.Changes, users []id.UserID) (committed func()) {
	t.rows.Lock()
	defer t.rows.Unlock()
	ch.LeftUsers = append(ch.LeftUsers, users...)
	return t.markAll(users, true)
}

// markAll makes users outdated in memory. The caller holds rows.
func (t *Tracker) markAll(users []id.UserID, left bool) (committed func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq++
	seq := t.seq
	t.hear(users)
	for _, user := range users {
		m := reportedChange{seq: seq, left: left || t.marks[user].left}
		put(&t.marks, user, m)
		if f := t.flights[user]; f != nil {
			f.dirty, f.untracked = true, f.untracked || left
		}
		if e := t.cached(user); e != nil {
			t.keep(e.with(t.account.UserID, m.apply(e.row)).askedAt(time.Time{}))
		}
		t.overtake(user, nil)
	}
	if len(users) > 0 {
		t.version.Add(1)
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, user := range users {
			if t.marks[user].seq == seq {
				drop(&t.marks, user)
			}
		}
	}
}

// apply returns the row with the mark in it.
func (m reportedChange) apply(row store.User) store.User {
	row.Outdated, row.Failures, row.RetryAt = true, 0, time.Time{}
	if m.left {
		row.Tracked = false
	}
	return row
}
