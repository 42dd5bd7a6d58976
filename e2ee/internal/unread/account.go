package unread

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/store"
)

const (
	// maxLogs and maxRules bound what is in memory, over all accounts.
	maxLogs  = 10_000
	maxRules = 2_000
)

// Shared is what is in memory for all accounts.
type Shared struct {
	logs  *lru.Cache[logKey, *log]
	rules *lru.Cache[uint64, *known] // by the tenure of the account
}

type logKey struct {
	tenure uint64 // of the account
	room   id.RoomID
}

// NewShared returns an empty memory.
func NewShared() (*Shared, error) {
	logs, err := lru.New[logKey, *log](maxLogs)
	if err != nil {
		return nil, fmt.Errorf("make the memory of unread messages: %w", err)
	}
	rules, err := lru.New[uint64, *known](maxRules)
	if err != nil {
		return nil, fmt.Errorf("make the memory of push rules: %w", err)
	}
	return &Shared{logs, rules}, nil
}

// Account are the unread messages of an account. All its devices share them, since they share
// receipts and push rules.
type Account struct {
	*core.Account
	shared *Shared

	mu    locks.Mutex
	dirty map[id.RoomID]*log // to be stored with the next step
	// splits says that the homeserver counts threads for themselves.
	splits bool
	missed missed
}

// NewAccount returns what is known of an account: nothing yet.
func NewAccount(a *core.Account, shared *Shared) Account {
	return Account{Account: a, shared: shared, mu: locks.Mutex{Place: a.Env.Order.At(locks.RankLeaf)}, dirty: make(map[id.RoomID]*log)}
}

// Take records what a sync says of encrypted rooms, before its events are opened, and which
// rooms the user has left.
func (a *Account) Take(ctx context.Context, u Update, left []id.RoomID) error {
	if u.Rules != nil {
		a.setRules(u.Rules)
	}
	rooms := make([]id.RoomID, 0, len(u.Rooms))
	for i := range u.Rooms {
		rooms = append(rooms, u.Rooms[i].RoomID)
	}
	logs, err := a.load(ctx, rooms)
	if err != nil {
		return err
	}
	now := a.Env.Now()
	settled := make(map[id.RoomID]*log)
	for i := range u.Rooms {
		r := &u.Rooms[i]
		l := logs[r.RoomID]
		slices.SortStableFunc(r.Receipts, newer)
		a.change(l, func() {
			l.take(r, now)
			if l.stored && len(r.Receipts)+len(r.Redacted) > 0 {
				settled[r.RoomID] = l
			}
		})
		if len(r.Threads) > 0 {
			a.mu.Lock()
			a.splits = true
			a.mu.Unlock()
		}
	}
	if err := a.forgetMissed(ctx, slices.Collect(maps.Keys(u.Redacted())), left); err != nil {
		return err
	}
	// What was read is told but once. If the process ended before the next step, it would be
	// unread again.
	return a.save(ctx, settled)
}

// change changes a log, which is stored with the next step.
func (a *Account) change(l *log, do func()) {
	l.mu.Lock()
	do()
	keep := l.stored || l.kept() != nil
	l.mu.Unlock()
	if keep {
		a.mu.Lock()
		a.dirty[l.room] = l
		a.mu.Unlock()
	}
}

// load returns the logs of rooms; those that are not in memory are read with one query.
func (a *Account) load(ctx context.Context, rooms []id.RoomID) (map[id.RoomID]*log, error) {
	logs := make(map[id.RoomID]*log, len(rooms))
	var missing []id.RoomID
	for _, room := range rooms {
		if l, ok := a.shared.logs.Get(logKey{a.Tenure, room}); ok {
			logs[room] = l
		} else {
			missing = append(missing, room)
		}
	}
	if len(missing) == 0 {
		return logs, nil
	}
	rows, err := a.Env.Store.Unread(ctx, a.Row, missing)
	if err != nil {
		return nil, fmt.Errorf("load unread messages: %w", err)
	}
	for _, room := range missing {
		l := &log{room: room, mu: locks.Mutex{Place: a.Env.Order.At(locks.RankLeaf)}}
		if raw, ok := rows[room]; ok {
			l.stored = true
			if json.Unmarshal(raw.Reveal(), &l.state) != nil { // begins anew
				l.state = state{}
			}
			l.gap = len(l.Entries) // others may have come since
		}
		if before, ok, _ := a.shared.logs.PeekOrAdd(logKey{a.Tenure, room}, l); ok {
			l = before
		}
		logs[room] = l
	}
	return logs, nil
}

