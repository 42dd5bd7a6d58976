package wire

import (
	"encoding/json"
	"strings"
	"testing"
)

// What of a relation stands beside a ciphertext, in clear (requirement 19.1; Client-Server
// API, "Forming relationships between events", "Rich replies", "Threading"): what
// homeservers aggregate by, each member in the form that its name promises. more means that
// there was anything else, which is encrypted then.
func TestClearRelation(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", MaxIDLength)
	for _, tc := range []struct {
		name     string
		relation string
		clear    string // empty: nothing
		more     bool
	}{
		{"an edit", `{"rel_type":"m.replace","event_id":"$e"}`, `{"rel_type":"m.replace","event_id":"$e"}`, false},
		{"a reaction", `{"rel_type":"m.annotation","event_id":"$e","key":"👍"}`, `{"rel_type":"m.annotation","event_id":"$e","key":"👍"}`, false},
		{"a reaction of words", `{"rel_type":"m.annotation","event_id":"$e","key":"two words"}`, `{"rel_type":"m.annotation","event_id":"$e","key":"two words"}`, false},
		{"a reply", `{"m.in_reply_to":{"event_id":"$e"}}`, `{"m.in_reply_to":{"event_id":"$e"}}`, false},
		{
			"a thread, in another order and with an escape", `{"is_falling_back":true,"m.in_reply_to":{"event_id":"$\u0065"},"event_id":"$t","rel_type":"m.thread"}`,
			`{"rel_type":"m.thread","event_id":"$t","is_falling_back":true,"m.in_reply_to":{"event_id":"$e"}}`, false,
		},
		{"a fallback that is false", `{"rel_type":"m.thread","event_id":"$t","is_falling_back":false}`, `{"rel_type":"m.thread","event_id":"$t","is_falling_back":false}`, false},
		{"a fallback that is no word", `{"rel_type":"m.thread","is_falling_back":"text"}`, `{"rel_type":"m.thread"}`, true},
		{"text in a member that nobody knows", `{"rel_type":"m.replace","event_id":"$e","body":"text"}`, `{"rel_type":"m.replace","event_id":"$e"}`, true},
		{"text in a reply", `{"m.in_reply_to":{"event_id":"$e","body":"text"}}`, `{"m.in_reply_to":{"event_id":"$e"}}`, true},
		{"a reply that is text", `{"m.in_reply_to":"text"}`, ``, true},
		{"a reply to nothing", `{"m.in_reply_to":{}}`, ``, true},
		{"a reply whose event ID is text", `{"m.in_reply_to":{"event_id":"text"}}`, ``, true},
		{"an event ID that is text", `{"rel_type":"m.replace","event_id":"text"}`, `{"rel_type":"m.replace"}`, true},
		{"an event ID with text after it", `{"rel_type":"m.replace","event_id":"$e text"}`, `{"rel_type":"m.replace"}`, true},
		{"an event ID with a line", `{"rel_type":"m.replace","event_id":"$e\n"}`, `{"rel_type":"m.replace"}`, true},
		{"an event ID with a delete", `{"rel_type":"m.replace","event_id":"$e\u007f"}`, `{"rel_type":"m.replace"}`, true},
		{"a type that is text", `{"rel_type":"some text","event_id":"$e"}`, `{"event_id":"$e"}`, true},
		{"an empty type", `{"rel_type":"","event_id":"$e"}`, `{"event_id":"$e"}`, true},
		{"a type that is an object", `{"rel_type":{"a":"text"},"event_id":"$e"}`, `{"event_id":"$e"}`, true},
		{"the longest event ID", `{"event_id":"$` + long[1:] + `"}`, `{"event_id":"$` + long[1:] + `"}`, false},
		{"one that is too long", `{"event_id":"$` + long + `"}`, ``, true},
		{"the longest key", `{"key":"` + long + `"}`, `{"key":"` + long + `"}`, false},
		{"a key that is a message", `{"rel_type":"m.annotation","key":"` + long + `a"}`, `{"rel_type":"m.annotation"}`, true},
		{"only what nobody knows", `{"body":"text"}`, ``, true},
		{"an empty relation", `{}`, ``, false},
		{"no object", `"text"`, ``, true},
		{"a list", `[{"rel_type":"m.replace"}]`, ``, true},
		{"the same name twice", `{"event_id":"$e","event_id":"$f"}`, ``, true},
		{"no relation", ``, ``, true},
	} {
		clear, more := ClearRelation(json.RawMessage(tc.relation))
		if string(clear) != tc.clear || more != tc.more {
			t.Errorf("%s: %s, more %v; want %s, %v", tc.name, clear, more, tc.clear, tc.more)
		}
		if again, more := ClearRelation(clear); tc.clear != "" && (string(again) != tc.clear || more) {
			t.Errorf("%s: what is in clear is not all in clear: %s, %v", tc.name, again, more)
		}
	}
}

// Which relation a decrypted event has (requirement 0.3): the one in clear decides, also
// when there is none, and the encrypted one completes it if it is the same. A homeserver
// cannot make a reply of a message, and a sender cannot aggregate by what is hidden.
func TestCompleteRelation(t *testing.T) {
	t.Parallel()
	const edit = `{"rel_type":"m.replace","event_id":"$e"}`
	for _, tc := range []struct {
		name                string
		clear, sealed, want string
	}{
		{"none", ``, ``, ``},
		{"only in clear", edit, ``, edit},
		{"the same twice", edit, edit, edit},
		{"more that is encrypted", edit, `{"rel_type":"m.replace","event_id":"$e","body":"text"}`, `{"rel_type":"m.replace","event_id":"$e","body":"text"}`},
		{"more that is encrypted, in another order", edit, `{"body":"text","event_id":"$e","rel_type":"m.replace"}`, `{"rel_type":"m.replace","event_id":"$e","body":"text"}`},
		{"all of it is encrypted", ``, `{"body":"text"}`, `{"body":"text"}`},
		{"the homeserver took the clear one away", ``, `{"rel_type":"m.replace","event_id":"$e","body":"text"}`, ``},
		{"the homeserver changed the event", `{"rel_type":"m.replace","event_id":"$f"}`, `{"rel_type":"m.replace","event_id":"$e","body":"text"}`, `{"rel_type":"m.replace","event_id":"$f"}`},
		{"the homeserver added one", edit, `{"body":"text"}`, edit},
		{"only in the ciphertext, and nothing to hide", ``, edit, ``},
		{"the encrypted one is no object", edit, `"text"`, edit},
		{"the one in clear is no object", `"text"`, `{"body":"text"}`, ``},
		{"the one in clear has a name twice", `{"event_id":"$e","event_id":"$f"}`, edit, ``},
	} {
		raw := func(s string) json.RawMessage {
			if s == "" {
				return nil
			}
			return json.RawMessage(s)
		}
		if got := CompleteRelation(raw(tc.clear), raw(tc.sealed)); string(got) != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}
