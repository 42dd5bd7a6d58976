package bundled

import (
	"fmt"

	"e2ee-proxy/internal/jsonscan"
)

// Graphs name the places inside an event that are looked at. They are read only.
type Graphs struct {
	places   []place
	reserved *jsonscan.Node
	bundled  *jsonscan.Node
}

// NewGraphs returns them.
func NewGraphs() *Graphs {
	return &Graphs{places: places(), reserved: reservedGraph(), bundled: bundledGraph()}
}

// Clean removes the members that only the proxy may add, and the events of stripped state of
// which keep says so. The event is valid JSON.
func (g *Graphs) Clean(event []byte, keep func(stripped []byte) bool) ([]byte, error) {
	var edits []jsonscan.Edit
	gone := make(map[int64]int) // number of removed members and elements, by container
	err := jsonscan.ScanBytes(event, g.reserved, jsonscan.Options{}, func(v *jsonscan.Value) error {
		start := v.Member
		if v.ID == isStripped {
			if v.Kind != '{' || keep(v.Raw) {
				return nil
			}
			start = v.Start
			for len(edits) > 0 && edits[len(edits)-1].Start > start {
				edits = edits[:len(edits)-1]
			}
		}
		edits = append(edits, jsonscan.Edit{
			Op: jsonscan.Delete, Start: start, End: v.End, Sep: v.Sep, Before: v.Index > gone[v.Inside],
		})
		gone[v.Inside]++
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("clean an event: %w", err)
	}
	if len(edits) == 0 {
		return event, nil
	}
	return jsonscan.Splice(event, edits)
}

// Nested is a place where an event is bundled in another.
type Nested struct {
	// Start and End are where it stands.
	Start, End int64
	// Refused is set if nothing may stand there.
	Refused bool

	kind     kind
	relation string // in which it stands, if it is in one
	// cut removes it, or its whole relation; nil where something must stand.
	cut *jsonscan.Edit
	// index and inside are those of what is cut, among its siblings.
	index  int
	inside int64
}

// IsEdit reports whether it is the place of the latest edit.
func (n *Nested) IsEdit() bool { return n.kind == anEdit }

// Find returns the places of the events bundled directly in an event, in order.
func (g *Graphs) Find(event []byte) ([]Nested, error) {
	var found []Nested
	var typed, content bool // of the current relation
	first := 0              // of the events in it
	err := jsonscan.ScanBytes(event, g.bundled, jsonscan.Options{}, func(v *jsonscan.Value) error {
		switch v.ID {
		case inRelationType:
			typed = true
			return nil
		case inRelationContent:
			content = true
			return nil
		}
		p := g.places[v.ID-inPlace]
		n := Nested{Start: v.Start, End: v.End, kind: p.kind}
		if v.Member >= 0 {
			n.index, n.inside = v.Index, v.Inside
			n.cut = &jsonscan.Edit{Op: jsonscan.Delete, Start: v.Member, End: v.End, Sep: v.Sep}
		}
		if !p.kind.isRelation() {
			if v.Kind == '{' {
				found = append(found, n)
			}
			if p.kind == aReason {
				first = len(found)
			}
			return nil
		}
		n.relation = relationOf(p, v)
		found = n.joined(found, first, typed, content)
		typed, content, first = false, false, len(found)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find bundled events: %w", err)
	}
	return found, nil
}

// relationOf returns the name of the relation that a report is about.
func relationOf(p place, v *jsonscan.Value) string {
	if p.kind == anUnknown {
		return string(v.Name(0))
	}
	return p.path[len("unsigned/"+nameRelations+"/"):]
}

// joined adds a relation to what was found. The events from first are those in it.
func (n *Nested) joined(found []Nested, first int, typed, content bool) []Nested {
	events := found[first:]
	switch {
	case typed && n.kind != aRelation: // it is an event, whatever is in it
		return append(found[:first], *n)
	case typed, n.kind == anEdit && content, crowded(events):
		n.Refused = true
		return append(found[:first], *n)
	}
	for i := range events {
		events[i].relation = n.relation
		if events[i].kind == aRelated {
			events[i].cut, events[i].index, events[i].inside = n.cut, n.index, n.inside
		}
	}
	return found
}

// crowded reports whether a relation has more than one event where one belongs.
func crowded(events []Nested) bool {
	n := 0
	for i := range events {
		if events[i].kind == aRelated {
			n++
		}
	}
	return n > 1
}

// Edits are those that put events, as a client sees them, in the places of one event. They are
// made in the order of the places.
type Edits struct {
	List []jsonscan.Edit
	gone map[int64]int // number of removed members, by container
}

// Put puts an event in its place.
func (e *Edits) Put(at *Nested, shown []byte) {
	e.List = append(e.List, jsonscan.Edit{Op: jsonscan.Replace, Start: at.Start, End: at.End, Data: shown})
}

// LeaveOut leaves out what stands at a place, with its relation unless that is there all the
// same. event is what came, if it was read.
func (e *Edits) LeaveOut(at *Nested, event []byte, related bool) {
	switch {
	case at.kind == aReference && !at.Refused:
		e.Put(at, referenceTo(event))
	case at.kind == aRelated && related, at.cut == nil:
		e.Put(at, []byte(`{}`))
	default:
		if e.gone == nil {
			e.gone = make(map[int64]int)
		}
		cut := *at.cut
		cut.Before = at.index > e.gone[at.inside]
		e.gone[at.inside]++
		e.List = append(e.List, cut)
	}
}