// Opened records what the rules say of events, and stores where that differs from what the
// homeserver says. It asks the homeserver only for what the outcome depends on.
func (a *Account) Opened(ctx context.Context, ask Asker, events []Seen) error {
	if len(events) == 0 {
		return nil
	}
	logs, err := a.load(ctx, roomsOf(events))
	if err != nil {
		return err
	}
	by := a.rulesFor(ctx, ask)
	if by == nil {
		return nil // they count as the homeserver counts them
	}
	judge := judge{by: by, ask: ask, user: a.User, facts: make(map[id.RoomID]*facts)}
	changed := make(map[id.RoomID]*log)
	var more []Missed
	for i := range events {
		l := logs[events[i].RoomID]
		if id := events[i].ID; id != "" && !l.waitsFor(RefOf(id)) { // nothing is recorded of it
			continue
		}
		v, ok := judge.verdict(ctx, l, &events[i])
		if !ok {
			continue
		}
		silent := false
		a.change(l, func() { silent = l.decide(v.event, v.counted, v.clear) })
		changed[l.room] = l
		if silent {
			if m, ok := a.missedOf(l.room, events[i].Clear); ok {
				more = append(more, m)
			}
		}
	}
	if err := a.miss(ctx, more); err != nil {
		return err
	}
	return a.save(ctx, changed)
}

// save stores those of logs that must outlive the process.
func (a *Account) save(ctx context.Context, logs map[id.RoomID]*log) error {
	ch := &store.Changes{}
	done := a.collect(logs, ch)
	if len(ch.Unread) == 0 && ch.Notifications == nil {
		return nil
	}
	if err := a.Env.Store.Save(ctx, a.Row, 0, ch); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("store unread messages: %w", err)
	}
	done()
	return nil
}

// Flush stores what was to be stored with the next step.
func (a *Account) Flush(ctx context.Context) error {
	a.mu.Lock()
	logs := a.dirty
	a.dirty = make(map[id.RoomID]*log)
	a.mu.Unlock()
	return a.save(ctx, logs)
}

// Stage adds to a step of one of the account's devices what changed since the last.
func (a *Account) Stage(s *core.Step) {
	a.mu.Lock()
	logs, listed := a.dirty, a.missed.loaded && a.missed.version != a.missed.saved
	if len(logs) > 0 {
		a.dirty = make(map[id.RoomID]*log)
	}
	a.mu.Unlock()
	if len(logs) == 0 && !listed {
		return
	}
	done := a.collect(logs, s.Changes)
	s.After(done)
	// If the step fails they are stored with the next change of their room.
}

// collect adds the rows of logs, and the missed notifications, to what is stored. done is called once they are.
func (a *Account) collect(logs map[id.RoomID]*log, ch *store.Changes) (done func()) {
	versions := make(map[*log]uint64, len(logs))
	row, doneMissed := a.collectMissed()
	ch.Notifications = row
	for _, l := range logs {
		l.mu.Lock()
		kept := l.kept()
		if l.version != l.saved && (kept != nil || l.stored) {
			row := store.UnreadRoom{RoomID: l.room}
			if kept != nil {
				raw, err := json.Marshal(kept)
				if err != nil { // numbers and texts always marshal
					raw = nil
				}
				row.State = raw
			}
			ch.Unread = append(ch.Unread, row)
			versions[l] = l.version
		}
		l.mu.Unlock()
	}
	return func() {
		doneMissed()
		for l, version := range versions {
			l.mu.Lock()
			l.saved, l.stored = version, true
			again := l.version != version
			l.mu.Unlock()
			if again { // an older version may have taken the place of a newer one
				a.change(l, func() {})
			}
		}
	}
}

