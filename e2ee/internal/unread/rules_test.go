package unread

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"
)

const (
	me   = id.UserID("@me:hs")
	bob  = id.UserID("@bob:hs")
	room = id.RoomID("!room:hs")
)

// defaults are the server-default rules of the specification (Client-Server API, 1.14).
const defaults = `{"global":{
"override":[
 {"rule_id":".m.rule.master","default":true,"enabled":false,"conditions":[],"actions":[]},
 {"rule_id":".m.rule.suppress_notices","default":true,"enabled":true,"conditions":[{"kind":"event_match","key":"content.msgtype","pattern":"m.notice"}],"actions":[]},
 {"rule_id":".m.rule.invite_for_me","default":true,"enabled":true,"conditions":[{"key":"type","kind":"event_match","pattern":"m.room.member"},{"key":"content.membership","kind":"event_match","pattern":"invite"},{"key":"state_key","kind":"event_match","pattern":"@me:hs"}],"actions":["notify",{"set_tweak":"sound","value":"default"}]},
 {"rule_id":".m.rule.member_event","default":true,"enabled":true,"conditions":[{"key":"type","kind":"event_match","pattern":"m.room.member"}],"actions":[]},
 {"rule_id":".m.rule.is_user_mention","default":true,"enabled":true,"conditions":[{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":"@me:hs"}],"actions":["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]},
 {"rule_id":".m.rule.contains_display_name","default":true,"enabled":true,"conditions":[{"kind":"contains_display_name"}],"actions":["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]},
 {"rule_id":".m.rule.is_room_mention","default":true,"enabled":true,"conditions":[{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true},{"kind":"sender_notification_permission","key":"room"}],"actions":["notify",{"set_tweak":"highlight"}]},
 {"rule_id":".m.rule.roomnotif","default":true,"enabled":true,"conditions":[{"kind":"event_match","key":"content.body","pattern":"@room"},{"kind":"sender_notification_permission","key":"room"}],"actions":["notify",{"set_tweak":"highlight"}]},
 {"rule_id":".m.rule.tombstone","default":true,"enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":"m.room.tombstone"},{"kind":"event_match","key":"state_key","pattern":""}],"actions":["notify",{"set_tweak":"highlight"}]},
 {"rule_id":".m.rule.reaction","default":true,"enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":"m.reaction"}],"actions":[]},
 {"rule_id":".m.rule.room.server_acl","default":true,"enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":"m.room.server_acl"},{"kind":"event_match","key":"state_key","pattern":""}],"actions":[]},
 {"rule_id":".m.rule.suppress_edits","default":true,"enabled":true,"conditions":[{"kind":"event_property_is","key":"content.m\\.relates_to.rel_type","value":"m.replace"}],"actions":[]}
],
"content":[{"rule_id":".m.rule.contains_user_name","default":true,"enabled":true,"pattern":"me","actions":["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]}],
"room":[],"sender":[],
"underride":[
 {"rule_id":".m.rule.call","default":true,"enabled":true,"conditions":[{"key":"type","kind":"event_match","pattern":"m.call.invite"}],"actions":["notify",{"set_tweak":"sound","value":"ring"}]},
 {"rule_id":".m.rule.encrypted_room_one_to_one","default":true,"enabled":true,"conditions":[{"kind":"room_member_count","is":"2"},{"kind":"event_match","key":"type","pattern":"m.room.encrypted"}],"actions":["notify",{"set_tweak":"sound","value":"default"}]},
 {"rule_id":".m.rule.room_one_to_one","default":true,"enabled":true,"conditions":[{"kind":"room_member_count","is":"2"},{"kind":"event_match","key":"type","pattern":"m.room.message"}],"actions":["notify",{"set_tweak":"sound","value":"default"}]},
 {"rule_id":".m.rule.message","default":true,"enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":"m.room.message"}],"actions":["notify"]},
 {"rule_id":".m.rule.encrypted","default":true,"enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":"m.room.encrypted"}],"actions":["notify"]}
]}}`

// with returns the default rules with more of a kind in front.
func with(kind, rule string) string {
	return strings.ReplaceAll(strings.Replace(defaults, `"`+kind+`":[`, `"`+kind+`":[`+rule+`,`, 1), `,]`, `]`)
}

