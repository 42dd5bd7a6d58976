package unread

import (
	"context"
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
)

// maxAsks is how many questions one batch asks the homeserver: anybody can send what makes it
// ask. What is not asked does not hold.
const maxAsks = 16

// judge applies the rules to a batch of events. What it asks of a room it asks once.
type judge struct {
	asked int
	by    *known
	ask   Asker
	user  id.UserID
	facts map[id.RoomID]*facts

	sealed, clear event // the ones that are judged
}

// verdict is what the rules say of one event.
type verdict struct {
	event   Ref
	counted Outcome
	clear   *Outcome
}

// verdict applies the rules to an event as it is, and as it came; ok is false when it cannot
// be read.
func (j *judge) verdict(ctx context.Context, l *log, s *Seen) (v verdict, ok bool) {
	raw := s.Raw
	if raw == nil {
		raw = sealedLike(s.Clear)
	}
	sealed := &j.sealed
	if err := sealed.read(s.RoomID, raw); err != nil {
		return v, false
	}
	name := sealed.text(keyEventID)
	v.event = RefOf(id.EventID(name))
	f := j.factsOf(l)
	v.counted = j.outcome(ctx, j.by.sealed, sealed, f, s.RoomID).result()
	if s.Clear == nil {
		return v, name != ""
	}
	if err := j.clear.read(s.RoomID, s.Clear); err != nil {
		return v, false
	}
	outcome := j.outcome(ctx, j.by.clear, &j.clear, f, s.RoomID).result()
	v.clear = &outcome
	return v, name != ""
}

// sealedLike returns what the homeserver saw of an event of which only the clear form is left.
func sealedLike(clear json.RawMessage) json.RawMessage {
	event, err := strictjson.Parse(clear)
	if err != nil {
		return nil
	}
	content := event.Object("content").Only("m.relates_to")
	return event.Only("event_id", "sender", "origin_server_ts").
		Set("type", strictjson.Quote("m.room.encrypted")).Set("content", content.Encode()).Encode()
}

// factsOf returns what is known of a room.
func (j *judge) factsOf(l *log) *facts {
	f := j.facts[l.room]
	if f == nil {
		l.mu.Lock()
		f = &facts{user: j.user, name: l.Name, members: l.Members}
		l.mu.Unlock()
		if f.name == "" {
			f.name = j.by.name
		}
		if f.members == 0 {
			f.members = -1
		}
		j.facts[l.room] = f
	}
	return f
}

func (j *judge) mayAsk() bool {
	j.asked++
	return j.asked <= maxAsks
}

// outcome applies rules, and asks for what they need. What cannot be found out does not hold.
func (j *judge) outcome(ctx context.Context, rules *Rules, e *event, f *facts, room id.RoomID) *rule {
	found, lacks := rules.apply(e, *f)
	if lacks == 0 {
		return found
	}
	if lacks&needsPower != 0 { // once that is known, the members may not matter
		f.power = &power{}
		if j.mayAsk() {
			if levels, create, creator, err := j.ask.Power(ctx, room); err == nil {
				f.power = newPower(levels, create, creator)
			}
		}
	} else {
		f.members = 0
		if j.mayAsk() {
			if n, err := j.ask.JoinedMembers(ctx, room); err == nil {
				f.members = n
			}
		}
	}
	return j.outcome(ctx, rules, e, f, room)
}

// Actions returns what the rules say that is done about clear events, one for each.
func (a *Account) Actions(ctx context.Context, ask Asker, events []Seen) ([]Action, error) {
	by := a.rulesFor(ctx, ask)
	if by == nil {
		return make([]Action, len(events)), nil
	}
	logs, err := a.load(ctx, roomsOf(events))
	if err != nil {
		return nil, err
	}
	j := judge{by: by, ask: ask, user: a.User, facts: make(map[id.RoomID]*facts)}
	out := make([]Action, len(events))
	for i := range events {
		e, err := readEvent(events[i].RoomID, events[i].Clear)
		if err != nil {
			continue
		}
		r := j.outcome(ctx, by.clear, e, j.factsOf(logs[events[i].RoomID]), events[i].RoomID)
		out[i] = Action{Known: true, Outcome: r.result()}
		if r != nil {
			out[i].Actions = r.actions
		}
	}
	return out, nil
}

// roomsOf returns the rooms of events, without duplicates.
func roomsOf(events []Seen) []id.RoomID {
	rooms := make([]id.RoomID, 0, len(events))
	for i := range events {
		rooms = append(rooms, events[i].RoomID)
	}
	slices.Sort(rooms)
	return slices.Compact(rooms)
}

// Action is what the rules say of an event; not Known: they are not known.
type Action struct {
	Outcome
	Known   bool
	Actions []json.RawMessage
}
