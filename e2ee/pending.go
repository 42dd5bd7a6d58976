package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// Events that the client was not shown, or not in clear, and that may be later: those
// whose key is missing, and those that were held back because of the device that sent
// them. They wait in the store, as they came, and are delivered again in a later sync.

const (
	// maxPending bounds the events of a device that wait, and trimPendingAfter how many are
	// added before the oldest are forgotten: anybody in a room can send what nobody can read.
	maxPending       = 5000
	trimPendingAfter = 500
)

// remember keeps what may be delivered again.
func (m *megolmState) remember(ctx context.Context, in []Incoming, jobs []*eventJob, out []Opened, by *judgement) error {
	ch := &store.Changes{}
	var of []int // which event each is
	var parked []*eventJob
	for i, job := range jobs {
		if job == nil || !job.redeliver || job.eventID == "" || job.ref.SessionID == "" || out[i].Decrypted {
			continue
		}
		ours := errors.Is(job.err, errOurs)
		if job.held == "" && !ours && !errors.Is(job.err, errNoKey) && !errors.Is(job.err, errTooEarly) {
			continue
		}
		ch.Pending = append(ch.Pending, store.PendingEvent{
			SessionRef: job.ref, EventID: job.eventID, From: job.held, Ready: ours,
			Event: withoutRelations(in[i].Event), ReceivedAt: m.eng.now(),
		})
		of, parked = append(of, i), append(parked, job)
	}
	if len(ch.Pending) == 0 {
		return nil
	}
	if err := m.hold(ctx, parked, ch.Pending); err != nil {
		return err
	}
	held := ch.Pending
	if err := m.park(ctx, ch, by); err != nil {
		return err
	}
	m.updateHolding(held)
	for k := range held {
		if !held[k].HeldUntil.IsZero() {
			out[of[k]].Hidden = true
		}
	}
	return nil
}

// withoutRelations drops the events that a homeserver bundled with an event: they are
// older than what the client gets when the event is delivered again.
func withoutRelations(raw json.RawMessage) json.RawMessage {
	event, err := strictjson.Parse(raw)
	if err != nil {
		return raw
	}
	unsigned, err := strictjson.Parse(event.Get("unsigned"))
	if err != nil || unsigned.Get("m.relations") == nil {
		return raw
	}
	return event.Set("unsigned", unsigned.Without("m.relations").Encode()).Encode()
}

// park stores events that wait. While they were judged their keys may have come, or more
// may have become known of their senders, and nobody would look at them again for that:
// then they are ready at once.
func (m *megolmState) park(ctx context.Context, ch *store.Changes, by *judgement) error {
	parked := ch.Pending
	if err := m.save(ctx, ch); err != nil {
		return fmt.Errorf("store events that wait: %w", err)
	}
	if len(parked) == 0 {
		return nil
	}
	if err := m.trimPending(ctx, len(parked)); err != nil {
		return err
	}
	again := &store.Changes{}
	for i := range parked {
		if parked[i].From != "" {
			again.ReadyPendingFrom = append(again.ReadyPendingFrom, parked[i].From)
		} else if !parked[i].Ready {
			again.ReadyPending = append(again.ReadyPending, parked[i].SessionRef)
		}
	}
	if m.host.missedKeys(len(again.ReadyPending) > 0) == by.keys {
		again.ReadyPending = nil
	}
	slices.Sort(again.ReadyPendingFrom)
	now, err := m.acct.tracker.Cached(ctx, slices.Compact(again.ReadyPendingFrom))
	if err != nil {
		return fmt.Errorf("look up senders: %w", err)
	}
	again.ReadyPendingFrom = slices.DeleteFunc(slices.Compact(again.ReadyPendingFrom), func(user id.UserID) bool {
		return by.users[user] == now[user]
	})
	if len(again.ReadyPending)+len(again.ReadyPendingFrom) == 0 {
		return nil
	}
	if err := m.save(ctx, again); err != nil {
		return fmt.Errorf("release events: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.host.wakeWaiting()
	return nil
}

// keysTaken counts how often room keys were stored.
func (m *megolmState) keysTaken() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keySeq
}

// trimPending forgets the oldest events that wait, once in a while.
func (m *megolmState) trimPending(ctx context.Context, added int) error {
	m.mu.Lock()
	m.parked += added
	due := m.parked >= trimPendingAfter
	if due {
		m.parked = 0
	}
	m.mu.Unlock()
	if !due {
		return nil
	}
	if _, err := m.eng.store.TrimPending(ctx, m.acct.row, m.rowID, maxPending); err != nil {
		return err
	}
	return nil
}

// openLate opens events that are ready to be delivered again.
func (m *megolmState) openLate(ctx context.Context, pending []store.PendingEvent, next string) (late map[id.RoomID][]json.RawMessage, err error) {
	late = make(map[id.RoomID][]json.RawMessage)
	if len(pending) == 0 {
		return late, nil
	}
	in := make([]Incoming, len(pending))
	for i, p := range pending {
		in[i] = Incoming{RoomID: p.RoomID, Event: p.Event}
	}
	out, jobs, by := m.host.open(ctx, in)
	defer m.recountHeld()
	ch := &store.Changes{MarkDelivered: next}
	for i := range pending {
		again := pending[i]
		switch job := jobs[i]; {
		case out[i].Decrypted:
			late[again.RoomID] = append(late[again.RoomID], out[i].Event)
			ch.MarkPending = append(ch.MarkPending, again.EventID)
		case job != nil && errors.Is(job.err, errOurs): // stays ready
		case job != nil && (job.held != "" || errors.Is(job.err, errNoKey) || errors.Is(job.err, errTooEarly)):
			// What came does not help: it waits for more.
			if job.held != "" && !again.HeldUntil.IsZero() {
				m.showDue(&again, job, out[i], next, late)
				ch.Pending = append(ch.Pending, again)
				break
			}
			again.Ready, again.DeliveredAt, again.From = false, "", job.held
			ch.Pending = append(ch.Pending, again)
		case !again.HeldUntil.IsZero(): // nothing will ever make it readable, and the client does not know of it
			m.showDue(&again, job, out[i], next, late)
			ch.Pending = append(ch.Pending, again)
		default: // nothing will ever make it readable
			ch.DeletePending = append(ch.DeletePending, again.EventID)
		}
	}
	return late, m.park(ctx, ch, by)
}
