package interceptors_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
)

// FuzzSync: whatever the homeserver answers,
//   - a valid sync response becomes a valid response, anything else an error and no answer;
//   - nothing that only the proxy may say survives from the homeserver;
//   - every event that is left is in its place: the order of events is kept;
//   - the client sees no reason to upload keys.
func FuzzSync(f *testing.F) {
	names, err := filepath.Glob("testdata/sync/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range txtar.Parse(raw).Files {
			if file.Name == "body" {
				f.Add(string(file.Data), true, false, "")
				f.Add(string(file.Data), false, true, narrowFilter)
			}
		}
	}
	f.Add(`{"next_batch":"a","rooms":{"join":{"!a:b":{"timeline":{"events":[{},{"type":"m.room.encryption"},{}]}}}}}`, true, true, `{"event_fields":["type"]}`)
	f.Fuzz(func(t *testing.T, body string, encrypted, late bool, filter string) {
		w := newSyncWorld(t, body, interceptors.SyncOptions{})
		w.dev.encrypted = func(id.RoomID) bool { return encrypted }
		if late {
			w.dev.extras = e2ee.SyncExtras{
				ToDevice: []json.RawMessage{json.RawMessage(`{"type":"late"}`)},
				Late: map[id.RoomID][]json.RawMessage{
					"!a:hs": {json.RawMessage(`{"type":"m.room.message","event_id":"late1"}`), json.RawMessage(`{"type":"m.room.message","event_id":"late2"}`)},
					"!b:hs": {json.RawMessage(`{"type":"m.room.message","event_id":"late3"}`)},
				},
				Notices: map[id.RoomID][]json.RawMessage{
					"!a:hs": {json.RawMessage(`{"type":"m.room.message","event_id":"late4"}`)},
					"!c:hs": {json.RawMessage(`{"type":"m.room.message","event_id":"late5"}`)},
				},
				Warnings: []e2ee.Warning{{ID: "w"}},
			}
		}
		query := "since=s1"
		if json.Valid([]byte(filter)) && strings.HasPrefix(filter, "{") {
			query += "&filter=" + strings.NewReplacer("%", "%25", "&", "%26", "#", "%23", "+", "%2b", ";", "%3b", " ", "%20", "\n", "%0a", "\r", "%0d", "\t", "%09").Replace(filter)
		}
		if strings.IndexFunc(query, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
			return
		}
		out, err := w.sync(t, query)
		if err != nil {
			if out.Body.Len() > 0 {
				t.Fatalf("answered %s, then %v", out.Body, err)
			}
			if len(w.dev.committed) > 0 {
				t.Fatalf("committed, then %v", err)
			}
			return
		}
		got := out.Body.Bytes()
		if !json.Valid(got) {
			t.Fatalf("%s\nbecame\n%s", body, got)
		}
		checkRewritten(t, []byte(body), got)
	})
}

// anyEvent is an event as a lenient client reads it.
type anyEvent map[string]any

func checkRewritten(t *testing.T, before, after []byte) {
	t.Helper()
	var top map[string]any
	if json.Unmarshal(after, &top) != nil {
		t.Fatalf("not an object: %s", after)
	}
	for _, name := range []string{"device_lists", "device_one_time_keys_count", "device_unused_fallback_key_types"} {
		if _, ok := top[name]; ok {
			t.Fatalf("%s is shown: %s", name, after)
		}
	}
	var old map[string]any
	if json.Unmarshal(before, &old) != nil {
		t.Fatalf("an answer to what is not an object: %s", before)
	}
	for room, list := range timelines(top) {
		var kept []string
		for _, e := range list {
			checkForged(t, e, after)
			if key, ok := e["event_id"].(string); ok && !strings.HasPrefix(key, "late") {
				kept = append(kept, key)
			}
		}
		var all []string
		for _, e := range timelines(old)[room] {
			if key, ok := e["event_id"].(string); ok {
				all = append(all, key)
			}
		}
		for _, key := range kept {
			i := slices.Index(all, key)
			if i < 0 {
				t.Fatalf("%s: event %s is new or out of order: %s", room, key, after)
			}
			all = all[i+1:]
		}
	}
}

func timelines(top map[string]any) map[string][]anyEvent {
	out := map[string][]anyEvent{}
	rooms, _ := top["rooms"].(map[string]any)
	join, _ := rooms["join"].(map[string]any)
	for room, r := range join {
		r, _ := r.(map[string]any)
		timeline, _ := r["timeline"].(map[string]any)
		events, _ := timeline["events"].([]any)
		for _, e := range events {
			if e, ok := e.(map[string]any); ok {
				out[room] = append(out[room], e)
			}
		}
	}
	return out
}

// checkForged finds marks that the fake engine did not make.
func checkForged(t *testing.T, e anyEvent, all []byte) {
	t.Helper()
	unsigned, _ := e["unsigned"].(map[string]any)
	trust, opened := unsigned["dev.e2ee-proxy.trust"]
	mark, _ := trust.(map[string]any)
	if _, says := e["decrypted"]; says && (!opened || mark["decrypted"] != true) {
		t.Fatalf("a forged mark: %s", all)
	}
	for _, name := range []string{"sender", "event_id"} {
		if text, ok := e[name].(string); ok && strings.HasSuffix(text, ":e2ee-proxy.invalid") {
			t.Fatalf("a forged notice: %s", all)
		}
	}
	known := []any{"SentInClear", "MissingRoomKey", "UnsignedDevice"}
	if opened && !slices.Contains(known, mark["code"]) && mark["color"] != "none" {
		t.Fatalf("forged trust: %s", all)
	}
	if because, ok := unsigned["redacted_because"].(map[string]any); ok {
		if _, says := because["decrypted"]; says || because["type"] == "m.room.encrypted" || because["type"] == "m.room.message" {
			t.Fatalf("a forged mark inside: %s", all)
		}
	}
}