// Counts returns the numbers of a room in a response, by the roots of threads; those of the main timeline,
// and without split of everything, stand under the empty one. differs says that they are not the
// homeserver's. said is what the response says of the room; nil when that is nothing, and what
// an earlier one said counts. known is false when the homeserver never gave numbers.
func (a *Account) Counts(room id.RoomID, said *Room, split bool) (counts map[id.EventID]Counts, differs, known bool) {
	l, ok := a.shared.logs.Get(logKey{a.Tenure, room})
	if !ok {
		return nil, false, false
	}
	a.mu.Lock()
	split = split && a.splits
	a.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	base := l.base(said)
	if base == nil {
		base = l.Counts
	}
	numbers, known := l.counted(base, split)
	if !known {
		return nil, false, false
	}
	counts = make(map[id.EventID]Counts, len(numbers))
	for t, c := range numbers {
		root := id.EventID("")
		if t > 0 {
			root = l.Threads[t]
		}
		counts[root] = c
		differs = differs || base[t] != c
	}
	return counts, differs, true
}

// Asker is what is asked of the device in whose name the homeserver is asked.
type Asker interface {
	// PushRules returns the account's push rules, and the name in its profile.
	PushRules(ctx context.Context) (rules json.RawMessage, name string, err error)
	// JoinedMembers returns how many have joined a room.
	JoinedMembers(ctx context.Context, room id.RoomID) (int, error)
	// Power returns the contents of a room's m.room.power_levels, empty if it has none, and
	// of its m.room.create, with who sent that.
	Power(ctx context.Context, room id.RoomID) (levels, create json.RawMessage, creator id.UserID, err error)
}

// known are an account's rules, for clear events and for those that the homeserver has.
type known struct {
	clear, sealed *Rules
	name          string
	failed        time.Time // when they could not be read
}

// askAgain is how long rules that could not be read are not asked for again.
const askAgain = time.Minute

// rulesFor returns the rules, which are asked for the first time; nil when they are not known.
func (a *Account) rulesFor(ctx context.Context, ask Asker) *known {
	k, ok := a.shared.rules.Get(a.Tenure)
	if ok && (k.clear != nil || a.Env.Now().Sub(k.failed) < askAgain) {
		return usable(k)
	}
	raw, name, err := ask.PushRules(ctx)
	k = &known{name: name, failed: a.Env.Now()}
	if err == nil {
		err = k.read(raw, a.User)
	}
	if err != nil && ctx.Err() != nil {
		return nil // the client is gone: its next request asks again
	}
	if err != nil {
		a.Env.Log.Info().Err(err).Msg("The push rules could not be read; unread messages count as the homeserver counts them")
	}
	a.shared.rules.Add(a.Tenure, k)
	return usable(k)
}

func usable(k *known) *known {
	if k.clear == nil {
		return nil
	}
	return k
}

// read reads rules. The name stays.
func (k *known) read(raw json.RawMessage, user id.UserID) (err error) {
	var clear, sealed *Rules
	if clear, err = ForClear(raw, user); err != nil {
		return err
	}
	if sealed, err = Parse(raw); err != nil {
		return err
	}
	k.clear, k.sealed = clear, sealed
	return nil
}

// setRules takes rules that came with a sync. Before anything is known they are not needed.
func (a *Account) setRules(raw json.RawMessage) {
	before, ok := a.shared.rules.Get(a.Tenure)
	if !ok {
		return
	}
	k := &known{name: before.name}
	if k.read(raw, a.User) == nil {
		a.shared.rules.Add(a.Tenure, k)
	}
}
