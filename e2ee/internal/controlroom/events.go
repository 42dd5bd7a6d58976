package controlroom

import (
	"encoding/json"
	"slices"
	"strconv"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
)

// Types of events in the room.
const (
	TypeMessage   = "m.room.message"
	TypeRedaction = "m.room.redaction"
	typeMember    = "m.room.member"
)

// topic says what the room is for, where clients show that.
const topic = "Here you are told how the encryption of your messages stands, and can change it. Only you and the proxy see this room; your homeserver does not. Write: help"

func quote(s string) json.RawMessage { return strictjson.Quote(s) }

func number(n int64) json.RawMessage { return json.RawMessage(strconv.FormatInt(n, 10)) }

// object makes an object of names and values in turn.
func object(pairs ...any) json.RawMessage {
	o := make(strictjson.Object, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		name, _ := pairs[i].(string)
		switch value := pairs[i+1].(type) {
		case string:
			o = append(o, strictjson.Member{Name: name, Value: quote(value)})
		case json.RawMessage:
			o = append(o, strictjson.Member{Name: name, Value: value})
		case int64:
			o = append(o, strictjson.Member{Name: name, Value: number(value)})
		}
	}
	return o.Encode()
}

// View is a room as one device of its user is shown it.
type View struct {
	*Room
	User   id.UserID
	Device id.DeviceID
}

// ID returns the room's ID.
func (v *View) ID() id.RoomID { return RoomOf(v.User) }

// State returns the room's state events.
func (v *View) State() []json.RawMessage {
	one := func(typ, key string, sender id.UserID, content json.RawMessage) json.RawMessage {
		return object("type", typ, "state_key", key, "sender", string(sender), "event_id", string(stateID(v.User, v.Opened, typ+key)),
			"origin_server_ts", v.OpenedAt, "room_id", string(v.ID()), "content", content)
	}
	yes := json.RawMessage("true")
	powers := object(
		"users", object(string(Sender), int64(100), string(v.User), int64(0)), "users_default", int64(0),
		"events_default", int64(0), "state_default", int64(100), "ban", int64(100), "kick", int64(100),
		"invite", int64(100), "redact", int64(100), "events", object(),
	)
	return []json.RawMessage{
		one("m.room.create", "", Sender, object("creator", string(Sender), "room_version", "10", "dev.e2ee-proxy.control_room", yes)),
		one(typeMember, string(Sender), Sender, object("membership", "join", "displayname", Name)),
		one("m.room.power_levels", "", Sender, powers),
		one("m.room.join_rules", "", Sender, object("join_rule", "invite")),
		one("m.room.history_visibility", "", Sender, object("history_visibility", "joined")),
		one("m.room.guest_access", "", Sender, object("guest_access", "forbidden")),
		one("m.room.name", "", Sender, object("name", Name)),
		one("m.room.topic", "", Sender, object("topic", topic)),
		v.member(),
	}
}

// member returns the user's own membership.
func (v *View) member() json.RawMessage {
	membership, at, what := "join", v.OpenedAt, "joined"
	if v.Left {
		membership, at, what = "leave", v.LeftAt, "left"
	}
	return object("type", typeMember, "state_key", string(v.User), "sender", string(v.User), "event_id", string(stateID(v.User, v.Opened, what)),
		"origin_server_ts", at, "room_id", string(v.ID()), "content", object("membership", membership))
}

// Event returns a line as an event.
func (v *View) Event(l *Line) json.RawMessage {
	sender := Sender
	if l.Mine {
		sender = v.User
	}
	pairs := []any{
		"type", l.Type, "event_id", string(l.ID), "sender", string(sender), "origin_server_ts", l.At,
		"room_id", string(v.ID()), "content", l.content(),
	}
	if l.Redacts != "" {
		pairs = append(pairs, "redacts", string(l.Redacts))
	}
	unsigned := []any{}
	if l.Txn != "" && l.Device == v.Device {
		unsigned = append(unsigned, "transaction_id", l.Txn)
	}
	if l.Redacted != "" {
		unsigned = append(unsigned, "redacted_because", object("type", TypeRedaction, "event_id", string(l.Redacted), "sender", string(sender),
			"redacts", string(l.ID), "origin_server_ts", l.At, "content", object()))
	}
	if len(unsigned) > 0 {
		pairs = append(pairs, "unsigned", object(unsigned...))
	}
	return object(pairs...)
}

// content returns the content of a line's event. A change says which message it changes, and
// has a text for clients that know of no changes.
func (l *Line) content() json.RawMessage {
	if l.Replaces == "" {
		return l.Content
	}
	content, err := strictjson.Parse(l.Content)
	if err != nil {
		return l.Content
	}
	changed := content.Set("m.new_content", l.Content).
		Set("m.relates_to", object("rel_type", "m.replace", "event_id", string(l.Replaces)))
	if body := content.TextOrEmpty("body"); body != "" {
		changed = changed.Set("body", quote("* "+body))
	}
	return changed.Encode()
}

// History returns the lines that somebody who reads back is shown, oldest first.
func (v *View) History() []Line {
	return slices.DeleteFunc(slices.Clone(v.Lines), func(l Line) bool { return l.Replaces != "" })
}

// Find returns an event of the room by its ID; nil when there is none.
func (v *View) Find(event id.EventID) json.RawMessage {
	if i := v.find(event); i >= 0 {
		return v.Event(&v.Lines[i])
	}
	for _, ev := range v.State() {
		if said, err := strictjson.Parse(ev); err == nil && said.TextOrEmpty("event_id") == string(event) {
			return ev
		}
	}
	return nil
}

// Unread returns how many messages of the proxy the user has not read.
func (v *View) Unread() int {
	n := 0
	for i := range v.Lines {
		if l := &v.Lines[i]; !l.Mine && l.Replaces == "" && l.Seq > v.Read {
			n++
		}
	}
	return n
}

// readEvent returns the last event that the user has read; empty when it is not kept.
func (v *View) readEvent() id.EventID {
	for i := len(v.Lines) - 1; i >= 0; i-- {
		if v.Lines[i].Seq == v.Read {
			return v.Lines[i].ID
		}
	}
	return ""
}
