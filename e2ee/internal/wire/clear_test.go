package wire

import (
	"encoding/json"
	"strings"
	"testing"
)

// A reaction in clear that carries more than the reaction is a message in clear.
func TestPlainReactions(t *testing.T) {
	t.Parallel()
	const relation = `"m.relates_to":{"rel_type":"m.annotation","event_id":"$e","key":"+"}`
	for content, want := range map[string]bool{
		`{}`:                 true,
		`{` + relation + `}`: true,
		`{` + relation + `,"shortcode":":plus:"}`:                  true,
		`{` + relation + `,"shortcode":{"a":1}}`:                   false,
		`{` + relation + `,"body":"text"}`:                         false,
		`{` + relation + `,"m.text":[]}`:                           false,
		`{"body":"text"}`:                                          false,
		`{"m.relates_to":"text"}`:                                  false,
		`{"m.relates_to":{}}`:                                      false,
		`{"m.relates_to":{"rel_type":"m.thread","event_id":"$e"}}`: false,
		`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$e","key":"+","body":"text"}}`:                  false,
		`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$e","key":["text"]}}`:                           false,
		`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$e","key":"` + strings.Repeat("a", 256) + `"}}`: false,
		`"text"`: false,
	} {
		if got := PlainReaction(json.RawMessage(`{"type":"m.reaction","content":` + content + `}`)); got != want {
			t.Errorf("%s: %v", content, got)
		}
	}
	if PlainReaction(json.RawMessage(`{"state_key":"","content":{` + relation + `}}`)) {
		t.Error("a reaction that is state")
	}
	for eventType, want := range map[string]bool{
		"m.room.message": true, "m.poll.start": true, "m.call.invite": true, "m.beacon": true,
		"m.beacon_info": false, "m.call.member": false, "m.room.name": false, "m.room.encryption": false,
	} {
		if MessageType(eventType) != want {
			t.Errorf("%s: %v", eventType, !want)
		}
	}
}
