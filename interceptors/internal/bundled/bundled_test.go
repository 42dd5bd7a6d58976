package bundled

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"e2ee-proxy/internal/jsonscan"
)

// at puts a value where a path leads; a name stands for any.
func at(path, value string) string {
	for _, step := range reversed(strings.Split(path, "/")) {
		switch step {
		case "*":
			value = "[" + value + "]"
		case "{}":
			value = `{"org.example.unknown":` + value + "}"
		default:
			value = `{"` + step + `":` + value + "}"
		}
	}
	return value
}

func reversed(steps []string) []string {
	var out []string
	for _, s := range steps {
		out = append([]string{s}, out...)
	}
	return out
}

// Every place inside an event is known by its name, so that an event with something there takes
// the careful path; what stands there is found, or cleaned; and nothing of the proxy's is left in
// it, or in what stands in it.
func TestEveryPlaceIsFound(t *testing.T) {
	t.Parallel()
	g := NewGraphs()
	const inner = `{"type":"m.x","decrypted":1,"dev.e2ee-proxy.trust":1,"content":{"dev.e2ee-proxy.x":"a user's"},` +
		`"unsigned":{"dev.e2ee-proxy.y":1,"redacted_because":{"type":"m.room.redaction","decrypted":1}}}`
	for _, p := range places() {
		event := at(p.path, inner)
		found, err := g.Find([]byte(event))
		if want := p.kind != aContent && p.kind != aStripped; err != nil || want != (len(found) == 1) {
			t.Errorf("%s: found %+v, %v", p.path, found, err)
		}
		clean, err := g.Clean([]byte(event), func([]byte) bool { return true })
		if err != nil || !json.Valid(clean) {
			t.Errorf("%s: %s, %v", p.path, clean, err)
		}
		// A content is what its sender wrote, and only names that the proxy uses are gone.
		if left := bytes.Count(clean, []byte("e2ee-proxy")) + bytes.Count(clean, []byte("decrypted")); p.kind != aContent && left != 1 {
			t.Errorf("%s: left %s", p.path, clean)
		}
		if bytes.Contains(clean, []byte("trust")) {
			t.Errorf("%s: left %s", p.path, clean)
		}
		flagged := false
		root := jsonscan.NewNode().Report(1, true)
		err = jsonscan.ScanBytes([]byte(at(p.path, `{}`)), root, jsonscan.Options{Watch: Watched()}, func(v *jsonscan.Value) error {
			flagged = v.Flagged
			return nil
		})
		if err != nil || flagged != (p.kind != aContent) {
			t.Errorf("%s: flagged %t, %v", p.path, flagged, err)
		}
	}
}

// Stripped state is left out event by event, wherever it stands in the list.
func TestStrippedStateIsLeftOut(t *testing.T) {
	t.Parallel()
	g := NewGraphs()
	for list, want := range map[string]string{
		`[1,"a"]`: `[1,"a"]`, `[{"a":1}]`: `[{"a":1}]`, `[{"x":1}]`: `[]`, `[{"x":1},{"a":1},{"x":1}]`: `[{"a":1}]`,
		`[{"a":1},{"x":{},"decrypted":1},{"a":2,"decrypted":1}]`: `[{"a":1},{"a":2}]`, `{}`: `{}`, `null`: `null`,
	} {
		got, err := g.Clean([]byte(`{"unsigned":{"invite_room_state":`+list+`}}`), func(e []byte) bool { return !bytes.Contains(e, []byte("x")) })
		if string(got) != `{"unsigned":{"invite_room_state":`+want+`}}` || err != nil {
			t.Errorf("%s became %s, %v", list, got, err)
		}
	}
}

// FuzzEvents: whatever stands in an event, it is valid afterwards, cleaned once and for all, and
// everything that was found can be left out.
func FuzzEvents(f *testing.F) {
	for _, p := range places() {
		f.Add(at(p.path, `{"type":"m.room.message","event_id":"$e","decrypted":1}`))
		f.Add(at(p.path, `[{}]`))
	}
	f.Add(`{"unsigned":{"m.relations":{"m.thread":{"latest_event":{},"latest_event":{}},"m.replace":{"type":1},"m.replace":{"latest_event":{}}},"redacted_because":{}},"redacted_because":{}}`)
	g := NewGraphs()
	f.Fuzz(func(t *testing.T, event string) {
		if !json.Valid([]byte(event)) {
			return
		}
		clean, err := g.Clean([]byte(event), func(e []byte) bool { return len(e)%2 == 0 })
		if err != nil || !json.Valid(clean) {
			t.Fatalf("%s became %s, %v", event, clean, err)
		}
		found, err := g.Find(clean)
		if err != nil {
			return // too deep
		}
		var edits Edits
		for i := range found {
			edits.LeaveOut(&found[i], clean[found[i].Start:found[i].End], i%2 == 0)
		}
		out, err := jsonscan.Splice(clean, edits.List)
		if err != nil || !json.Valid(out) {
			t.Fatalf("%s became %s, %v", clean, out, err)
		}
	})
}
