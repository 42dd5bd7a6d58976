package unread

import (
	"encoding/json"
	"slices"
	"strconv"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
)

// power is what m.room.power_levels and m.room.create say of who may notify everybody.
type power struct {
	levels   strictjson.Object // nil: the room has none
	creators []id.UserID
	// above reports whether creators stand above all levels, from room version 12 on.
	above bool
}

const (
	levelOfCreator = 100 // in a room without levels
	levelToNotify  = 50
)

// newPower reads the contents of the two events; levels are empty when the room has none.
func newPower(levels, create json.RawMessage, creator id.UserID) *power {
	p := &power{}
	if parsed, err := strictjson.Parse(levels); err == nil {
		p.levels = parsed
	}
	made, err := strictjson.Parse(create)
	if err != nil {
		return p
	}
	version := made.TextOrEmpty("room_version")
	n, err := strconv.Atoi(version)
	p.above = err == nil && n >= 12
	if old := id.UserID(made.TextOrEmpty("creator")); creator == "" {
		creator = old
	}
	if creator != "" {
		p.creators = append(p.creators, creator)
	}
	if p.above {
		for _, user := range made.Texts("additional_creators") {
			p.creators = append(p.creators, id.UserID(user))
		}
	}
	return p
}

// mayNotify reports whether a user may send notifications of a kind to the whole room.
func (p *power) mayNotify(user id.UserID, kind string) bool {
	created := slices.Contains(p.creators, user)
	if p.above && created {
		return true
	}
	need := levelToNotify
	if n, ok := levelAt(p.levels.Object("notifications"), kind); ok {
		need = n
	}
	level, named := levelAt(p.levels.Object("users"), string(user))
	if !named {
		level, _ = levelAt(p.levels, "users_default")
	}
	if p.levels == nil && created {
		level = levelOfCreator
	}
	return level >= need
}

// levelAt reads a level. Old rooms have some as texts.
func levelAt(o strictjson.Object, name string) (int, bool) {
	raw := o.Get(name)
	if text, ok := o.Text(name); ok {
		raw = json.RawMessage(text)
	}
	n, err := strconv.Atoi(string(raw))
	return n, err == nil
}
