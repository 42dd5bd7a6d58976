package rewrite

import (
	"bytes"
	"fmt"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/jsonscan"
)

// What is looked at in a single event, and what is taken out of it.

// Names that only the proxy may use (docs/control-api.md).
const (
	nameDecrypted = "decrypted"
	// Prefix begins all names of the proxy's but one.
	Prefix        = "dev.e2ee-proxy."
	nameTrust     = Prefix + "trust"
	nameRelations = "m.relations"

	nameRedactedBecause = "redacted_because"
)

// maxBundled is how deep bundled events are opened: the latest event of a thread comes with
// its own edit.
const maxBundled = 3

// graphs name the places inside an event that are looked at.
type graphs struct {
	reserved *jsonscan.Node // reports members to remove
	bundled  *jsonscan.Node // reports events bundled under unsigned
	head     *jsonscan.Node // reports what filters and decisions look at
	names    *jsonscan.Node // reports whose event it is
}

const (
	inRelation = iota + 1
	inRelationType
	inNested
	inType
	inStateKey
	inSender
	inMembership
	inURL
	inFile
	inRoomID
)

func newGraphs() graphs {
	return graphs{reserved: reservedGraph(), bundled: bundledGraph(), head: headGraph(jsonscan.NewNode()), names: namesGraph()}
}

// reservedGraph reports every member of the proxy's in an event and in the events inside it.
func reservedGraph() *jsonscan.Node {
	ours := jsonscan.NewNode().Report(1, false)
	event, unsigned, relation := jsonscan.NewNode(), jsonscan.NewNode(), jsonscan.NewNode()
	for _, n := range []*jsonscan.Node{event, relation} {
		n.Link(jsonscan.Key(nameDecrypted), ours)
		n.Link(jsonscan.Key(nameRedactedBecause), event) // where older servers put it
		n.Link(jsonscan.Key("unsigned"), unsigned)
		n.Down(jsonscan.Key("prev_content")).Link(jsonscan.Prefix(Prefix), ours)
	}
	for _, n := range []*jsonscan.Node{event, relation, unsigned} {
		n.Link(jsonscan.Prefix(Prefix), ours)
	}
	unsigned.Down(jsonscan.Key("prev_content")).Link(jsonscan.Prefix(Prefix), ours)
	unsigned.Link(jsonscan.Key(nameRedactedBecause), event)
	unsigned.Down(jsonscan.Key(nameRelations)).Link(jsonscan.Any(), relation)
	unsigned.Down(jsonscan.Key(nameRelations)).Link(jsonscan.Prefix(Prefix), ours)
	for _, stripped := range []string{"invite_room_state", "knock_room_state"} {
		unsigned.Down(jsonscan.Key(stripped)).Link(jsonscan.Elem(), event)
	}
	relation.Link(jsonscan.Key("latest_event"), event)
	relation.Down(jsonscan.Key("chunk")).Link(jsonscan.Elem(), event)
	return event
}

// bundledGraph reports the aggregated relations of an event: a whole event (m.replace), one
// under latest_event (m.thread) or several in a chunk.
func bundledGraph() *jsonscan.Node {
	root := jsonscan.NewNode()
	relation := root.Down(jsonscan.Key("unsigned"), jsonscan.Key(nameRelations), jsonscan.Any()).Report(inRelation, false)
	relation.Down(jsonscan.Key("type")).Report(inRelationType, false)
	relation.Down(jsonscan.Key("latest_event")).Report(inNested, false)
	relation.Down(jsonscan.Key("chunk"), jsonscan.Elem()).Report(inNested, false)
	return root
}

// stateGraph adds what names a state event to the node of an event.
func stateGraph(event *jsonscan.Node) *jsonscan.Node {
	event.Down(jsonscan.Key("type")).Report(inType, true)
	event.Down(jsonscan.Key("state_key")).Report(inStateKey, true)
	event.Down(jsonscan.Key("content"), jsonscan.Key("membership")).Report(inMembership, true)
	return event
}

// headGraph adds everything that decisions and filters need to the node of an event.
func headGraph(event *jsonscan.Node) *jsonscan.Node {
	stateGraph(event).Down(jsonscan.Key("sender")).Report(inSender, true)
	event.Down(jsonscan.Key("content"), jsonscan.Key("url")).Report(inURL, false)
	event.Down(jsonscan.Key("content"), jsonscan.Key("file")).Report(inFile, false)
	return event
}

// headOf returns the head of an event in memory.
func (g *graphs) headOf(event []byte) (head, error) {
	var h head
	err := jsonscan.ScanBytes(event, g.head, jsonscan.Options{}, func(v *jsonscan.Value) error {
		h.take(v)
		return nil
	})
	h.readReaction(event)
	return h, err
}

// stripReserved removes the members that only the proxy may add. The event is valid JSON.
func (g *graphs) stripReserved(event []byte) ([]byte, error) {
	var edits []jsonscan.Edit
	gone := make(map[int64]int) // number of removed members, by container
	err := jsonscan.ScanBytes(event, g.reserved, jsonscan.Options{}, func(v *jsonscan.Value) error {
		edits = append(edits, jsonscan.Edit{
			Op: jsonscan.Delete, Start: v.Member, End: v.End, Sep: v.Sep, Before: v.Index > gone[v.Inside],
		})
		gone[v.Inside]++
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("strip an event: %w", err)
	}
	if len(edits) == 0 {
		return event, nil
	}
	return jsonscan.Splice(event, edits)
}

// namesGraph reports the identifiers in an event that say whose it is.
func namesGraph() *jsonscan.Node {
	event := jsonscan.NewNode()
	redaction := event.Down(jsonscan.Key("unsigned"), jsonscan.Key(nameRedactedBecause))
	event.Link(jsonscan.Key(nameRedactedBecause), redaction)
	for _, n := range []*jsonscan.Node{event, redaction} {
		for _, name := range []string{"sender", "event_id", "state_key"} {
			n.Down(jsonscan.Key(name)).Report(1, true)
		}
	}
	return event
}

// MayNameNotice reports whether a text may have the name of a notice in it, in letters or
// escaped. It is a quick check that nearly all texts fail, because the name begins with
// characters that are rare in events.
func MayNameNotice(raw []byte) bool {
	const rare = "-proxy.invalid"
	return bytes.Contains(raw, []byte(rare)) || bytes.Contains(raw, []byte(`\u`))
}

// imitates reports whether an event of the homeserver imitates a notice.
func (g *graphs) imitates(event []byte) bool {
	if !MayNameNotice(event) {
		return false
	}
	found := false
	err := jsonscan.ScanBytes(event, g.names, jsonscan.Options{}, func(v *jsonscan.Value) error {
		found = found || v.Kind == '"' && e2ee.IsNoticeName(string(jsonscan.Text(v.Raw)))
		return nil
	})
	return found || err != nil
}
