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

// Pending events: the client was not shown them, or not in clear, because the key is
// missing or the sending device is not trusted. They wait in the store as they came, and
// are delivered again in a later sync once they can be shown.

const (
	// maxPending bounds the pending events of a device. The oldest are deleted after every
	// trimPendingAfter new ones, because anybody in a room can send events that nobody can
	// decrypt.
	maxPending       = 5000
	trimPendingAfter = 500
)

// remember stores the events that may be delivered again.
func (m *megolmState) remember(ctx context.Context, in []Incoming, jobs []*eventJob, out []Opened, by *judgement) error {
	ch := &store.Changes{}
	var of []int // the index of each one's event
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
			Event: withoutRelations(in[i].Event), ReceivedAt: m.Env.Now(),
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

// withoutRelations removes the events that a homeserver bundled with an event: when the
// event is delivered again they are older than what the client knows.
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

// park stores pending events. If their keys came, or more became known of their senders,
// while they were judged, nothing would look at them again: such events are stored as
// ready.
func (m *megolmState) park(ctx context.Context, ch *store.Changes, by *judgement) error {
	parked := ch.Pending
	if err := m.Save(ctx, ch); err != nil {
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
	now, err := m.acct.Tracker.Cached(ctx, slices.Compact(again.ReadyPendingFrom))
	if err != nil {
		return fmt.Errorf("look up senders: %w", err)
	}
	again.ReadyPendingFrom = slices.DeleteFunc(slices.Compact(again.ReadyPendingFrom), func(user id.UserID) bool {
		return by.users[user] == now[user]
	})
	if len(again.ReadyPending)+len(again.ReadyPendingFrom) == 0 {
		return nil
	}
	if err := m.Save(ctx, again); err != nil {
		return fmt.Errorf("release events: %w", err)
	}
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.host.wakeWaiting()
	return nil
}

// keysTaken returns how often room keys were stored.
func (m *megolmState) keysTaken() int {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	return m.keySeq
}

// trimPending deletes the oldest pending events, once in a while.
func (m *megolmState) trimPending(ctx context.Context, added int) error {
	m.Mu.Lock()
	m.parked += added
	due := m.parked >= trimPendingAfter
	if due {
		m.parked = 0
	}
	m.Mu.Unlock()
	if !due {
		return nil
	}
	if _, err := m.Env.Store.TrimPending(ctx, m.acct.Row, m.RowID, maxPending); err != nil {
		return err
	}
	return nil
}

// openLate opens pending events that are ready.
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
			// What arrived does not help: the event waits for more.
			if job.held != "" && !again.HeldUntil.IsZero() {
				m.showDue(&again, job, out[i], next, late)
				ch.Pending = append(ch.Pending, again)
				break
			}
			again.Ready, again.DeliveredAt, again.From = false, "", job.held
			ch.Pending = append(ch.Pending, again)
		case !again.HeldUntil.IsZero(): // it can never be decrypted, and the client does not know of it
			m.showDue(&again, job, out[i], next, late)
			ch.Pending = append(ch.Pending, again)
		default: // it can never be decrypted
			ch.DeletePending = append(ch.DeletePending, again.EventID)
		}
	}
	return late, m.park(ctx, ch, by)
}
