package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// What clients show as a message, by the type alone, and what is state that only has to do
// with one. An event of the first kind never goes out in clear in an encrypted room, also
// not with a state key.
func TestMessageTypes(t *testing.T) {
	t.Parallel()
	messages := []string{
		"m.room.message", "m.sticker", "m.room.encrypted", "m.reaction", "m.room.redaction", "m.room.message.feedback",
		"m.key.verification.request", "m.key.verification.start", "m.key.verification.done",
		"m.poll.start", "m.poll.response", "m.poll.end", "org.matrix.msc3381.poll.start", "org.matrix.msc3381.v2.poll.response",
		"m.call.invite", "m.call.candidates", "m.call.answer", "m.call.hangup", "m.call.notify", "org.matrix.call.sdp_stream_metadata_changed",
		"m.beacon", "org.matrix.msc3489.beacon", "org.matrix.msc3672.beacon",
		"m.message", "m.emote", "m.notice", "m.text", "m.location", "m.file", "m.image", "m.image_gallery", "m.video", "m.audio", "m.voice", "m.encrypted",
		"org.matrix.msc1767.message", "org.matrix.msc3246.audio", "org.matrix.msc3488.location", "org.matrix.msc3551.file",
		"org.matrix.msc3552.image", "org.matrix.msc3553.video", "org.matrix.msc3927.audio", "org.matrix.msc3954.emote",
	}
	others := []string{
		"", "m", "m.room", "m.room.messages", "m.room.message.", "M.ROOM.MESSAGE", "m.beacon_info", "m.call.member", "m.call", "m.poll",
		"org.matrix.msc3401.call.member", "org.matrix.msc3489.beacon_info", "org.matrix.msc3672.beacon_info", "org.matrix.msc1767",
		TypeEncryption, TypeVisibility, TypeMember, TypeCreate, "m.room.name", "m.room.topic", "m.room.pinned_events", "m.space.child", "com.example.text",
	}
	for want, types := range map[bool][]string{true: messages, false: others} {
		for _, eventType := range types {
			if MessageType(eventType) != want {
				t.Errorf("%q is a message: %v", eventType, !want)
			}
		}
	}
}

// A reaction that is state, or of which not every member is known, is not plain; one that was
// redacted is, with a state key too.
func TestPlainReactionEvents(t *testing.T) {
	t.Parallel()
	const content = `"content":{"m.relates_to":{"rel_type":"m.annotation","event_id":"$e","key":"+"}}`
	long := strings.Repeat("a", maxClearText)
	custom := func(name, value string) string {
		return `{"content":{"m.relates_to":{"rel_type":"m.annotation","event_id":"$e","key":"mxc://hs/a"},"` + name + `":` + value + `}}`
	}
	for event, want := range map[string]bool{
		`{` + content + `}`:                              true,
		`{"type":"m.reaction"}`:                          true, // redacted in a room version that keeps nothing
		`{"state_key":"a","content":{}}`:                 true,
		`{"state_key":"a",` + content + `}`:              false,
		`{"state_key":"",` + content + `}`:               false,
		`{"content":null}`:                               false,
		`{"content":["text"]}`:                           false,
		`{` + content + `,` + content + `}`:              false,
		`{` + content + `} `:                             true,
		`{` + content + `} text`:                         false,
		``:                                               false,
		`[]`:                                             false,
		custom("shortcode", `":a:"`):                     true,
		custom("shortcode", `"`+long+`"`):                true,
		custom("shortcode", `"`+long+`a"`):               false,
		custom("shortcode", `7`):                         false,
		custom("com.beeper.reaction.shortcode", `":a:"`): true,
		custom("com.beeper.reaction.longcode", `":a:"`):  false,
		strings.Replace(`{`+content+`}`, `"m.annotation"`, `"m.reference"`, 1):                    false,
		strings.Replace(`{`+content+`}`, `"rel_type":"m.annotation",`, ``, 1):                     false,
		strings.Replace(`{`+content+`}`, `"key":"+"`, `"key":"`+long+`"`, 1):                      true,
		strings.Replace(`{`+content+`}`, `"key":"+"`, `"m.in_reply_to":{"event_id":"$e"}`, 1):     false,
		strings.Replace(`{`+content+`}`, `"event_id":"$e"`, `"event_id":"$e","event_id":"$f"`, 1): false,
	} {
		if got := PlainReaction(json.RawMessage(event)); got != want {
			t.Errorf("%s: plain %v", event, got)
		}
	}
}

// A text from the network is cut to a number of bytes, and is valid UTF-8 whatever it was.
func TestTruncate(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text string
		n    int
		want string
	}{
		{"", 5, ""}, {"text", 5, "text"}, {"texts", 5, "texts"}, {"textss", 5, "texts"}, {"text", 0, ""},
		{"aé", 3, "aé"}, {"aéb", 2, "a"}, {"👍", 3, ""}, {"a\xffb", 5, "ab"}, {"\xff", 1, ""},
	} {
		got := Truncate(tc.text, tc.n)
		if got != tc.want || !utf8.ValidString(got) || len(got) > tc.n {
			t.Errorf("%q cut to %d bytes: %q, want %q", tc.text, tc.n, got, tc.want)
		}
	}
}

// Whatever stands in a relation: what is in clear is a relation of known members in known
// forms, nothing of it is clear twice, and what was left out is said.
func FuzzClearRelation(f *testing.F) {
	f.Add([]byte(`{"rel_type":"m.thread","event_id":"$e","is_falling_back":true,"m.in_reply_to":{"event_id":"$f"},"key":"+","body":"text"}`))
	f.Add([]byte(`{"event_id":"$e","event_id":"$f"}`))
	f.Fuzz(func(t *testing.T, relation []byte) {
		clear, more := ClearRelation(relation)
		var before, after map[string]any
		if clear == nil {
			return
		}
		if json.Unmarshal(relation, &before) != nil || json.Unmarshal(clear, &after) != nil {
			t.Fatalf("%q: %q", relation, clear)
		}
		for name := range after {
			switch name {
			case "rel_type", "event_id", "key", "is_falling_back", "m.in_reply_to":
			default:
				t.Errorf("%q: %s is in clear", relation, name)
			}
		}
		if len(after) < len(before) && !more {
			t.Errorf("%q: nobody says that there is more than %q", relation, clear)
		}
		if again, more := ClearRelation(clear); string(again) != string(clear) || more {
			t.Errorf("%q: %q, and then %q", relation, clear, again)
		}
	})
}
