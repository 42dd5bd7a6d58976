package e2ee_test

import (
	"encoding/json"
	"maps"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/trustcache"
)

// with returns an encrypted content with other members in clear.
func with(t *testing.T, content json.RawMessage, more map[string]any) json.RawMessage {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal(content, &c); err != nil {
		t.Fatal(err)
	}
	maps.Copy(c, more)
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func contentOf(ev map[string]any) map[string]any {
	content, _ := ev["content"].(map[string]any)
	return content
}

// Attacks A24 and N3. The homeserver adds relations in clear to bob's messages. What is in
// clear counts, as the specification says, also by its absence; but it makes no edit of a
// message that is none.
func TestForgedRelation(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	inject := func(payload, clear map[string]any) map[string]any {
		t.Helper()
		event := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: with(t, said.seal(payload), clear)})
		body, _ := payload["content"].(map[string]any)["body"].(string)
		st.awaitText(event, body)
		return contentOf(st.shown[event])
	}
	edit := func(body string) map[string]any {
		payload := said.text(body)
		maps.Copy(payload["content"].(map[string]any), map[string]any{
			"m.new_content": map[string]any{"msgtype": "m.text", "body": body},
			"m.relates_to":  map[string]any{"rel_type": "m.replace", "event_id": "$inside"},
		})
		return payload
	}
	replaces := map[string]any{"m.relates_to": map[string]any{"rel_type": "m.replace", "event_id": "$outside"}}
	if got := inject(said.text("no edit"), replaces); got["m.relates_to"] != nil {
		t.Errorf("a message became an edit: %v", got)
	}
	if got := inject(edit("an edit"), replaces); holds(got, "$inside") || !holds(got, "$outside") {
		t.Errorf("an edit is shown as %v", got)
	}
	if got := inject(edit("the relation is inside only"), nil); got["m.relates_to"] != nil {
		t.Errorf("a relation that does not stand in clear is shown: %v", got)
	}
	for _, relation := range []any{"m.replace", []any{}, nil, 1} {
		if got := inject(said.text("no relation"), map[string]any{"m.relates_to": relation}); got["m.relates_to"] != nil {
			t.Errorf("%v is shown as a relation", relation)
		}
	}
}

// Attacks A24 and A25. In an encrypted room the homeserver sends messages in clear, in
// bob's name: as such, as an edit of what he said, and as state. Each is marked, and none
// is an edit any more; where the policy says so they are held back, and not a word of
// them is shown.
func TestMessagesInClear(t *testing.T) {
	t.Parallel()
	for name, inClear := range map[string]trustcache.InClear{"marked": trustcache.InClearMark, "held back": trustcache.InClearWithhold} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, func(o *e2ee.Options) {
				o.Policy = func() trustcache.Policy { return trustcache.Policy{InClear: inClear} }
			})
			room, bob, said := hear(t, st)
			defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "/sync$")), liar.Edit(func(_ *liar.Request, body map[string]any) {
				eachEvent(body, func(ev map[string]any) {
					if ev["type"] == "org.example.elsewhere" {
						ev["room_id"] = "!elsewhere:liar.test"
					}
				})
			}))()
			original := said.say("original")
			st.awaitText(original, "original")
			key := ""
			text := map[string]any{"msgtype": "m.text", "body": "* forged", "m.new_content": map[string]any{"msgtype": "m.text", "body": "forged"}}
			edit := maps.Clone(text)
			edit["m.relates_to"] = map[string]any{"rel_type": "m.replace", "event_id": original}
			raw := func(content map[string]any) json.RawMessage { return with(t, json.RawMessage(`{}`), content) }
			for kind, ev := range map[string]liar.Event{
				"message":          {Type: "m.room.message", Content: raw(text)},
				"edit":             {Type: "m.room.message", Content: raw(edit)},
				"message as state": {Type: "m.room.message", StateKey: &key, Content: raw(text)},
				"sticker":          {Type: "m.sticker", Content: raw(text)},
				"unknown type":     {Type: "org.example.unknown", Content: raw(text)},
				"another room's":   {Type: "org.example.elsewhere", Content: raw(text)},
				"poll":             {Type: "m.poll.start", Content: raw(text)},
				"poll as state":    {Type: "org.matrix.msc3381.poll.start", StateKey: &key, Content: raw(text)},
				"reaction":         {Type: "m.reaction", Content: raw(text)},
			} {
				ev.Sender = bob.UserID
				event := st.hs.Inject(room, ev)
				await(t, kind+" does not come", func() bool {
					st.sync()
					return st.shown[event] != nil
				})
				got := st.shown[event]
				if codeOf(got) != "SentInClear" || trustOf(got)["color"] != "red" {
					t.Errorf("%s: shown with %v", kind, trustOf(got))
				}
				if contentOf(got)["m.relates_to"] != nil {
					t.Errorf("%s: it is an edit still", kind)
				}
				if inClear == trustcache.InClearWithhold && (holds(got, "forged") || holds(got, "* forged")) {
					t.Errorf("%s: shown as %v", kind, got)
				}
			}
			// What is never encrypted is not marked.
			for _, ev := range []liar.Event{
				{Type: "m.reaction", Content: json.RawMessage(`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x","key":"y"}}`)},
				{Type: "m.room.name", StateKey: &key, Content: json.RawMessage(`{"name":"the room"}`)},
			} {
				ev.Sender = bob.UserID
				event := st.hs.Inject(room, ev)
				st.sync()
				if got := st.shown[event]; got == nil || trustOf(got) != nil {
					t.Errorf("%s: shown as %v", ev.Type, got)
				}
			}
		})
	}
}

// Reported: messages from before a room was encrypted are said to be "in clear although the
// room is", and a policy that holds such messages back takes people's history from them. What
// is known to be older is as it was; where it cannot be told, it is marked and shown, by any
// policy; what is newer is judged by the policy.
func TestMessagesFromBeforeEncryption(t *testing.T) {
	t.Parallel()
	for name, inClear := range map[string]trustcache.InClear{"marked": trustcache.InClearMark, "held back": trustcache.InClearWithhold} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, func(o *e2ee.Options) {
				o.Policy = func() trustcache.Policy {
					return trustcache.Policy{InClear: inClear, Withheld: trustcache.WithheldHide}
				}
			})
			room, bob, _ := hear(t, st)
			for order, want := range map[e2ee.Order]struct {
				code string
				held bool
			}{
				e2ee.OrderBefore:  {"", false},
				e2ee.OrderUnknown: {"SentInClear", false},
				e2ee.OrderAfter:   {"SentInClear", inClear == trustcache.InClearWithhold},
			} {
				raw := json.RawMessage(`{"type":"m.room.message","event_id":"$old","sender":"` + bob.UserID + `","content":{"body":"long ago"}}`)
				all, err := st.dev.Open(t.Context(), []e2ee.Incoming{{RoomID: id.RoomID(room), Event: raw, Order: order}})
				if err != nil {
					t.Fatal(err)
				}
				got := all[0]
				ev := readShown(t, got.Event)
				if ev.Unsigned.Trust.Code != want.code || got.Hidden != want.held || (ev.Content.Body == "long ago") == want.held {
					t.Errorf("order %d: hidden %v, %s", order, got.Hidden, got.Event)
				}
			}
		})
	}
}
