package bundled

import (
	"strings"

	"e2ee-proxy/internal/jsonscan"
)

// Where other events, or parts of them, stand inside an event. It is data. The names are those
// of the specification, wherever servers have put them.

// place is a place inside an event. A step of its path is the name of a member, * for each
// element of an array, or {} for each member that no other path names.
type place struct {
	path string
	kind kind
}

// kind is what stands at a place.
type kind int

// Names that only the proxy may use (docs/control-api.md).
const (
	Decrypted = "decrypted"
	// Prefix begins all names of the proxy's but one.
	Prefix = "dev.e2ee-proxy."
)

// Members of unsigned.
const (
	nameRelations       = "m.relations"
	nameRedactedBecause = "redacted_because"
)

const (
	// aContent is the content of an earlier event, as its sender wrote it.
	aContent kind = iota + 1
	// aStripped is an event of a room's stripped state.
	aStripped
	// aReason is the event that redacted this one: a redaction, or state such as a ban
	// (MSC4293).
	aReason
	// aCount is what says how many relations of a sort there are.
	aCount
	// anEdit is the event that replaces this one.
	anEdit
	// aRelated is an event that relates to this one, in the relation where it stands.
	aRelated
	// aReference is such an event, or its ID.
	aReference
	// aRelation is the object of a relation with events in it, and no event. That of a
	// relation that nobody knows may be an event.
	aRelation
	anUnknown
)

// places returns all of them. What stands deeper comes first.
func places() []place {
	const relations = "unsigned/" + nameRelations + "/"
	return []place{
		{nameRedactedBecause, aReason}, // where older servers put it
		{"unsigned/" + nameRedactedBecause, aReason},
		{"prev_content", aContent},
		{"unsigned/prev_content", aContent},
		{"invite_room_state/*", aStripped}, // r0.0
		{"unsigned/invite_room_state/*", aStripped},
		{"unsigned/knock_room_state/*", aStripped},
		{relations + relReplace, anEdit},
		{relations + "m.thread/latest_event", aRelated},
		{relations + "m.thread", aRelation},
		{relations + "m.reference/chunk/*", aReference},
		{relations + "m.reference", aRelation},
		{relations + "m.annotation/chunk/*", aCount},
		{relations + "m.annotation", aRelation},
		{relations + "{}/latest_event", aRelated},
		{relations + "{}/chunk/*", aReference},
		{relations + "{}", anUnknown},
	}
}

// relReplace is the relation of edits.
const relReplace = "m.replace"

// Watched returns the names by which an event is known that Clean or Find may be about.
func Watched() []string {
	names := []string{Decrypted, Prefix + "*"}
	for _, p := range places() {
		if p.kind == aContent {
			continue // whose names alone are harmless
		}
		for name := range strings.SplitSeq(p.path, "/") {
			if name != "unsigned" {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

// isRelation reports whether a place is the whole object of a relation.
func (k kind) isRelation() bool {
	return k == anEdit || k == aRelation || k == anUnknown
}

// What a scan of an event reports.
const (
	isOurs = iota + 1 // a member that only the proxy may add
	isStripped
	inRelationType
	inRelationContent
	// inPlace is that of the first of places.
	inPlace
)

// reservedGraph reports every member of the proxy's in an event and in the events inside it,
// and every event of stripped state.
func reservedGraph() *jsonscan.Node {
	ours := jsonscan.NewNode().Report(isOurs, false)
	event := jsonscan.NewNode()
	var more []*jsonscan.Node // what has the members of an event, and others
	for _, p := range places() {
		steps := stepsOf(p.path)
		last := len(steps) - 1
		at := event
		for _, step := range steps[:last] {
			at.Link(jsonscan.Prefix(Prefix), ours)
			at = at.Down(step)
		}
		at.Link(jsonscan.Prefix(Prefix), ours)
		switch p.kind {
		case aContent:
			at.Down(steps[last]).Link(jsonscan.Prefix(Prefix), ours)
		case aStripped:
			more = append(more, at.Down(steps[last]).Report(isStripped, true))
		case aRelation, anUnknown:
			more = append(more, at.Down(steps[last]))
		case aReason, aCount, anEdit, aRelated, aReference:
			at.Link(steps[last], event)
		}
	}
	for _, n := range append(more, event) {
		n.Link(jsonscan.Key(Decrypted), ours)
		n.Link(jsonscan.Prefix(Prefix), ours)
		for _, p := range places() {
			first := stepsOf(p.path)[0]
			n.Link(first, event.Down(first))
		}
	}
	return event
}

// bundledGraph reports the events directly inside an event, each as its place.
func bundledGraph() *jsonscan.Node {
	root := jsonscan.NewNode()
	for i, p := range places() {
		if p.kind == aContent || p.kind == aStripped {
			continue
		}
		at := root.Down(stepsOf(p.path)...).Report(inPlace+i, false)
		if p.kind.isRelation() {
			at.Down(jsonscan.Key("type")).Report(inRelationType, false)
			at.Down(jsonscan.Key("content")).Report(inRelationContent, false)
		}
	}
	return root
}

// stepsOf returns the steps of a path.
func stepsOf(path string) []jsonscan.Step {
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
