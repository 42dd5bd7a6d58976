package unread

import (
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"
)

// event is an event as rules look at it.
type event struct {
	members map[string]any
	body    *string // in small letters; nil: not looked at yet
}

var errEvent = errors.New("the event is not readable")

// readEvent reads an event of a room.
func readEvent(room id.RoomID, raw json.RawMessage) (*event, error) {
	var e event
	if err := json.Unmarshal(raw, &e.members); err != nil || e.members == nil {
		return nil, errEvent
	}
	e.members["room_id"] = string(room)
	return &e, nil
}

// at returns the value at a path of names.
func (e *event) at(path []string) (value any, ok bool) {
	value, ok = e.members, true
	for _, name := range path {
		object, isObject := value.(map[string]any)
		if !isObject {
			return nil, false
		}
		if value, ok = object[name]; !ok {
			return nil, false
		}
	}
	return value, ok
}

func (e *event) sender() id.UserID {
	sender, _ := e.members["sender"].(string)
	return id.UserID(sender)
}

// mentions reports whether an event says whom it mentions; then the older rules, which
// search its text, do not apply (Client-Server API, User and room mentions).
func (e *event) mentions() bool {
	_, ok := e.at([]string{"content", "m.mentions"})
	return ok
}

// searchesText reports whether a rule is one of the older ones.
func (r *rule) searchesText() bool {
	switch r.id {
	case ".m.rule.contains_display_name", ".m.rule.contains_user_name", ".m.rule.roomnotif":
		return true
	}
	return false
}

// need is what must be known of a room to apply the rules.
type need int

const (
	needsMembers need = 1 << iota // how many have joined
	needsPower                    // power levels
)

// facts are what is known of a room and its user.
type facts struct {
	user    id.UserID
	name    string // of the user in the room
	members int    // who joined; negative: not known
	power   *power // nil: not known

	assumed bool // what holds of what is not known
	asked   need
}

// guess is the answer of a condition about something that is not known.
func (f *facts) guess(n need) bool {
	f.asked |= n
	return f.assumed
}

// match returns the first rule that matches; nil when none does.
func (r *Rules) match(e *event, f *facts) *rule {
	if e.sender() == f.user {
		return nil // nobody is notified of their own events
	}
	mentions := e.mentions()
next:
	for i := range r.all {
		one := &r.all[i]
		if mentions && one.searchesText() {
			continue
		}
		for _, c := range one.conditions {
			if !c.holds(e, f) {
				continue next
			}
		}
		return one
	}
	return nil
}

func (r *rule) result() Outcome {
	if r == nil {
		return Outcome{}
	}
	return r.outcome
}

// apply applies the rules to an event. lacks is what else must be known; zero when the
// outcome depends on nothing that is not.
func (r *Rules) apply(e *event, f facts) (found *rule, lacks need) {
	f.assumed, f.asked = false, 0
	found = r.match(e, &f)
	if f.asked == 0 {
		return found, 0
	}
	f.assumed = true
	if other := r.match(e, &f); other.result() != found.result() {
		return found, f.asked
	}
	return found, 0
}
