package trustcache

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"
)

// heard is what an account was told of changes, as far as it decides which answers to others
// it may take.
type heard struct {
	// since is the moment from which on every change of somebody who is in a room with the
	// account was told, or will be: its devices have synced from there on without a gap. Zero
	// is never.
	since moment
	// changes are the moments at which changes were told later than that.
	changes map[id.UserID]moment
}

// maxHeard bounds the changes that are remembered of one account.
const maxHeard = 2000

// hear records that changes of users were told. The caller holds mu.
func (t *Tracker) hear(users []id.UserID) {
	if t.heard.since == 0 {
		return
	}
	now := t.opts.Answers.now()
	if len(t.heard.changes)+len(users) > maxHeard {
		t.heard = heard{since: now} // as if all had changed
		return
	}
	for _, user := range users {
		put(&t.heard.changes, user, now)
	}
	t.opts.Answers.tell()
}

// Synced records that the homeserver answered a sync of one of the account's devices, whose
// changes the caller passes on to Changed and Left before the device's position moves. first
// says that the device had no position: of what changed before, nobody was told.
func (t *Tracker) Synced(first bool) {
	if t.opts.Answers == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if first || t.heard.since == 0 {
		t.heard = heard{since: t.opts.Answers.now()}
		t.opts.Answers.tell()
	}
}

// answered is what came of a query: the keys, and when the homeserver was asked for them.
type answered struct {
	keys *QueryResult
	at   func(id.UserID) time.Time
}

// ask asks about users, or takes what was answered to other accounts. It holds no lock.
func (t *Tracker) ask(ctx context.Context, q KeyQuerier, batch []*flight, needs []need) (answered, error) {
	if t.opts.Answers == nil {
		asked := t.opts.Now()
		res, err := q.QueryKeys(ctx, usersOf(batch))
		return answered{res, func(id.UserID) time.Time { return asked }}, err
	}
	out, err := t.opts.Answers.ask(ctx, q, t.account, needs)
	if err != nil {
		return answered{}, err
	}
	if n := len(out.res.unasked); n > 0 && out.err != nil {
		t.opts.QueryFailed(n, out.err)
	}
	return answered{&out.res, func(user id.UserID) time.Time { return t.opts.Answers.at(out.at[user]) }}, nil
}

// needs returns how new an answer about each user must be, and whether another account's will
// do. It never will for the own user; for somebody who was verified, since a signature that
// the homeserver shows again shows to this account only; and for a client that hears of no
// changes.
func (t *Tracker) needs(ctx context.Context, batch []*flight) ([]need, error) {
	if t.opts.Answers == nil {
		return nil, nil
	}
	entries, err := t.load(ctx, append(usersOf(batch), t.account.UserID))
	if err != nil {
		return nil, err
	}
	own := entries[len(batch)].user
	alone := own.Knowledge == KnowledgeFresh && t.opts.Alone(ctx, own)
	out := make([]need, len(batch))
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.opts.Answers.now()
	for i, f := range batch {
		e := entries[i]
		n := need{user: f.user, since: now, own: !alone || f.passive || f.user == t.account.UserID || e.row.WasVerified}
		if !n.own {
			n.since = t.since(f, e, now)
		}
		out[i] = n
	}
	return out, nil
}

// since returns the moment after which an answer about a user must have been asked for: the
// last change that was told. Of somebody of whom nothing was told and who is in no room with
// the account nothing will be told either: only an answer from now on will do. The caller
// holds mu.
func (t *Tracker) since(f *flight, e *entry, now moment) moment {
	since, told := t.heard.changes[f.user]
	switch {
	case told:
	case t.heard.since > 0 && f.joined != nil && f.joined(f.user):
		since = t.heard.since
	default:
		return now
	}
	if !e.asked.IsZero() {
		since = max(since, t.opts.Answers.of(e.asked)+1)
	}
	return since
}
