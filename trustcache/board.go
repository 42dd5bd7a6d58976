package trustcache

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"
)

// Board is where the replicas of a cluster leave answers for each other, and tell each other
// how far they are. Nothing on it is believed for being there: see the package's documentation
// for what it may do. Its calls are short and fail silently.
type Board interface {
	// Newest returns what was left last under each name, nil where nothing was, with the number
	// of its round. A value must come from a replica of this cluster, which left it under this
	// name; it may be of any age.
	Newest(ctx context.Context, names []string) (values [][]byte, rounds []uint64)
	// Claim reports for which names this replica is the first to begin the round after.
	Claim(ctx context.Context, names []string, rounds []uint64) []bool
	// Leave begins a round for each name with a value.
	Leave(ctx context.Context, values map[string][]byte)
	// Say tells the other replicas something, by their [Answers.Heard].
	Say(ctx context.Context, message []byte)
}

const (
	// sayEvery is how often at least a replica tells the others how far it is.
	sayEvery = 5 * time.Second
	// sayPause is the shortest time between two messages.
	sayPause = 2 * time.Millisecond
	// answerWithin is how long a replica waits for what another has claimed.
	answerWithin = 2 * time.Second
	// maxReplicas bounds how many replicas are remembered.
	maxReplicas = 100
	// maxLeft is how large an answer may be that is left for others, in bytes.
	maxLeft = 256 << 10
)

// replicas is what a process knows of the other ones.
type replicas struct {
	self  string // this process, until it ends
	heard map[string]heardOf
	news  chan struct{}
}

// heardOf is how far another replica said to be, in its own moments, and when that was heard.
type heardOf struct{ far, at moment }

func newReplicas() replicas {
	return replicas{self: rand.Text(), news: make(chan struct{}, 1)}
}

// progress is what replicas tell each other.
type progress struct {
	Replica string `json:"replica"`
	Moment  moment `json:"moment"`
}

