package rewrite

import (
	"strings"

	"e2ee-proxy/internal/jsonscan"
)

// Shape is where events stand in the answers of an endpoint, and what else is looked at there.
// It is data. A step of a path in it is the name of a member, * for each element of an array, or
// {} for each member of an object that no other path names. The empty path is the whole body.
//
// Members that only the proxy may add are removed from every object on the way to a place.
type Shape struct {
	// Room is where the room ID of events stands.
	Room   RoomSource
	Places []Place
	// Entries are the paths of the objects with a history of their own each; without any that
	// is the whole body. With [RoomOfEntry] their room_id is the room, with [RoomOfName] their
	// name.
	Entries []string
	// Inside are the paths of values in each event that a handler looks at, see [Event.Inside].
	// They are names only. There are at most [MaxInside].
	Inside []string
	// Values are what a handler looks at besides, see [Hooks].
	Values []Value
}

// RoomSource is where the room ID of events stands.
type RoomSource int

const (
	// RoomOfPath is the room in the request's path.
	RoomOfPath RoomSource = iota + 1
	// RoomOfEvent is the room_id of each event.
	RoomOfEvent
	// RoomOfEntry is the room_id of their entry.
	RoomOfEntry
	// RoomOfName is the last {} of their entry's path.
	RoomOfName
)

// Place is a place of events. If its path does not end with *, it is one event alone, which
// cannot be left out.
type Place struct {
	Path string
	Kind Kind
	// Position is the part of their room's history to which the events belong.
	Position Position
	// Asked reports whether it must be the event that the request's path names. Where it is
	// another one there is none.
	Asked bool
	// Grows reports whether events may be added in front of the first one, see [Added].
	Grows bool
}

// Kind is the treatment of the events of a place. The zero value removes what only the proxy
// may say.
type Kind int

const (
	// Other are events of any sort.
	Other Kind = iota
	// Timeline are messages and state as they were sent: they are opened, judged and marked.
	Timeline
	// Mixed is a timeline with typing notices and the like in it, to which no filter applies.
	Mixed
	// State are state events, which nobody encrypts. Others among them are treated as in a
	// timeline.
	State
	// Stripped are state events to which no filter applies. Others among them are left out.
	Stripped
	// AccountData are what the user has stored.
	AccountData
)

// Value is something else in a body that is reported to [Hooks.Value].
type Value struct {
	Path string
	// Tag is what the handler calls it.
	Tag int
	// Keep asks for its bytes.
	Keep bool
}

// class says what a report of the scan is about.
type class int

const (
	aPlace class = iota + 1
	aValue
	anEntry
	anEntryRoom
	aMember // of the proxy's
	aBody
)

// A report's ID holds its class, the number of its entry (from 1), how deep it stands, and the
// index of the place or value.
const (
	depthShift = 16
	entryShift = 20
	classShift = 24
	indexMask  = 1<<depthShift - 1
	depthMask  = 1<<(entryShift-depthShift) - 1
	entryMask  = 1<<(classShift-entryShift) - 1
)

func reportID(c class, entry, depth, index int) int {
	return int(c)<<classShift | entry<<entryShift | depth<<depthShift | index
}

// graph names everything in a body of the shape that is looked at.
func (s *Shape) graph() *jsonscan.Node {
	top := jsonscan.NewNode()
	seen := map[*jsonscan.Node]bool{}
	for i := range s.Places {
		path := s.Places[i].Path
		at, steps := top, stepsOf(path)
		for depth, step := range steps {
			if step != jsonscan.Elem() && !seen[at] {
				seen[at] = true
				ours := reportID(aMember, s.entryOf(upTo(path, depth)), depth+1, 0)
				at.Down(jsonscan.Prefix(Prefix)).Report(ours, false)
			}
			at = at.Down(step)
		}
		for n, inside := range s.Inside {
			at.Down(stepsOf(inside)...).Note(inOwn + n)
		}
		headGraph(at).Record(reportID(aPlace, s.entryOf(path), len(steps), i))
	}
	for i, path := range s.Entries {
		steps := stepsOf(path)
		entry := top.Down(steps...).Report(reportID(anEntry, i+1, len(steps), 0), false)
		if s.Room == RoomOfEntry {
			entry.Down(jsonscan.Key("room_id")).Report(reportID(anEntryRoom, i+1, len(steps)+1, 0), true)
		}
	}
	if len(s.Entries) == 0 && s.Places[0].Path != "" {
		top.Report(reportID(aBody, 0, 0, 0), false)
	}
	for i := range s.Values {
		v := &s.Values[i]
		steps := stepsOf(v.Path)
		top.Down(steps...).Report(reportID(aValue, s.entryOf(v.Path), len(steps), i), v.Keep)
	}
	return top
}

// entryOf returns the number, from 1, of the entry that a path leads to or into; 0 when there
// is none.
func (s *Shape) entryOf(path string) int {
	for i, entry := range s.Entries {
		if path == entry || strings.HasPrefix(path, entry+"/") {
			return i + 1
		}
	}
	return 0
}

// upTo returns the first steps of a path.
func upTo(path string, steps int) string {
	return strings.Join(strings.Split(path, "/")[:steps], "/")
}

// nameOf returns which name, of those that {} stands for, is that of the entries' rooms.
func nameOf(entry string) int { return strings.Count(entry, "{}") - 1 }

func stepsOf(path string) []jsonscan.Step {
	if path == "" {
		return nil
	}
	var steps []jsonscan.Step
	for name := range strings.SplitSeq(path, "/") {
		switch name {
		case "*":
			steps = append(steps, jsonscan.Elem())
		case "{}":
			steps = append(steps, jsonscan.Any())
		default:
			steps = append(steps, jsonscan.Key(name))
		}
	}
	return steps
}