// message is an event of Bob's.
func message(content string) string { return eventOf("m.room.message", content) }

func eventOf(kind, content string) string {
	return fmt.Sprintf(`{"type":%q,"sender":%q,"event_id":"$e","content":%s}`, kind, bob, content)
}

var (
	nothing   = Outcome{}
	notifies  = Outcome{Notify: true}
	highlight = Outcome{Notify: true, Highlight: true}
)

func TestRules(t *testing.T) {
	t.Parallel()
	const (
		keyword   = `{"rule_id":"k","enabled":true,"pattern":"ca*e","actions":["notify",{"set_tweak":"highlight"}]}`
		quiet     = `{"rule_id":"!room:hs","enabled":true,"actions":[]}`
		quietOld  = `{"rule_id":"!room:hs","enabled":true,"actions":["dont_notify"]}`
		muted     = `{"rule_id":"@bob:hs","enabled":true,"actions":[]}`
		poll      = `{"rule_id":"poll","enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":"m.poll.start"}],"actions":["notify"]}`
		soundOnly = `{"rule_id":"x","enabled":true,"conditions":[],"actions":[{"set_tweak":"highlight"}]}`
	)
	for _, tt := range []struct {
		name, rules, event string
		want               Outcome
	}{
		{"a message", defaults, message(`{"msgtype":"m.text","body":"hello"}`), notifies},
		{"a notice", defaults, message(`{"msgtype":"m.notice","body":"hello"}`), nothing},
		{"the own message", defaults, strings.Replace(message(`{"body":"me"}`), string(bob), string(me), 1), nothing},
		{"an emote with the name of the user", defaults, message(`{"msgtype":"m.emote","body":"greets Me."}`), highlight},
		{"a mention", defaults, message(`{"body":"x","m.mentions":{"user_ids":["@me:hs"]}}`), highlight},
		{"a mention of others", defaults, message(`{"body":"x","m.mentions":{"user_ids":["@other:hs"]}}`), notifies},
		{"mentions are compared as they are", defaults, message(`{"body":"x","m.mentions":{"user_ids":["@ME:hs"]}}`), notifies},
		{"mentions that are no list", defaults, message(`{"body":"x","m.mentions":{"user_ids":"@me:hs"}}`), notifies},
		{"the name, and no mention of the user", defaults, message(`{"body":"Mimi and me","m.mentions":{}}`), notifies},
		{"the display name, other case", defaults, message(`{"body":"hey, mimi!"}`), highlight},
		{"the display name in a word", defaults, message(`{"body":"Mimicry"}`), notifies},
		{"the display name twice, a word the second time", defaults, message(`{"body":"mimimi mimi"}`), highlight},
		{"an edit with a mention of before", defaults, message(`{"body":"* x","m.mentions":{},"m.new_content":{"body":"x"},"m.relates_to":{"rel_type":"m.replace","event_id":"$o"}}`), nothing},
		{"an edit with a mention", defaults, message(`{"body":"* x","m.mentions":{"user_ids":["@me:hs"]},"m.relates_to":{"rel_type":"m.replace","event_id":"$o"}}`), highlight},
		{"a reaction", defaults, eventOf("m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$o","key":"me"}}`), nothing},
		{"an invite", defaults, `{"type":"m.room.member","sender":"@bob:hs","state_key":"@me:hs","content":{"membership":"invite"}}`, notifies},
		{"a join", defaults, `{"type":"m.room.member","sender":"@bob:hs","state_key":"@bob:hs","content":{"membership":"join"}}`, nothing},
		{"the end of a room", defaults, `{"type":"m.room.tombstone","sender":"@bob:hs","state_key":"","content":{}}`, highlight},
		{"a call", defaults, eventOf("m.call.invite", `{}`), notifies},
		{"a call's candidates", defaults, eventOf("m.call.candidates", `{}`), nothing},
		{"ciphertext", defaults, eventOf("m.room.encrypted", `{"ciphertext":"me"}`), notifies},
		{"ciphertext of an edit", defaults, eventOf("m.room.encrypted", `{"m.relates_to":{"rel_type":"m.replace","event_id":"$o"}}`), nothing},
		{"a sticker", defaults, eventOf("m.sticker", `{"body":"x"}`), nothing},
		{"a poll", defaults, eventOf("m.poll.start", `{}`), nothing},
		{"a poll, where there is a rule for it", with("underride", poll), eventOf("m.poll.start", `{}`), notifies},
		{"a type that begins like another", defaults, eventOf("m.room.message.more", `{}`), nothing},
		{"a keyword", with("content", keyword), message(`{"body":"a CASE of"}`), highlight},
		{"a keyword over a line", with("content", keyword), message(`{"body":"ca\nse"}`), highlight},
		{"a keyword in a word", with("content", keyword), message(`{"body":"lacase"}`), notifies},
		{"a keyword beside a letter that is none of ASCII", with("content", keyword), message(`{"body":"écase"}`), highlight},
		{"a keyword where there are mentions", with("content", keyword), message(`{"body":"case","m.mentions":{}}`), highlight},
		{"a body that is no text", with("content", keyword), message(`{"body":["case"]}`), notifies},
		{"a quiet room", with("room", quiet), message(`{"body":"x"}`), nothing},
		{"a quiet room, as of old", with("room", quietOld), message(`{"body":"x"}`), nothing},
		{"a quiet room with a mention", with("room", quiet), message(`{"body":"x","m.mentions":{"user_ids":["@me:hs"]}}`), highlight},
		{"a muted sender", with("sender", muted), message(`{"body":"x"}`), nothing},
		{"everything off", strings.Replace(defaults, `"enabled":false`, `"enabled":true`, 1), message(`{"body":"me","m.mentions":{"user_ids":["@me:hs"]}}`), nothing},
		{"a highlight without a notification", with("override", soundOnly), message(`{"body":"x"}`), nothing},
		{"no rules at all", `{"global":{}}`, message(`{"body":"x"}`), nothing},
		{"no rules, a mention", `{"global":{}}`, message(`{"body":"x","m.mentions":{"user_ids":["@me:hs"]}}`), highlight},
		{"a level that is asked for and low", defaults, message(`{"body":"@room"}`), notifies},
	} {
		rules, err := ForClear(json.RawMessage(tt.rules), me)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		e, err := readEvent(room, json.RawMessage(tt.event))
		if err != nil {
			t.Fatal(err)
		}
		found, lacks := rules.apply(e, facts{user: me, name: "Mimi", members: -1, power: &power{}})
		if got := found.result(); got != tt.want || lacks != 0 {
			t.Errorf("%s: %+v, want %+v; lacks %d", tt.name, got, tt.want, lacks)
		}
	}
}

// Conditions as the specification has them, one by one.
func TestConditions(t *testing.T) {
	t.Parallel()
	const event = `{"type":"m.x","sender":"@bob:hs","state_key":"s","content":{"a":1,"b":null,"c":[1,"x",true,null],"d":{"e.f":"g"},"h":"Word","t":true,"body":"one two_three"}}`
	for _, tt := range []struct {
		condition string
		members   int
		want      bool
	}{
		{`{"kind":"event_match","key":"type","pattern":"M.X"}`, 0, true},
		{`{"kind":"event_match","key":"type","pattern":"m."}`, 0, false},
		{`{"kind":"event_match","key":"type","pattern":"m?x"}`, 0, true},
		{`{"kind":"event_match","key":"type","pattern":"*"}`, 0, true},
		{`{"kind":"event_match","key":"room_id","pattern":"!room:hs"}`, 0, true},
		{`{"kind":"event_match","key":"sender","pattern":"@bob*"}`, 0, true},
		{`{"kind":"event_match","key":"state_key","pattern":"s"}`, 0, true},
		{`{"kind":"event_match","key":"content.a","pattern":"1"}`, 0, false},
		{`{"kind":"event_match","key":"content.h","pattern":"ord"}`, 0, false},
		{`{"kind":"event_match","key":"content.d.e\\.f","pattern":"g"}`, 0, true},
		{`{"kind":"event_match","key":"content.d.e.f","pattern":"g"}`, 0, false},
		{`{"kind":"event_match","key":"content.body","pattern":"two"}`, 0, false},
		{`{"kind":"event_match","key":"content.body","pattern":"two*"}`, 0, true},
		{`{"kind":"event_match","key":"content.body","pattern":"(one)"}`, 0, false},
		{`{"kind":"event_match","key":"content.none","pattern":"*"}`, 0, false},
		{`{"kind":"event_match","key":"content.h"}`, 0, false},
		{`{"kind":"event_property_is","key":"content.a","value":1}`, 0, true},
		{`{"kind":"event_property_is","key":"content.a","value":"1"}`, 0, false},
		{`{"kind":"event_property_is","key":"content.a","value":true}`, 0, false},
		{`{"kind":"event_property_is","key":"content.b","value":null}`, 0, true},
		{`{"kind":"event_property_is","key":"content.none","value":null}`, 0, false},
		{`{"kind":"event_property_is","key":"content.h","value":"word"}`, 0, false},
		{`{"kind":"event_property_is","key":"content.c","value":[1,"x",true,null]}`, 0, false},
		{`{"kind":"event_property_contains","key":"content.c","value":1}`, 0, true},
		{`{"kind":"event_property_contains","key":"content.c","value":"x"}`, 0, true},
		{`{"kind":"event_property_contains","key":"content.c","value":null}`, 0, true},
		{`{"kind":"event_property_contains","key":"content.c","value":"X"}`, 0, false},
		{`{"kind":"event_property_contains","key":"content.h","value":"Word"}`, 0, false},
		{`{"kind":"room_member_count","is":"2"}`, 2, true},
		{`{"kind":"room_member_count","is":"==2"}`, 3, false},
		{`{"kind":"room_member_count","is":">2"}`, 3, true},
		{`{"kind":"room_member_count","is":">=2"}`, 2, true},
		{`{"kind":"room_member_count","is":"<2"}`, 2, false},
		{`{"kind":"room_member_count","is":"<=2"}`, 2, true},
		{`{"kind":"room_member_count","is":"two"}`, 2, false},
		{`{"kind":"sender_notification_permission","key":"room"}`, 0, false},
		{`{"kind":"contains_display_name"}`, 0, false},
		{`{"kind":"org.example.none"}`, 0, false},
		{`{"kind":5}`, 0, false},
		{`null`, 0, false},
		{`7`, 0, false},
	} {
		rules, err := Parse(json.RawMessage(`{"global":{"override":[null,{"rule_id":"x","enabled":true,"actions":["notify"],"conditions":[` + tt.condition + `]}]}}`))
		if err != nil {
			t.Fatal(err)
		}
		e, err := readEvent(room, json.RawMessage(event))
		if err != nil {
			t.Fatal(err)
		}
		found, _ := rules.apply(e, facts{user: me, name: " ", members: tt.members, power: &power{}})
		if got := found.result().Notify; got != tt.want {
			t.Errorf("%s: %v", tt.condition, got)
		}
	}
}

// What is not known is asked for only if something depends on it.
func TestRulesAskOnlyForWhatMatters(t *testing.T) {
	t.Parallel()
	groups := strings.Replace(defaults, `"rule_id":".m.rule.message","default":true,"enabled":true`, `"rule_id":".m.rule.message","default":true,"enabled":false`, 1)
	for _, tt := range []struct {
		name, rules, event string
		want               need
	}{
		{"both kinds of rooms notify", defaults, message(`{"body":"x"}`), 0},
		{"only direct chats notify", groups, message(`{"body":"x"}`), needsMembers},
		{"only direct chats notify, a mention", groups, message(`{"body":"x","m.mentions":{"user_ids":["@me:hs"]}}`), 0},
		{"the whole room is mentioned", defaults, message(`{"body":"x","m.mentions":{"room":true}}`), needsPower},
		{"the whole room is mentioned, as of old", defaults, message(`{"body":"@room x"}`), needsPower},
		{"the user too", defaults, message(`{"body":"x","m.mentions":{"room":true,"user_ids":["@me:hs"]}}`), 0},
	} {
		rules, err := ForClear(json.RawMessage(tt.rules), me)
		if err != nil {
			t.Fatal(err)
		}
		e, err := readEvent(room, json.RawMessage(tt.event))
		if err != nil {
			t.Fatal(err)
		}
		if _, lacks := rules.apply(e, facts{user: me, members: -1}); lacks&tt.want != tt.want || tt.want == 0 && lacks != 0 {
			t.Errorf("%s: asks for %d, want %d", tt.name, lacks, tt.want)
		}
	}
}

func TestPower(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, levels, create string
		creator              id.UserID
		want                 bool
	}{
		{"no levels", ``, `{"room_version":"10"}`, "", false},
		{"no levels, the creator", ``, `{"room_version":"10","creator":"@bob:hs"}`, "", true},
		{"levels without the user", `{"users":{"@x:hs":100}}`, `{"creator":"@bob:hs"}`, "", false},
		{"the default of all", `{"users_default":50}`, `{}`, "", true},
		{"enough", `{"users":{"@bob:hs":50}}`, `{}`, "", true},
		{"a text, as of old", `{"users":{"@bob:hs":"50"}}`, `{}`, "", true},
		{"not enough for this room", `{"users":{"@bob:hs":50},"notifications":{"room":51}}`, `{}`, "", false},
		{"everybody may", `{"notifications":{"room":0}}`, `{}`, "", true},
		{"a creator of version 12", `{"users":{}}`, `{"room_version":"12"}`, bob, true},
		{"another creator of version 12", `{"users":{}}`, `{"room_version":"12","additional_creators":["@bob:hs"]}`, "@x:hs", true},
		{"not in version 11", `{"users":{}}`, `{"room_version":"11","additional_creators":["@bob:hs"]}`, "@x:hs", false},
		{"unreadable", `[]`, `7`, "", false},
	} {
		if got := newPower(json.RawMessage(tt.levels), json.RawMessage(tt.create), tt.creator).mayNotify(bob, "room"); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// Rules that cannot be read are none: then everything counts as the homeserver counts it.
func TestRulesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{``, `[]`, `{}`, `{"global":7}`, `{"global":null}`, `{"global":{"override":{}}}`} {
		if _, err := Parse(json.RawMessage(raw)); err == nil {
			t.Errorf("%s was read", raw)
		}
	}
}

// FuzzRules: whatever a homeserver says of rules, and whoever sends an event, nothing fails.
func FuzzRules(f *testing.F) {
	f.Add(defaults, message(`{"body":"me"}`))
	f.Add(`{"global":{"override":[null,{"conditions":[null]}],"room":[{"rule_id":7}]}}`, `{"content":[]}`)
	f.Fuzz(func(_ *testing.T, raw, event string) {
		rules, err := ForClear(json.RawMessage(raw), me)
		e, bad := readEvent(room, json.RawMessage(event))
		if err == nil && bad == nil {
			rules.apply(e, facts{user: me, name: "n", members: -1})
		}
	})
}

// An account may have any number of rules, and a homeserver invents more: what is kept of them
// is bounded, and the rest still counts.
func TestRulesAreBounded(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 3 * maxRulesOf {
		many = append(many, fmt.Sprintf(`{"rule_id":"%d","enabled":true,"pattern":"w%d*","actions":["notify"]}`, i, i))
	}
	rules, err := Parse(json.RawMessage(with("content", strings.Join(many, ","))))
	if err != nil {
		t.Fatal(err)
	}
	compiled := 0
	for i := range rules.all {
		for _, c := range rules.all[i].conditions {
			if _, ok := c.(matches); ok {
				compiled++
			}
		}
	}
	if compiled > maxPatterns || len(rules.all) > maxRulesOf {
		t.Errorf("%d rules, %d patterns", len(rules.all), compiled)
	}
	e, err := readEvent(room, json.RawMessage(message(`{"body":"x"}`)))
	if err != nil {
		t.Fatal(err)
	}
	if found, _ := rules.apply(e, facts{user: me, members: 3}); found.result() != notifies {
		t.Errorf("a message: %+v", found.result())
	}
}
