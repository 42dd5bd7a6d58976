package rewrite

import (
	"bytes"
	"fmt"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/bundled"
	"e2ee-proxy/internal/jsonscan"
)

// What is looked at in a single event, and what is taken out of it.

// Prefix begins all names of the proxy's but one.
const Prefix = bundled.Prefix

// nameTrust is the annotation, in unsigned.
const nameTrust = Prefix + "trust"

// maxBundled is how deep bundled events are opened: the latest event of a thread comes with
// its own edit.
const maxBundled = 3

// graphs name the places inside an event that are looked at.
type graphs struct {
	bundled *bundled.Graphs // of what stands in it
	head    *jsonscan.Node  // reports what filters and decisions look at
	names   *jsonscan.Node  // reports whose event it is
}

// What is noted of an event.
const (
	inType = iota
	inStateKey
	inSender
	inMembership
	inURL
	inFile
	inRoomID
	inEventID
	// inOwn is the first of those that a handler looks at.
	inOwn
)

// MaxInside is how many values in each event a handler can look at.
const MaxInside = jsonscan.MaxNotes - inOwn

// headPaths are the places of what decisions and filters need of an event.
var headPaths = [...]string{
	inType: "type", inStateKey: "state_key", inSender: "sender", inMembership: "content/membership",
	inURL: "content/url", inFile: "content/file", inRoomID: "room_id", inEventID: "event_id",
}

func newGraphs() graphs {
	return graphs{bundled: bundled.NewGraphs(), head: headGraph(jsonscan.NewNode()).Record(0), names: namesGraph()}
}

// headGraph adds everything that decisions and filters need to the node of an event.
func headGraph(event *jsonscan.Node) *jsonscan.Node {
	for n, path := range headPaths {
		event.Down(stepsOf(path)...).Note(n)
	}
	return event
}

// headOf returns the head of an event in memory.
func (g *graphs) headOf(event []byte) (head, error) {
	var h head
	err := jsonscan.ScanBytes(event, g.head, jsonscan.Options{}, func(v *jsonscan.Value) error {
		h.read(v, true)
		return nil
	})
	h.readReaction(event)
	return h, err
}

// clean removes the members that only the proxy may add, and of stripped state what may not
// stand there. The event is valid JSON.
func (g *graphs) clean(event []byte, hideEncryption bool) ([]byte, error) {
	out, err := g.bundled.Clean(event, func(stripped []byte) bool {
		h, err := g.headOf(stripped)
		if err != nil || g.imitates(stripped) {
			return false
		}
		hidden := hideEncryption && string(h.typ) == typeEncryption
		return h.types == 0 || h.isState() && !hidden
	})
	if err != nil {
		return nil, fmt.Errorf("clean an event: %w", err)
	}
	return out, nil
}

// namesGraph reports the identifiers in an event that say whose it is.
func namesGraph() *jsonscan.Node {
	event := jsonscan.NewNode()
	redaction := event.Down(jsonscan.Key("unsigned"), jsonscan.Key("redacted_because"))
	event.Link(jsonscan.Key("redacted_because"), redaction)
	for _, n := range []*jsonscan.Node{event, redaction} {
		for _, name := range []string{"sender", "event_id", "state_key", "room_id"} {
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

// mayImitate reports whether an event may imitate a notice, by what was noted of it: those that
// have another inside are flagged.
func mayImitate(v *jsonscan.Value) bool {
	if v.Flagged || v.Repeated() {
		return true
	}
	for _, n := range [...]int{inSender, inEventID, inStateKey, inRoomID} {
		if mayEndNotice(v.PeekEnd(n)) {
			if _, raw := v.Peek(n); MayNameNotice(raw) {
				return true
			}
		}
	}
	return false
}

// mayEndNotice reports whether a string that ends so may be the name of a notice, which ends with
// a d, as it is or escaped.
func mayEndNotice(last byte) bool { return last == 'd' || last == '4' }

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
