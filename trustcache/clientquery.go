package trustcache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/store"
)

// A client with keys of its own asks for devices by itself. Its answers pass here and are
// learned from, so that pins and warnings are those of every account. But such a client's
// syncs are not read: nobody hears of changes, and nothing that is learned this way makes a
// user fresh. Who decides for such a client decides by what was asked lately, see Within.

// ErrNotAnswered means that the homeserver could not be asked about users.
var ErrNotAnswered = errors.New("the homeserver did not answer a question about devices")

// Within returns users as the homeserver answered at most age ago, and asks about the others
// first. It tracks nobody. Users whose own server cannot be reached are returned as they were
// known. Errors are those of [Tracker.Lookup] and ErrNotAnswered.
func (t *Tracker) Within(ctx context.Context, q KeyQuerier, users []id.UserID, age time.Duration) (map[id.UserID]*User, error) {
	out := make(map[id.UserID]*User, len(users))
	need := slices.Compact(slices.Sorted(slices.Values(users)))
	for round := 0; len(need) > 0; round++ {
		entries, err := t.load(ctx, need)
		if err != nil {
			return nil, err
		}
		since := t.opts.Now().Add(-age)
		var ask []*entry
		for _, e := range entries {
			out[e.row.UserID] = e.user
			switch {
			case e.asked.After(since) || !validUserID(e.row.UserID):
			case round > 0 && e.row.Failures > 0:
				return nil, ErrNotAnswered
			case round < maxRounds:
				ask = append(ask, e)
			}
		}
		if err := t.query(ctx, q, ask, flight{passive: true}); err != nil {
			return nil, err
		}
		need = need[:0]
		for _, e := range ask {
			need = append(need, e.row.UserID)
		}
	}
	return out, nil
}

// passiveRow returns the row of a user after an answer to somebody who hears of no changes: it
// does not become fresh by it, and does not cease to be.
func passiveRow(row store.User, up *update) store.User {
	if !row.Tracked && (len(up.devices) > 0 || len(up.identity.MasterRaw) > 0) {
		row.Outdated = true
	}
	return row
}

// workedOut is an answer as it was worked out, without a lock, from what was known of its
// users then.
type workedOut struct {
	t       *Tracker
	res     *QueryResult
	before  map[id.UserID]*entry
	updates map[id.UserID]update
}

// workOut works out what an answer says of users.
func (t *Tracker) workOut(ctx context.Context, users []id.UserID, res *QueryResult) (*workedOut, error) {
	entries, err := t.load(ctx, users)
	if err != nil {
		return nil, err
	}
	w := &workedOut{t, res, make(map[id.UserID]*entry, len(users)), make(map[id.UserID]update, len(users))}
	entries = slices.DeleteFunc(entries, func(e *entry) bool { return res.failed(e.row.UserID) })
	retired := make([]map[id.Ed25519]bool, len(entries))
	for i, e := range entries {
		if retired[i], err = t.retired(ctx, e.user, res); err != nil {
			return nil, err
		}
	}
	updates := make([]update, len(entries))
	parallel.Each(len(entries), func(i int) {
		updates[i] = digestAnswer(entries[i].user, res, retired[i], t.opts.MaxDevices)
	})
	for i, e := range entries {
		w.before[e.row.UserID], w.updates[e.row.UserID] = e, updates[i]
	}
	return w, nil
}

// of returns what the answer changes of a user who is known as e now: worked out again if
// something else has changed the user meanwhile. It is false for a user whom the answer does
// not cover.
func (w *workedOut) of(ctx context.Context, e *entry) (update, bool, error) {
	up, ok := w.updates[e.row.UserID]
	if !ok || w.before[e.row.UserID].user == e.user {
		return up, ok, nil
	}
	retired, err := w.t.retired(ctx, e.user, w.res)
	if err != nil {
		return update{}, false, err
	}
	return digestAnswer(e.user, w.res, retired, w.t.opts.MaxDevices), true, nil
}

// ClientQuery is a /keys/query of a client that is under way. End must be called.
type ClientQuery struct {
	t      *Tracker
	asked  time.Time
	narrow bool
	// overtaken are users of whom something else became known since. Guarded by the
	// Tracker's mu.
	overtaken map[id.UserID]bool
}

