package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Undecryptable is what a client is shown of an event that cannot be decrypted. In every
// case it gets the clear event when the key arrives.
type Undecryptable int

const (
	// UndecryptableHold shows nothing at first, because many keys arrive a moment after
	// their event. After that, or at once if the key will not come, it shows a placeholder.
	// Some clients answer every encrypted event that they see.
	UndecryptableHold Undecryptable = iota
	// UndecryptablePlaceholder shows a placeholder at once.
	UndecryptablePlaceholder
	// UndecryptableEvent shows the event as it came.
	UndecryptableEvent
)

const (
	// holdFor is how long an event is held for its key.
	holdFor = 5 * time.Minute
	// maxHeld bounds the held events of a device. They are never dropped, and anybody in a
	// room can send events that nobody can decrypt. Further ones get their placeholder at
	// once.
	maxHeld = 1000
)

// holding is what is known of held events. It is guarded by the Device.
type holding struct {
	known bool
	first time.Time // when the first hold ends; zero: none is held
}

// unreadable returns what a client is shown of an event that cannot be decrypted.
func (m *megolmState) unreadable(job *eventJob, v trustcache.Verdict) Opened {
	if m.eng.opts.Undecryptable == UndecryptableEvent {
		return job.asCame(v)
	}
	out := job.placeholder(v, unreadableText(v))
	out.Withheld = true
	return out
}

// unreadableText returns the text of that placeholder.
func unreadableText(v trustcache.Verdict) string {
	if v.Code == trustcache.CodeMissingRoomKey {
		return "Waiting for a message that cannot be read yet. It is shown when it can be."
	}
	return v.Message
}

// mayHold reports whether the key of an event may still come.
func (job *eventJob) mayHold() bool {
	waits := errors.Is(job.err, errNoKey) || errors.Is(job.err, errTooEarly) || errors.Is(job.err, errOurs)
	return job.hold && waits && job.code != trustcache.CodeWithheld
}

// hold decides which of the parked events are held; jobs[i] belongs to parked[i]. An event
// that comes again is not held longer, and one that was shown is not hidden again.
func (m *megolmState) hold(ctx context.Context, jobs []*eventJob, parked []store.PendingEvent) error {
	if m.eng.opts.Undecryptable != UndecryptableHold {
		return nil
	}
	var events []id.EventID
	for _, job := range jobs {
		if job.mayHold() {
			events = append(events, job.eventID)
		}
	}
	if len(events) == 0 {
		return nil
	}
	held, _, err := m.Env.Store.PendingHeld(ctx, m.acct.Row, m.RowID)
	if err != nil {
		return fmt.Errorf("count held events: %w", err)
	}
	known, err := m.Env.Store.PendingOf(ctx, m.acct.Row, m.RowID, events)
	if err != nil {
		return fmt.Errorf("look up held events: %w", err)
	}
	now := m.Env.Now()
	for i, job := range jobs {
		if !job.mayHold() {
			continue
		}
		switch old, ok := known[job.eventID]; {
		case ok && now.Before(old.HeldUntil):
			parked[i].HeldUntil, parked[i].ReceivedAt = old.HeldUntil, old.ReceivedAt
		case ok: // its hold is over, or the client has its placeholder
		case held < maxHeld:
			held++
			parked[i].HeldUntil = now.Add(holdFor)
		}
	}
	return nil
}

// updateHolding records when the holds of these events end.
func (m *megolmState) updateHolding(parked []store.PendingEvent) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	for i := range parked {
		until := parked[i].HeldUntil
		if !until.IsZero() && (m.holding.first.IsZero() || until.Before(m.holding.first)) {
			m.holding.first = until
		}
	}
}

// heldFirst returns when the first hold ends; zero when no event is held.
func (m *megolmState) heldFirst(ctx context.Context) (time.Time, error) {
	m.Mu.Lock()
	held := m.holding
	if !held.known { // later holds are recorded by updateHolding
		m.holding = holding{known: true}
	}
	m.Mu.Unlock()
	if held.known {
		return held.first, nil
	}
	_, first, err := m.Env.Store.PendingHeld(ctx, m.acct.Row, m.RowID)
	if err != nil {
		m.recountHeld()
		return time.Time{}, fmt.Errorf("look up held events: %w", err)
	}
	m.updateHolding([]store.PendingEvent{{HeldUntil: first}})
	m.Mu.Lock()
	defer m.Mu.Unlock()
	return m.holding.first, nil
}

// recountHeld makes the next heldFirst ask the store, because some holds ended.
func (m *megolmState) recountHeld() {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.holding = holding{}
}

// due returns the held events whose hold has ended.
func (m *megolmState) due(ctx context.Context) ([]store.PendingEvent, error) {
	first, err := m.heldFirst(ctx)
	now := m.Env.Now()
	if err != nil || first.IsZero() || now.Before(first) {
		return nil, err
	}
	rows, err := m.Env.Store.PendingDue(ctx, m.acct.Row, m.RowID, now, maxLate)
	if err != nil {
		return nil, fmt.Errorf("load held events: %w", err)
	}
	return rows, nil
}

// wakeWhenDue ends the client's waiting sync when the hold of an event ends.
func (s *ClientSync) wakeWhenDue(ctx context.Context) error {
	first, err := s.d.megolmState.heldFirst(ctx)
	if err != nil || first.IsZero() {
		return err
	}
	s.wake = time.AfterFunc(max(first.Sub(s.d.core.Env.Now()), 0), func() {
		s.d.core.Mu.Lock()
		defer s.d.core.Mu.Unlock()
		s.d.clientState.wakeWaiting()
	})
	return nil
}

// openDue shows the client the events whose hold has ended: the clear event if it can be
// read by now, else a placeholder, which a later sync replaces by the clear event. done are
// the events that this response carries already.
func (m *megolmState) openDue(ctx context.Context, rows, done []store.PendingEvent, next string, late map[id.RoomID][]json.RawMessage) error {
	rows = slices.DeleteFunc(rows, func(row store.PendingEvent) bool {
		return row.Ready || slices.ContainsFunc(done, func(p store.PendingEvent) bool { return p.EventID == row.EventID })
	})
	if len(rows) == 0 {
		return nil
	}
	in := make([]Incoming, len(rows))
	for i := range rows {
		in[i] = Incoming{RoomID: rows[i].RoomID, Event: rows[i].Event}
	}
	out, jobs, by := m.host.open(ctx, in)
	ch := &store.Changes{}
	for i := range rows {
		again := rows[i]
		m.showDue(&again, jobs[i], out[i], next, late)
		ch.Pending = append(ch.Pending, again)
	}
	m.recountHeld()
	return m.park(ctx, ch, by)
}

// showDue adds a held event, or its placeholder, to late. That counts once the client syncs
// from the response that carries it.
func (m *megolmState) showDue(row *store.PendingEvent, job *eventJob, shown Opened, next string, late map[id.RoomID][]json.RawMessage) {
	row.From, row.HeldUntil = "", m.Env.Now()
	waits := job != nil && (job.held != "" || errors.Is(job.err, errNoKey) || errors.Is(job.err, errTooEarly) || errors.Is(job.err, errOurs))
	if waits && !shown.Decrypted {
		row.Ready, row.DeliveredAt, row.From, row.PlacedAt = errors.Is(job.err, errOurs), "", job.held, next
	} else { // nothing follows
		row.Ready, row.DeliveredAt = true, next
	}
	if shown.Hidden {
		row.HeldUntil, row.PlacedAt = time.Time{}, ""
		return
	}
	late[row.RoomID] = append(late[row.RoomID], shown.Event)
}