// Heard takes in what another replica said. A message that comes late, or twice, says less than
// was known.
func (a *Answers) Heard(message []byte) {
	var p progress
	if json.Unmarshal(message, &p) != nil || p.Replica == "" || p.Replica == a.replicas.self {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	of, known := a.replicas.heard[p.Replica]
	if !known {
		a.tell() // it may have begun just now
	}
	now := a.nowLocked()
	put(&a.replicas.heard, p.Replica, heardOf{max(of.far, p.Moment), now})
	if len(a.replicas.heard) > maxReplicas {
		maps.DeleteFunc(a.replicas.heard, func(_ string, of heardOf) bool { return of.at < a.oldest(now) })
	}
	if len(a.replicas.heard) > maxReplicas {
		a.replicas.heard = nil
	}
}

// tell has the other replicas told how far this one is.
func (a *Answers) tell() {
	if a.opts.Board == nil {
		return
	}
	select {
	case a.replicas.news <- struct{}{}:
	default:
	}
}

// Run tells the other replicas how far this one is, until ctx ends. Without a Board it returns
// at once.
func (a *Answers) Run(ctx context.Context) {
	if a.opts.Board == nil {
		return
	}
	every := time.NewTicker(sayEvery)
	defer every.Stop()
	for ctx.Err() == nil {
		said, err := json.Marshal(progress{a.replicas.self, a.now()})
		if err == nil {
			a.opts.Board.Say(ctx, said)
		}
		if !sleep(ctx, sayPause) {
			return
		}
		select {
		case <-a.replicas.news:
		case <-every.C:
		case <-ctx.Done():
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// others reports whether other replicas were heard of lately.
func (a *Answers) others() bool {
	if a.opts.Board == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	oldest := a.oldest(a.nowLocked())
	for _, of := range a.replicas.heard {
		if of.at >= oldest {
			return true
		}
	}
	return false
}

// leftAnswer is an answer on the board. Seen is how far each replica was known to be when the
// homeserver was about to be asked: for that replica it was asked later than that moment.
type leftAnswer struct {
	User        id.UserID              `json:"user"`
	Devices     map[id.DeviceID][]byte `json:"devices"` // byte for byte
	Master      []byte                 `json:"master,omitempty"`
	SelfSigning []byte                 `json:"self_signing,omitempty"`
	Seen        map[string]moment      `json:"seen"`
}

// leave leaves answers to a query for the other replicas.
func (a *Answers) leave(ctx context.Context, answers map[id.UserID]*answer, seen map[string]moment) {
	values := make(map[string][]byte, len(answers))
	for user, one := range answers {
		left := leftAnswer{User: user, Master: one.master, SelfSigning: one.selfSigning, Seen: seen, Devices: make(map[id.DeviceID][]byte, len(one.devices))}
		for device, raw := range one.devices {
			left.Devices[device] = raw
		}
		if one.size() > maxLeft {
			continue
		}
		if value, err := json.Marshal(left); err == nil {
			values[user.String()] = value
		}
	}
	if len(values) > 0 {
		a.opts.Board.Leave(ctx, values)
	}
}

// readLeft reads an answer from the board; nil if it is none about this user, or it is not
// known when it was asked for by the moments of this process.
func (a *Answers) readLeft(value []byte, user id.UserID) *answer {
	var left leftAnswer
	if len(value) == 0 || json.Unmarshal(value, &left) != nil || left.User != user || len(left.Devices) == 0 {
		return nil
	}
	asked := left.Seen[a.replicas.self]
	if asked <= 0 || asked > a.now() {
		return nil
	}
	out := &answer{user: user, devices: make(map[id.DeviceID]json.RawMessage, len(left.Devices)), master: left.Master, selfSigning: left.SelfSigning, asked: asked}
	for device, raw := range left.Devices {
		out.devices[device] = raw
	}
	return out
}

// onBoard takes the answers that other replicas have left, and reports about whom of all
// this replica is to ask, and whom another has claimed, with the rounds of those.
func (a *Answers) onBoard(ctx context.Context, q *sharedQuery, all []id.UserID) (ask []id.UserID, claimed map[id.UserID]uint64) {
	since := a.sinceOf(q)
	wanted := make(map[id.UserID]moment, len(all))
	for _, user := range all {
		if q.own[user] {
			ask = append(ask, user)
		} else {
			wanted[user] = since[user]
		}
	}
	left := a.look(ctx, q, wanted)
	if len(left) == 0 {
		return ask, nil
	}
	users := slices.Sorted(maps.Keys(left))
	rounds := make([]uint64, len(users))
	for i, user := range users {
		rounds[i] = left[user]
	}
	for i, first := range a.opts.Board.Claim(ctx, textOf(users), rounds) {
		if first {
			ask = append(ask, users[i])
		} else {
			put(&claimed, users[i], rounds[i])
		}
	}
	return ask, claimed
}

// awaitBoard waits for what other replicas have claimed, and returns about whom they have left
// nothing that will do.
func (a *Answers) awaitBoard(ctx context.Context, q *sharedQuery, claimed map[id.UserID]uint64) (ask []id.UserID) {
	within, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	since := a.sinceOf(q)
	for pause := 10 * time.Millisecond; len(claimed) > 0 && sleep(within, pause); pause = min(pause*3/2, 100*time.Millisecond) {
		wanted := make(map[id.UserID]moment, len(claimed))
		for user := range claimed {
			wanted[user] = since[user]
		}
		left := a.look(within, q, wanted)
		for user, round := range claimed {
			now, missing := left[user]
			if missing && now == round {
				continue
			}
			if delete(claimed, user); missing { // it was answered, too early for us
				ask = append(ask, user)
			}
		}
	}
	return slices.AppendSeq(ask, maps.Keys(claimed))
}

// look takes what is on the board and new enough, and returns the rounds of the others.
func (a *Answers) look(ctx context.Context, q *sharedQuery, since map[id.UserID]moment) map[id.UserID]uint64 {
	users := slices.Sorted(maps.Keys(since))
	if len(users) == 0 {
		return nil
	}
	values, rounds := a.opts.Board.Newest(ctx, textOf(users))
	oldest := a.oldest(a.now())
	left := make(map[id.UserID]uint64)
	for i, user := range users {
		if one := a.readLeft(values[i], user); one != nil && one.asked >= max(since[user], oldest) {
			put(&q.answers, user, one)
		} else {
			left[user] = rounds[i]
		}
	}
	return left
}

// sinceOf returns how new the answers to a query must be for all who wait for it now.
func (a *Answers) sinceOf(q *sharedQuery) map[id.UserID]moment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(q.since)
}

func textOf(users []id.UserID) []string {
	out := make([]string, len(users))
	for i, user := range users {
		out[i] = user.String()
	}
	return out
}
