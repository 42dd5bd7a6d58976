package unread

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

// maxMissed bounds the missed notifications of an account; the oldest go first.
const maxMissed = 200

// Missed is an event that notifies, of which the homeserver notified nobody: its rules say
// nothing of ciphertext there. What stands in the event is not kept.
type Missed struct {
	RoomID id.RoomID  `json:"r"`
	Event  id.EventID `json:"e"`
	At     int64      `json:"t"` // when it was sent, or when it was seen if that was earlier, in milliseconds
	Read   bool       `json:"-"`
}

// Compare orders missed notifications, the newest first.
func (m *Missed) Compare(other *Missed) int {
	return cmp.Or(cmp.Compare(other.At, m.At), strings.Compare(string(other.Event), string(m.Event)))
}

// missed are an account's missed notifications. The account's mu guards them.
type missed struct {
	loaded bool
	all    []Missed // the newest first
	// version counts changes, saved is the version that is stored.
	version, saved uint64
}

// loadMissed reads what is stored, the first time.
func (a *Account) loadMissed(ctx context.Context) error {
	a.mu.Lock()
	loaded := a.missed.loaded
	a.mu.Unlock()
	if loaded {
		return nil
	}
	raw, err := a.Env.Store.Notifications(ctx, a.Row)
	if err != nil {
		return fmt.Errorf("load missed notifications: %w", err)
	}
	var all []Missed
	if raw != nil && json.Unmarshal(raw.Reveal(), &all) != nil { // begins anew
		all = nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.missed.loaded {
		a.missed.loaded, a.missed.all = true, all
	}
	return nil
}

// changeMissed applies a change to the list; it says whether it changed anything.
func (a *Account) changeMissed(ctx context.Context, do func(all []Missed) ([]Missed, bool)) error {
	if err := a.loadMissed(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if all, changed := do(slices.Clone(a.missed.all)); changed {
		a.missed.all = all
		a.missed.version++
	}
	return nil
}

// miss records notifications that the homeserver has not.
func (a *Account) miss(ctx context.Context, more []Missed) error {
	if len(more) == 0 {
		return nil
	}
	return a.changeMissed(ctx, func(all []Missed) ([]Missed, bool) {
		known := make(map[id.EventID]bool, len(all))
		for i := range all {
			known[all[i].Event] = true
		}
		before := len(all)
		for _, m := range more {
			if !known[m.Event] {
				known[m.Event], all = true, append(all, m)
			}
		}
		changed := len(all) > before
		slices.SortFunc(all, func(a, b Missed) int { return a.Compare(&b) })
		return all[:min(len(all), maxMissed)], changed
	})
}

// forgetMissed removes events, and what is of rooms.
func (a *Account) forgetMissed(ctx context.Context, events []id.EventID, rooms []id.RoomID) error {
	if len(events)+len(rooms) == 0 {
		return nil
	}
	gone, left := setOf(events), setOf(rooms)
	return a.changeMissed(ctx, func(all []Missed) ([]Missed, bool) {
		before := len(all)
		all = slices.DeleteFunc(all, func(m Missed) bool { return gone[m.Event] || left[m.RoomID] })
		return all, len(all) < before
	})
}

func setOf[T comparable](all []T) map[T]bool {
	set := make(map[T]bool, len(all))
	for _, one := range all {
		set[one] = true
	}
	return set
}

// collectMissed returns what is stored of the list; nil when that is what it was. done is
// called once it is.
func (a *Account) collectMissed() (row *secret.Bytes, done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	version := a.missed.version
	if !a.missed.loaded || version == a.missed.saved {
		return nil, func() {}
	}
	row = new(secret.Bytes)
	if len(a.missed.all) > 0 {
		raw, err := json.Marshal(a.missed.all)
		if err == nil { // numbers and texts always marshal
			*row = raw
		}
	}
	return row, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		// If an older version took the place of a newer one, that is stored again with the next
		// step.
		a.missed.saved = version
	}
}

// Missed returns the notifications that the homeserver has not, the newest first.
func (a *Account) Missed(ctx context.Context) ([]Missed, error) {
	if err := a.loadMissed(ctx); err != nil {
		return nil, err
	}
	a.mu.Lock()
	all := slices.Clone(a.missed.all)
	a.mu.Unlock()
	rooms := make([]id.RoomID, 0, len(all))
	for i := range all {
		rooms = append(rooms, all[i].RoomID)
	}
	slices.Sort(rooms)
	logs, err := a.load(ctx, slices.Compact(rooms))
	if err != nil {
		return nil, err
	}
	for i := range all {
		l := logs[all[i].RoomID]
		l.mu.Lock()
		at := l.find(RefOf(all[i].Event))
		all[i].Read = at < 0 || l.Entries[at].Read // what is not read stays in the log
		l.mu.Unlock()
	}
	return all, nil
}

// Listed forgets events that the homeserver lists after all.
func (a *Account) Listed(ctx context.Context, events []id.EventID) error {
	if err := a.forgetMissed(ctx, events, nil); err != nil {
		return err
	}
	return a.save(ctx, nil)
}

// ForgetMissed drops the list from memory: its row goes with the account's last device.
func (a *Account) ForgetMissed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.missed = missed{version: a.missed.version, saved: a.missed.version}
}

// missedOf returns the missed notification of an event; ok is false when it names none.
func (a *Account) missedOf(room id.RoomID, clear json.RawMessage) (m Missed, ok bool) {
	event, err := strictjson.Parse(clear)
	name := event.TextOrEmpty("event_id")
	if err != nil || name == "" || len(name) > wire.MaxIDLength || len(room) > wire.MaxIDLength {
		return m, false
	}
	at, err := strconv.ParseFloat(string(event.Get("origin_server_ts")), 64)
	if err != nil {
		at = 0
	}
	at = math.Max(0, math.Min(at, float64(a.Env.Now().UnixMilli())))
	return Missed{RoomID: room, Event: id.EventID(name), At: int64(at)}, true
}
