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

const (
	inType = iota + 1
	inStateKey
	inSender
	inMembership
	inURL
	inFile
	inRoomID
	inEventID
)

func newGraphs() graphs {
	return graphs{bundled: bundled.NewGraphs(), head: headGraph(jsonscan.NewNode()), names: namesGraph()}
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
