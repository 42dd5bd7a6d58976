package interceptors

import (
	"fmt"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/internal/jsonscan"
)

// Rewriting of single events, for every endpoint that returns some (requirement 19.10):
//
//   - Members that only the proxy may add are removed from what the homeserver sent,
//     wherever in an event another event can be.
//   - Encrypted events, and in encrypted rooms those that should have been, go through
//     Device.Open in batches, with the events bundled under unsigned (requirement 19.4).
//   - The result of Open replaces an event; nothing else of it changes.
//   - What imitates a notice of the proxy is removed, see notices.go.
//
// Content that a user wrote is never touched, whatever names it uses.

// Names that only the proxy may use (docs/control-api.md).
const (
	nameDecrypted = "decrypted"
	prefixOurs    = "dev.e2ee-proxy."
	nameTrust     = prefixOurs + "trust"
	nameWarnings  = prefixOurs + "warnings"
	nameRelations = "m.relations"

	nameRedactedBecause = "redacted_because"
)

// maxBundled is how deep bundled events are opened: the latest event of a thread comes with
// its own edit.
const maxBundled = 3

// eventGraphs name the places inside an event that are looked at.
type eventGraphs struct {
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
	inCiphertext
	inRedacted
	inRoomID
	inReplaces
)

func newEventGraphs() eventGraphs {
	return eventGraphs{reserved: reservedGraph(), bundled: bundledGraph(), head: headGraph(jsonscan.NewNode()), names: namesGraph()}
}

// reservedGraph reports every member of the proxy's in an event and in the events inside it.
func reservedGraph() *jsonscan.Node {
	ours := jsonscan.NewNode().Report(1, false)
	event, unsigned, relation := jsonscan.NewNode(), jsonscan.NewNode(), jsonscan.NewNode()
	for _, n := range []*jsonscan.Node{event, relation} {
		n.Link(jsonscan.Key(nameDecrypted), ours)
		n.Link(jsonscan.Key(nameRedactedBecause), event) // where older servers put it
		n.Link(jsonscan.Key("unsigned"), unsigned)
		n.Down(jsonscan.Key("prev_content")).Link(jsonscan.Prefix(prefixOurs), ours)
	}
	for _, n := range []*jsonscan.Node{event, relation, unsigned} {
		n.Link(jsonscan.Prefix(prefixOurs), ours)
	}
	unsigned.Down(jsonscan.Key("prev_content")).Link(jsonscan.Prefix(prefixOurs), ours)
	unsigned.Link(jsonscan.Key(nameRedactedBecause), event)
	unsigned.Down(jsonscan.Key(nameRelations)).Link(jsonscan.Any(), relation)
	unsigned.Down(jsonscan.Key(nameRelations)).Link(jsonscan.Prefix(prefixOurs), ours)
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
	event.Down(jsonscan.Key("content"), jsonscan.Key("ciphertext")).Report(inCiphertext, false)
	event.Down(jsonscan.Key("unsigned"), jsonscan.Key(nameRedactedBecause)).Report(inRedacted, false)
	event.Down(jsonscan.Key(nameRedactedBecause)).Report(inRedacted, false)
	return event
}

// eventHead is what decisions need of an event. Of names that occur twice the last counts.
type eventHead struct {
	typ            []byte // without escapes
	types          int    // how often there is a type
	stateKey       []byte // raw
	hasStateKey    bool   // there is a state key
	stringStateKey bool   // the state key is a string
	neverOpened    bool   // it is never opened
	sender         []byte
	membership     []byte // raw
	hasURL         bool
	ciphertext     bool
	redacted       bool
	bare           bool // a reaction with its relation only
}

// filtered returns what a filter looks at.
func (h *eventHead) filtered() filter.Event {
	return filter.Event{Type: h.typ, Sender: h.sender, HasURL: h.hasURL}
}

func (h *eventHead) reset() {
	*h = eventHead{typ: h.typ[:0], stateKey: h.stateKey[:0], sender: h.sender[:0], membership: h.membership[:0]}
}

// take stores a value that headGraph reported; ok is false for other values.
func (h *eventHead) take(v *jsonscan.Value) (ok bool) {
	switch v.ID {
	case inType:
		h.typ = appendText(h.typ[:0], v)
		h.types++
	case inStateKey:
		h.stateKey, h.hasStateKey, h.stringStateKey = append(h.stateKey[:0], v.Raw...), true, v.Kind == '"'
	case inSender:
		h.sender = appendText(h.sender[:0], v)
	case inMembership:
		h.membership = append(h.membership[:0], v.Raw...)
	case inURL, inFile:
		h.hasURL = true
	case inCiphertext:
		h.ciphertext = true
	case inRedacted:
		h.redacted = true
	default:
		return false
	}
	return true
}

// maxIdentifier is the largest type or user ID that is read (255 bytes in the
// specification, each of which may be escaped).
const maxIdentifier = 6 * 255

// appendText appends the text of a string value; nothing when it is no string or too long.
func appendText(dst []byte, v *jsonscan.Value) []byte {
	if v.Kind != '"' || len(v.Raw) < 2 || len(v.Raw) > maxIdentifier {
		return dst
	}
	return append(dst, jsonscan.Text(v.Raw)...)
}

// headOf returns the head of an event in memory.
func (g *eventGraphs) headOf(event []byte) (eventHead, error) {
	var h eventHead
	err := jsonscan.ScanBytes(event, g.head, jsonscan.Options{}, func(v *jsonscan.Value) error {
		h.take(v)
		return nil
	})
	h.readReaction(event)
	return h, err
}

// readReaction reads the content of a reaction, which decides whether it is bare.
func (h *eventHead) readReaction(event []byte) {
	h.bare = string(h.typ) == typeReaction && event != nil && e2ee.PlainReaction(event)
}

// stripReserved removes the members that only the proxy may add. The event is valid JSON.
func (g *eventGraphs) stripReserved(event []byte) ([]byte, error) {
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

// openable reports whether an event of the timeline goes through Device.Open, in a room
// that is, or is not, known to be encrypted.
func (h *eventHead) openable(encrypted bool) bool {
	if h.neverOpened || h.isState() || h.types == 0 {
		return false
	}
	if string(h.typ) == typeEncrypted {
		return h.ciphertext || !h.redacted // a redacted one is no failure to decrypt
	}
	return encrypted && h.shouldBeEncrypted()
}

// sealed reports whether an event of a timeline is encrypted.
func (h *eventHead) sealed() bool { return !h.hasStateKey && string(h.typ) == typeEncrypted }

// isState reports whether an event is state and not also of a message's type: some clients
// look at the type alone.
func (h *eventHead) isState() bool { return h.stringStateKey && !e2ee.MessageType(string(h.typ)) }

// shouldBeEncrypted reports whether a plain event is one that clients send encrypted in an
// encrypted room (requirements 19.5, 19.6, 20.1). If the type is ambiguous, it is. A
// reaction is if it has more than its relation.
func (h *eventHead) shouldBeEncrypted() bool {
	if h.isState() {
		return false
	}
	switch string(h.typ) {
	case typeReaction:
		return h.types > 1 || !h.bare
	case typeRedaction:
		return h.types > 1
	}
	return true
}
