package rewrite

import (
	"context"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/jsonscan"
)

// Device opens events, see [exchange.Device].
type Device interface {
	KnownEncrypted(room id.RoomID) bool
	LoadRooms(ctx context.Context, rooms []id.RoomID) (heard int, err error)
	Open(ctx context.Context, in []e2ee.Incoming) ([]e2ee.Opened, error)
}

// Output is how a body is written.
type Output struct {
	Device Device
	// Redeliver and Hold are those of the events, see [e2ee.Incoming].
	Redeliver, Hold bool
	// Wait is how long the whole answer may wait for keys from the backup.
	Wait time.Duration
	// Added returns what is added at a place that a hook has marked, by the tag of
	// [Found.Extend] or by [Front] and [Back]: members or events with commas between them.
	// It may be nil when no hook marks any.
	Added func(tag int, room id.RoomID) ([]byte, error)
}

// Tags of the places in a list of events where others may be put.
const (
	Front = -1 - iota
	Back
)

// added returns what is added at a place.
func (w *writer) added(k *pendingMark, tag int) ([]byte, error) {
	if w.out.Added == nil {
		return nil, nil
	}
	data, err := w.out.Added(tag, k.room)
	if err != nil {
		return nil, fmt.Errorf("add to a body: %w", err)
	}
	return data, nil
}

// add adds something before the end of an object.
func (w *writer) add(k *pendingMark, tag int, comma bool) error {
	data, err := w.added(k, tag)
	if err != nil || len(data) == 0 {
		return err
	}
	return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Insert, Start: k.start, Before: comma, Data: data})
}

// doFront puts events in front of those of a list.
func (w *writer) doFront(k *pendingMark) error {
	w.anyKept, w.comma, w.front = false, false, k.has(flagTouched)
	events, err := w.added(k, Front)
	if err != nil || len(events) == 0 {
		return err
	}
	w.anyKept, w.comma = true, k.has(flagTouched)
	return w.edit.Apply(jsonscan.Edit{
		Op: jsonscan.Insert, Start: k.start, After: k.has(flagAfter) && !k.has(flagTouched), Data: events,
	})
}

// doBack puts events behind those of a list. Whether any event is kept is known only at the
// end of the list.
func (w *writer) doBack(k *pendingMark) error {
	w.front = false
	return w.add(k, Back, w.anyKept || k.has(flagBefore))
}
