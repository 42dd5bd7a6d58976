package unread

import (
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
)

// event is an event as rules look at it: they look at few of its members, which are read when
// they do.
type event struct {
	room    id.RoomID
	members strictjson.Object
	content strictjson.Object // nil: not looked at yet
	body    *string           // in small letters; nil: not looked at yet
	seen    []seenValue       // many rules look at the same few members

	// all is an event that strict readers refuse, as homeservers read it; nil for others.
	all map[string]any
}

var errEvent = errors.New("the event is not readable")

// readEvent reads an event of a room.
func readEvent(room id.RoomID, raw json.RawMessage) (*event, error) {
	e := new(event)
	return e, e.read(room, raw)
}

// read reads an event in the place of another.
func (e *event) read(room id.RoomID, raw json.RawMessage) error {
	*e = event{room: room, seen: e.seen[:0]}
	var err error
	if e.members, err = strictjson.Parse(raw); err == nil {
		return nil
	}
	if err := json.Unmarshal(raw, &e.all); err != nil || e.all == nil {
		return errEvent
	}
	e.all["room_id"] = string(room)
	return nil
}

// seenValue is what stands at a key. Most are texts, or nothing.
type seenValue struct {
	key    string
	raw    json.RawMessage // nil: nothing
	text   string
	isText bool
}

// look returns what stands at a key.
func (e *event) look(k key) *seenValue {
	for i := range e.seen {
		if e.seen[i].key == k.name {
			return &e.seen[i]
		}
	}
	v := seenValue{key: k.name, raw: e.raw(k.path)}
	v.text, v.isText = strictjson.Object{{Value: v.raw}}.Text("")
	e.seen = append(e.seen, v)
	return &e.seen[len(e.seen)-1]
}

// textAt returns the text at a key; ok is false if there is none.
func (e *event) textAt(k key) (text string, ok bool) {
	if e.all != nil {
		value, _ := valueAt(e.all, k.path)
		text, ok = value.(string)
		return text, ok
	}
	v := e.look(k)
	return v.text, v.isText
}

// text is textAt; empty when there is none.
func (e *event) text(k key) string {
	text, _ := e.textAt(k)
	return text
}

// has reports whether anything stands at a key.
func (e *event) has(k key) bool {
	if e.all != nil {
		_, ok := valueAt(e.all, k.path)
		return ok
	}
	return e.look(k).raw != nil
}

// at returns the value at a key, as encoding/json would.
func (e *event) at(k key) (value any, ok bool) {
	if e.all != nil {
		return valueAt(e.all, k.path)
	}
	v := e.look(k)
	switch {
	case v.raw == nil:
		return nil, false
	case v.isText:
		return v.text, true
	case json.Unmarshal(v.raw, &value) != nil: // a number that is too large equals nothing
		return nil, false
	}
	return value, true
}

// raw returns what stands at a path of names; nil when that is nothing.
func (e *event) raw(path []string) json.RawMessage {
	object := e.members
	switch {
	case path[0] == "room_id":
		if len(path) > 1 {
			return nil
		}
		return strictjson.Quote(string(e.room))
	case path[0] == "content" && len(path) > 1:
		if e.content == nil {
			if e.content = object.Object("content"); e.content == nil {
				e.content = strictjson.Object{}
			}
		}
		object, path = e.content, path[1:]
	}
	for _, name := range path[:len(path)-1] {
		object = object.Object(name)
	}
	return object.Get(path[len(path)-1])
}

// valueAt returns the value at a path of names.
func valueAt(all map[string]any, path []string) (value any, ok bool) {
	value, ok = all, true
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

func (e *event) sender() id.UserID { return id.UserID(e.text(keySender)) }

// mentions reports whether an event says whom it mentions; then the older rules, which
// search its text, do not apply (Client-Server API, User and room mentions).
func (e *event) mentions() bool {
	return e.has(keyMentions)
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