// BeginClientQuery is called before a client's query goes to the homeserver. With narrow the view
// of the answer lists all devices that are left.
func (t *Tracker) BeginClientQuery(narrow bool) *ClientQuery {
	q := &ClientQuery{t: t, asked: t.opts.Now(), narrow: narrow, overtaken: make(map[id.UserID]bool)}
	t.mu.Lock()
	defer t.mu.Unlock()
	put(&t.clients, q, struct{}{})
	return q
}

// End is called when the answer has been dealt with, or there is none.
func (q *ClientQuery) End() {
	q.t.mu.Lock()
	defer q.t.mu.Unlock()
	drop(&q.t.clients, q)
}

// overtake records that something became known of a user, for the queries of clients that are
// under way: their answers may be older. The caller holds mu.
func (t *Tracker) overtake(user id.UserID, by *ClientQuery) {
	for q := range t.clients {
		if q != by {
			q.overtaken[user] = true
		}
	}
}

// Answered decides about the devices in the answer, and learns from it. whole reports whether
// all devices of a user were asked for: of the others nothing is learned.
func (q *ClientQuery) Answered(ctx context.Context, res *QueryResult, whole func(id.UserID) bool, mode Mode) (NativeView, error) {
	t := q.t
	var users []id.UserID
	for user := range res.DeviceKeys {
		if validUserID(user) {
			users = append(users, user)
		}
	}
	slices.Sort(users)
	slices.SortStableFunc(users, func(a, b id.UserID) int { return t.rank(a) - t.rank(b) })
	worked, err := t.workOut(ctx, users, res)
	if err != nil {
		return NativeView{}, fmt.Errorf("judge an answer about devices: %w", err)
	}
	view := worked.view(whole, mode, q.narrow)
	learn := slices.DeleteFunc(users, func(user id.UserID) bool {
		_, covered := worked.updates[user]
		return !covered || !whole(user)
	})
	if len(learn) == 0 {
		return view, nil
	}
	return view, t.change(ctx, learn, func(w *rowsTx) error {
		w.by = q
		overtaken := q.overtakenNow()
		for _, user := range learn {
			e := w.get(user)
			if overtaken[user] { // which of both is newer, nobody knows
				w.touch(e.askedAt(time.Time{}))
				continue
			}
			up, _, err := worked.of(ctx, e)
			if err != nil {
				return err
			}
			up.asked, up.passive = q.asked, true
			row := passiveRow(e.row, &up)
			row.Failures, row.RetryAt = 0, time.Time{}
			if err := w.applyUpdate(ctx, e, row, up); err != nil {
				return err
			}
		}
		return nil
	})
}

func (q *ClientQuery) overtakenNow() map[id.UserID]bool {
	q.t.mu.Lock()
	defer q.t.mu.Unlock()
	return maps.Clone(q.overtaken)
}

// view decides about all devices in the answer.
func (w *workedOut) view(whole func(id.UserID) bool, mode Mode, narrow bool) NativeView {
	v := NativeView{narrow: narrow}
	for user, listed := range w.res.DeviceKeys {
		e, covered := w.before[user]
		if !covered { // an ID that nobody can have, or a user of whom there is nothing
			for device := range listed {
				v.add(user, device, nil, nil, Native(nil, nil, mode))
			}
			continue
		}
		up := w.updates[user]
		v.look(w.known(e, &up, whole(user)), &up, w.res, mode)
	}
	return v
}

// known returns what is known of a user with the answer. Where not all devices were asked for,
// those that are known otherwise count too: they may have the same keys.
func (w *workedOut) known(e *entry, up *update, whole bool) *User {
	devices := slices.Clone(up.devices)
	listed := w.res.DeviceKeys[e.row.UserID]
	e.user.giveExceptions(devices)
	for i := range e.user.Devices {
		if _, there := listed[e.user.Devices[i].DeviceID]; !whole && !there {
			devices = append(devices, e.user.Devices[i])
		}
	}
	return newEntry(w.t.account.UserID, e.row, up.identity, devices, e.user.Gone...).user
}
