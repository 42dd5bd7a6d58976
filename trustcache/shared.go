package trustcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// Accounts of one homeserver ask about the same users. What it answers about somebody else is
// the same for all of them, but for signatures that only their makers are shown; so an
// account may take what another has asked for, as [need] says, and judges it like an answer
// of its own.

// AnswersOptions configures Answers. Zero values get defaults.
type AnswersOptions struct {
	Now func() time.Time
	// Gather is how long a query waits for other accounts that need the same users, once a
	// second account has asked; 20 ms.
	Gather time.Duration
	// MaxAge is how old an answer may be that another account takes; 1 min. It bounds what a
	// homeserver's failure to tell of a change may do.
	MaxAge time.Duration
	// Board has the answers to other replicas; nil for none.
	Board Board
	// MaxBytes bounds the answers in memory; 32 MB.
	MaxBytes int
}

// Answers keeps for a while what a homeserver answered about users, for all trackers of a
// process that ask the same homeserver. It is safe for concurrent use.
type Answers struct {
	opts  AnswersOptions
	start time.Time

	mu      sync.Mutex // held for moments
	last    moment
	first   int64 // the account that asked first
	several bool  // others did too
	queries map[id.UserID]*sharedQuery
	kept    keptAnswers

	replicas replicas
}

// moment is a time of this process, strictly increasing: no two things happen at the same, and
// a clock that is set has no part in it. Zero is before everything.
type moment int64

// NewAnswers makes an empty memory of answers.
func NewAnswers(opts AnswersOptions) *Answers {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Gather == 0 {
		opts.Gather = 20 * time.Millisecond
	}
	if opts.MaxAge == 0 {
		opts.MaxAge = time.Minute
	}
	if opts.MaxBytes == 0 {
		opts.MaxBytes = 32 << 20
	}
	return &Answers{opts: opts, start: opts.Now(), replicas: newReplicas()}
}

func (a *Answers) now() moment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.nowLocked()
}

func (a *Answers) nowLocked() moment {
	a.last = max(a.last+1, a.of(a.opts.Now()))
	return a.last
}

// at and of convert a moment to a time and back.
func (a *Answers) at(m moment) time.Time    { return a.start.Add(time.Duration(m)) }
func (a *Answers) of(at time.Time) moment   { return moment(at.Sub(a.start)) }
func (a *Answers) oldest(now moment) moment { return now - moment(a.opts.MaxAge) }

// need is a user about whom an account needs an answer.
type need struct {
	user id.UserID
	// since is the moment after which the homeserver must have been asked: it has told the
	// account of every change before, and will tell it of every change after.
	since moment
	// own says that only an answer to this account will do.
	own bool
}

// sharedQuery is a query of one account for which others may wait.
type sharedQuery struct {
	users []id.UserID
	self  id.UserID          // the asker's own user, of whom others take nothing
	own   map[id.UserID]bool // about whom only this query's own answer will do
	done  chan struct{}

	// began is when the homeserver was asked first, zero while the query still gathers, and
	// since how new the answers must be that will do for others. Guarded by the mu of Answers.
	began moment
	since map[id.UserID]moment

	// What follows is set before done is closed.

	asked   []asked
	err     error
	answers map[id.UserID]*answer // what others may take
	failed  map[id.UserID]bool    // whose servers could not be reached
}

// asked is a request to the homeserver.
type asked struct {
	users []id.UserID
	res   *QueryResult
	at    moment
}

// ask answers an account from what is known, from the queries of others that are under way,
// and from a query of its own about the rest. A user of whom there is no answer is not
// covered by the reply. The error is ErrAsker, or that there is no answer at all.
func (a *Answers) ask(ctx context.Context, q KeyQuerier, account *store.Account, needs []need) (*reply, error) {
	all, out := len(needs), newReply(len(needs))
	for len(needs) > 0 {
		p := a.plan(out, account, needs)
		if p.mine != nil {
			a.run(ctx, q, p.mine, p.gather)
			if errors.Is(p.mine.err, ErrAsker) {
				return nil, p.mine.err
			}
			out.takeOwn(p.mine)
		}
		needs = needs[:0:0]
		for _, j := range p.joined {
			again, err := a.await(ctx, out, j)
			if err != nil {
				out.fail(err, j.need.user)
			} else if again != nil {
				needs = append(needs, *again)
			}
		}
	}
	if len(out.res.unasked) == all && out.err != nil {
		return nil, out.err
	}
	return out, nil
}

// plan is what becomes of a question.
type plan struct {
	mine   *sharedQuery // to be run
	gather bool
	joined []joined
}

type joined struct {
	need  need
	query *sharedQuery
}

