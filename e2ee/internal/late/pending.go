package late

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

const (
	// maxPending bounds the pending events of a device. The oldest are deleted after every
	// trimPendingAfter new ones, because anybody in a room can send events that nobody can
	// decrypt.
	maxPending       = 5000
	trimPendingAfter = 500
	// maxReady bounds the late events in one response.
	maxReady = 200
)

// Remember stores the events that may be delivered again, and hides those that are held.
func (l *Events) Remember(ctx context.Context, events []Event, by Basis) error {
	var parked []*Event
	var pending []store.PendingEvent
	for i := range events {
		ev := &events[i]
		if ev.Event == nil || !ev.Redeliver || ev.ID == "" || ev.Ref.SessionID == "" || ev.Decrypted || !ev.waits() {
			continue
		}
		pending = append(pending, store.PendingEvent{
			SessionRef: ev.Ref, EventID: ev.ID, From: ev.Unknown, Ready: errors.Is(ev.Err, roomkeys.ErrOurs),
			Event: withoutRelations(ev.Raw), ReceivedAt: l.Env.Now(),
		})
		parked = append(parked, ev)
	}
	parked, pending, err := l.choosePaged(ctx, parked, pending)
	if err != nil || len(pending) == 0 {
		return err
	}
	ch := &store.Changes{Pending: pending}
	if err := l.hold(ctx, parked, ch.Pending); err != nil {
		return err
	}
	held := ch.Pending
	if err := l.park(ctx, ch, by); err != nil {
		return err
	}
	l.updateHolding(held)
	for k := range held {
		if !held[k].HeldUntil.IsZero() {
			parked[k].Hidden = true
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

// park stores pending events. If their keys came, more became known of their senders, or the
// organisation's rules became others while they were judged, nothing would look at them again:
// such events are stored as ready.
func (l *Events) park(ctx context.Context, ch *store.Changes, by Basis) error {
	parked := ch.Pending
	if err := l.Save(ctx, ch); err != nil {
		return fmt.Errorf("store events that wait: %w", err)
	}
	if len(parked) == 0 {
		return nil
	}
	if err := l.trimPending(ctx, len(parked)); err != nil {
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
	if l.keysNow(len(again.ReadyPending) > 0) == by.Keys {
		again.ReadyPending = nil
	}
	slices.Sort(again.ReadyPendingFrom)
	again.ReadyPendingFrom = slices.Compact(again.ReadyPendingFrom)
	now, err := l.Account.Tracker.Cached(ctx, again.ReadyPendingFrom)
	if err != nil {
		return fmt.Errorf("look up senders: %w", err)
	}
	if by.Rules == l.Env.Rules.Now() {
		again.ReadyPendingFrom = slices.DeleteFunc(again.ReadyPendingFrom, func(user id.UserID) bool { return by.Users[user] == now[user] })
	}
	if len(again.ReadyPending)+len(again.ReadyPendingFrom) == 0 {
		return nil
	}
	if err := l.Save(ctx, again); err != nil {
		return fmt.Errorf("release events: %w", err)
	}
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.host.WakeWaiting()
	return nil
}

// keysNow returns how often room keys were stored, and has missing ones asked for.
func (l *Events) keysNow(missing bool) int {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	if missing {
		l.host.AskKeysLater()
	}
	return l.keys.StoredLocked()
}

// Ready returns the pending events that can be shown now.
func (l *Events) Ready(ctx context.Context) ([]store.PendingEvent, error) {
	rows, err := l.Env.Store.Pending(ctx, l.Account.Row, l.RowID, maxReady)
	if err != nil {
		return nil, fmt.Errorf("load late events: %w", err)
	}
	return rows, nil
}

// trimPending deletes the oldest pending events, once in a while.
func (l *Events) trimPending(ctx context.Context, added int) error {
	l.Mu.Lock()
	l.parked += added
	due := l.parked >= trimPendingAfter
	if due {
		l.parked = 0
	}
	l.Mu.Unlock()
	if !due {
		return nil
	}
	if _, err := l.Env.Store.TrimPending(ctx, l.Account.Row, l.RowID, maxPending); err != nil {
		return err
	}
	return nil
}

// OpenReady opens pending events that are ready.
func (l *Events) OpenReady(ctx context.Context, pending []store.PendingEvent, next string) (late map[id.RoomID][]json.RawMessage, err error) {
	late = make(map[id.RoomID][]json.RawMessage)
	if len(pending) == 0 {
		return late, nil
	}
	events, by := l.host.OpenAgain(ctx, pending)
	defer l.Recount()
	ch := &store.Changes{MarkDelivered: next}
	for i := range pending {
		again := pending[i]
		switch ev := &events[i]; {
		case ev.Decrypted:
			late[again.RoomID] = append(late[again.RoomID], ev.Shown)
			ch.MarkPending = append(ch.MarkPending, again.EventID)
		case ev.Event != nil && errors.Is(ev.Err, roomkeys.ErrOurs): // stays ready
		case ev.waits():
			// What arrived does not help: the event waits for more.
			if (ev.Unknown != "" || ev.Withheld) && !again.HeldUntil.IsZero() {
				l.showDue(&again, ev, next, late)
				ch.Pending = append(ch.Pending, again)
				break
			}
			again.Ready, again.DeliveredAt, again.From = false, "", ev.Unknown
			ch.Pending = append(ch.Pending, again)
		case !again.HeldUntil.IsZero(): // it can never be decrypted, and the client does not know of it
			l.showDue(&again, ev, next, late)
			ch.Pending = append(ch.Pending, again)
		default: // it can never be decrypted
			ch.DeletePending = append(ch.DeletePending, again.EventID)
		}
	}
	return late, l.park(ctx, ch, by)
}
