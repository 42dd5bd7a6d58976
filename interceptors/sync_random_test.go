package interceptors_test

import (
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
)

// randomSync writes sync responses that are valid and as odd as can be: members in any
// order and twice, lists empty or not, forged marks everywhere, white space between.
type randomSync struct {
	*rand.Rand
	events int
}

func (r *randomSync) chance(n int) bool { return r.IntN(n) == 0 }

func (r *randomSync) space() string {
	return [...]string{"", "", "", " ", "\n\t"}[r.IntN(5)]
}

func (r *randomSync) list(n int, element func() string) string {
	parts := make([]string, r.IntN(n+1))
	for i := range parts {
		parts[i] = r.space() + element() + r.space()
	}
	return "[" + strings.Join(parts, ",") + r.space() + "]"
}

// object takes names and values in pairs.
func (r *randomSync) object(pairs ...string) string {
	var parts []string
	for i := 0; i < len(pairs); i += 2 {
		if r.chance(8) {
			continue
		}
		parts = append(parts, r.space()+`"`+pairs[i]+`"`+r.space()+":"+r.space()+pairs[i+1]+r.space())
	}
	if r.chance(10) {
		parts = append(parts, `"dev.e2ee-proxy.x":{"a":[1,"]"]}`)
	}
	r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return "{" + strings.Join(parts, ",") + r.space() + "}"
}

func (r *randomSync) event(depth int) string {
	r.events++
	pairs := []string{"event_id", `"$` + strconv.Itoa(r.events) + `"`, "sender", []string{`"@a:hs"`, `"@b:hs"`}[r.IntN(2)]}
	switch r.IntN(8) {
	case 0, 1:
		pairs = append(pairs, "type", `"m.room.encrypted"`, "content", `{"ciphertext":{"type":"m.room.message","content":{"body":"\u00e9"}}}`)
	case 2:
		pairs = append(pairs, "type", `"m.room.encrypted"`, "content", `{"ciphertext":"unknown"}`)
	case 3:
		pairs = append(pairs, "type", `"m.room.message"`, "content", `{"body":"x","url":"mxc://a/b"}`)
	case 4:
		pairs = append(pairs, "type", `"m.room.encryption"`, "state_key", `""`, "content", `{"algorithm":"m.megolm.v1.aes-sha2"}`)
	case 5:
		pairs = append(pairs, "type", `"m.room.member"`, "state_key", `"@b:hs"`, "content", `{"membership":"join"}`)
	case 6:
		pairs = append(pairs, "type", `"m.reaction"`, "content", `{"m.relates_to":{},"decrypted":1}`)
	default:
		pairs = append(pairs, "type", `"m.r\u006fom.message"`, "type", `"m.reaction"`, "content", `[]`)
	}
	if r.chance(4) {
		pairs = append(pairs, "decrypted", `true`)
	}
	if r.chance(3) && depth > 0 {
		pairs = append(pairs, "unsigned", r.object(
			"dev.e2ee-proxy.trust", `{"color":"forged"}`, "age", "5", "redacted_because", r.event(depth-1),
			"m.relations", r.object("m.replace", r.event(depth-1), "m.thread", r.object("count", "1", "latest_event", r.event(depth-1)))))
	}
	return r.object(pairs...)
}

func (r *randomSync) room() string {
	events := func() string { return r.object("events", r.list(4, func() string { return r.event(2) })) }
	return r.object(
		"timeline", r.object("events", r.list(6, func() string { return r.event(2) }), "limited", "true"),
		"state", events(), "state_after", events(), "ephemeral", events(), "account_data", events(), "invite_state", events())
}

func (r *randomSync) body() string {
	section := func() string {
		var pairs []string
		for _, room := range []string{"!a:hs", "!b:hs", "!c:hs", "!a:hs"}[:r.IntN(5)] {
			pairs = append(pairs, room, r.room())
		}
		return r.object(pairs...)
	}
	body := r.object(
		"to_device", r.object("events", r.list(2, func() string { return `{"type":"x"}` })),
		"device_lists", `{"changed":["@a:hs"]}`, "device_one_time_keys_count", `{}`, "device_unused_fallback_key_types", `[]`,
		"account_data", r.object("events", r.list(3, func() string { return r.event(1) })),
		"rooms", r.object("join", section(), "leave", section(), "invite", section(), "knock", section()))
	return strings.Replace(body, "{", `{"next_batch":"s2"`+[]string{",", ""}[map[bool]int{true: 1}[strings.TrimSpace(body[1:len(body)-1]) == ""]], 1)
}

func TestSyncRandomBodies(t *testing.T) {
	t.Parallel()
	filters := []string{
		"", "", `{"room":{"timeline":{"types":["m.room.message"],"not_senders":["@b:hs"]}}}`,
		`{"event_fields":["type","event_id","content"],"room":{"state":{"types":[]},"not_rooms":["!b:hs"]}}`,
		`{"room":{"timeline":{"contains_url":true},"rooms":["!a:hs"]},"account_data":{"types":["m.reaction"]}}`,
	}
	w := newSyncWorld(t, "", interceptors.SyncOptions{})
	var body string
	for seed := range uint64(1000) {
		r := &randomSync{Rand: rand.New(rand.NewPCG(seed, 1))}
		body = r.body()
		encrypted := r.chance(2)
		w.dev.encrypted = func(id.RoomID) bool { return encrypted }
		w.up.body = func() io.Reader { return iotest.HalfReader(strings.NewReader(body)) }
		w.dev.extras = e2ee.SyncExtras{}
		if r.chance(2) {
			w.dev.extras.Late = map[id.RoomID][]json.RawMessage{
				"!a:hs": {json.RawMessage(`{"type":"m.room.message","event_id":"late1"}`), json.RawMessage(`{"type":"m.room.message","event_id":"late2"}`)},
				"!d:hs": {json.RawMessage(`{"type":"m.room.message","event_id":"late3"}`)},
			}
			w.dev.extras.ToDevice = []json.RawMessage{json.RawMessage(`{"type":"late"}`)}
		}
		query := url.Values{"since": {"s1"}, "filter": {filters[r.IntN(len(filters))]}}
		out := httptest.NewRecorder()
		if err := w.get(t.Context(), out, query.Encode()); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, body)
		}
		if !json.Valid(out.Body.Bytes()) {
			t.Fatalf("seed %d: %s\nbecame\n%s", seed, body, out.Body)
		}
		if strings.Contains(out.Body.String(), "dev.e2ee-proxy.x") || strings.Contains(out.Body.String(), "forged") {
			t.Fatalf("seed %d: forged: %s\nbecame\n%s", seed, body, out.Body)
		}
		checkRewritten(t, []byte(body), out.Body.Bytes())
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