// plan takes what is kept, joins the queries of others, and begins one for the rest.
func (a *Answers) plan(out *reply, account *store.Account, needs []need) plan {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.first == 0 {
		a.first = account.ID
	}
	a.several = a.several || a.first != account.ID
	oldest := a.oldest(a.nowLocked())
	var p plan
	mine := &sharedQuery{self: account.UserID, done: make(chan struct{})}
	for _, n := range needs {
		if !n.own {
			if k := a.kept.get(n.user); k != nil && k.asked >= max(n.since, oldest) {
				out.take(k)
				continue
			}
			if j := a.queries[n.user]; j != nil && (j.began == 0 || j.began >= n.since) {
				p.joined = append(p.joined, joined{n, j})
				j.waitedFor(n)
				continue
			}
		}
		p.gather = p.gather || a.several && !n.own
		mine.users = append(mine.users, n.user)
		if n.own {
			put(&mine.own, n.user, true)
		}
		mine.waitedFor(n)
	}
	if len(mine.users) == 0 {
		return p
	}
	p.mine = mine
	for _, user := range mine.users {
		if user != mine.self {
			put(&a.queries, user, mine)
		}
	}
	return p
}

// waitedFor records how new the answer about a user must be. The caller holds the mu of Answers.
func (q *sharedQuery) waitedFor(n need) {
	if !q.own[n.user] {
		put(&q.since, n.user, max(q.since[n.user], n.since))
	}
}

// run makes a query and ends it, whatever the result.
func (a *Answers) run(ctx context.Context, q KeyQuerier, mine *sharedQuery, gather bool) {
	defer a.end(mine)
	a.tell()
	if mine.err = a.gather(ctx, gather); mine.err != nil {
		return
	}
	ask, claimed := a.unanswered(mine), map[id.UserID]uint64(nil)
	several := a.others()
	if several {
		ask, claimed = a.onBoard(ctx, mine, ask)
	}
	if a.query(ctx, q, mine, ask, several); len(claimed) > 0 {
		a.query(ctx, q, mine, a.awaitBoard(ctx, mine, claimed), several)
	}
	a.keep(mine.answers)
}

// unanswered takes what others were answered while a query gathered, and returns the rest.
func (a *Answers) unanswered(q *sharedQuery) (ask []id.UserID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	oldest := a.oldest(a.nowLocked())
	for _, user := range q.users {
		if k := a.kept.get(user); !q.own[user] && k != nil && k.asked >= max(q.since[user], oldest) {
			put(&q.answers, user, k)
		} else {
			ask = append(ask, user)
		}
	}
	return ask
}

// query asks the homeserver about users, unless that failed before.
func (a *Answers) query(ctx context.Context, q KeyQuerier, mine *sharedQuery, users []id.UserID, several bool) {
	if mine.err != nil || len(users) == 0 {
		return
	}
	began, seen := a.begin(mine)
	res, err := q.QueryKeys(ctx, users)
	if err == nil && res == nil {
		err = errNoAnswer
	}
	if err != nil {
		mine.err = err
		return
	}
	mine.asked = append(mine.asked, asked{users, res, began})
	answers := make(map[id.UserID]*answer, len(users))
	for _, user := range users {
		if user == mine.self {
			continue
		}
		if res.failed(user) {
			put(&mine.failed, user, true)
		} else if one := shareable(res, user, began); one != nil {
			answers[user] = one
			put(&mine.answers, user, one)
		}
	}
	if several {
		a.leave(ctx, answers, seen)
	}
}

var errNoAnswer = errors.New("there is no answer")

// gather waits for others who need the same users.
func (a *Answers) gather(ctx context.Context, wait bool) error {
	if !wait {
		return nil
	}
	if !sleep(ctx, a.opts.Gather) {
		return fmt.Errorf("wait to query devices: %w", context.Cause(ctx))
	}
	return nil
}

// begin returns the moment at which the homeserver is about to be asked, and how far the other
// replicas were before.
func (a *Answers) begin(q *sharedQuery) (began moment, seen map[string]moment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	began = a.nowLocked()
	if q.began == 0 {
		q.began = began
	}
	seen = map[string]moment{a.replicas.self: began}
	for replica, of := range a.replicas.heard {
		seen[replica] = of.far
	}
	return began, seen
}

func (a *Answers) end(q *sharedQuery) {
	a.mu.Lock()
	for _, user := range q.users {
		if a.queries[user] == q {
			drop(&a.queries, user)
		}
	}
	a.mu.Unlock()
	close(q.done)
}

func (a *Answers) keep(answers map[id.UserID]*answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.nowLocked()
	for _, one := range answers {
		a.kept.add(one, now, a.oldest(now), a.opts.MaxBytes)
	}
}

// await waits for a query of another account. It returns the need again if that says nothing
// to this one: the other's session has ended, or it was refused.
func (a *Answers) await(ctx context.Context, out *reply, j joined) (again *need, err error) {
	select {
	case <-j.query.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a query of another account: %w", context.Cause(ctx))
	}
	n := j.need
	one := j.query.answers[n.user]
	switch {
	case one != nil && one.asked >= n.since:
		out.take(one)
		return nil, nil
	case j.query.failed[n.user] && j.query.began >= n.since:
		out.res.unasked[n.user] = true
		return nil, nil
	case errors.Is(j.query.err, ErrAsker):
		return &n, nil // the next who asks is another
	default:
		n.own = true // what another was refused, this one may be told
		return &n, nil
	}
}
