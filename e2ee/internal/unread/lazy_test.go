package unread

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	mautrixevent "maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
	"maunium.net/go/mautrix/pushrules"
)

// generic reads an event as encoding/json does, all of it.
func generic(t testing.TB, raw string) *event {
	t.Helper()
	e := &event{room: room}
	if err := json.Unmarshal([]byte(raw), &e.all); err != nil {
		t.Fatal(err)
	}
	e.all["room_id"] = string(room)
	return e
}

// everyKind is one rule of each kind, and one of each condition, behind which the others stand.
func everyKind() []string {
	condition := func(name, conditions string) string {
		return with("override", fmt.Sprintf(`{"rule_id":%q,"enabled":true,"conditions":[%s],"actions":["notify"]}`, name, conditions))
	}
	return []string{
		defaults,
		condition("match", `{"kind":"event_match","key":"type","pattern":"m.room.*"},{"kind":"event_match","key":"content.msgtype","pattern":"m.text"}`),
		condition("words", `{"kind":"event_match","key":"content.body","pattern":"urgent"}`),
		condition("wildcard", `{"kind":"event_match","key":"content.body","pattern":"dep?oy*"}`),
		condition("room", `{"kind":"event_match","key":"room_id","pattern":"!room:hs"}`),
		condition("is text", `{"kind":"event_property_is","key":"content.com\\.example.kind","value":"alarm"}`),
		condition("is true", `{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true}`),
		condition("is number", `{"kind":"event_property_is","key":"content.level","value":7}`),
		condition("is null", `{"kind":"event_property_is","key":"content.level","value":null}`),
		condition("has text", `{"kind":"event_property_contains","key":"content.tags","value":"ops"}`),
		condition("has number", `{"kind":"event_property_contains","key":"content.tags","value":3}`),
		condition("name", `{"kind":"contains_display_name"}`),
		condition("few", `{"kind":"room_member_count","is":"<3"}`),
		condition("may", `{"kind":"sender_notification_permission","key":"room"}`),
		condition("unknown", `{"kind":"com.example.moon","phase":"full"}`),
		with("content", `{"rule_id":"lunch","enabled":true,"pattern":"lun*","actions":["notify"]}`),
		with("room", `{"rule_id":"!room:hs","enabled":true,"actions":[]}`),
		with("sender", `{"rule_id":"@bob:hs","enabled":true,"actions":["notify"]}`),
		with("underride", `{"rule_id":"last","enabled":true,"conditions":[{"kind":"event_match","key":"type","pattern":"com.example.thing"}],"actions":["notify"]}`),
	}
}

// events are of all the forms that the rules of everyKind look at.
func events() []string {
	return []string{
		message(`{"msgtype":"m.text","body":"how are you today?","m.mentions":{}}`),
		message(`{"msgtype":"m.notice","body":"backup done"}`),
		message(`{"msgtype":"m.emote","body":"is urgent"}`),
		message(`{"msgtype":"m.emote","body":"URGENT: deploy now"}`),
		message(`{"msgtype":"m.emote","body":"deploy now"}`),
		message(`{"msgtype":"m.image","body":"urgently.png"}`),
		message(`{"msgtype":"m.text","body":"for lunch?\n\"me\" \u00e9"}`),
		message(`{"msgtype":"m.text","body":"Meadow says hi"}`),
		message(`{"msgtype":"m.text","body":"Mia, look","m.mentions":{"user_ids":["@me:hs","@x:hs"]}}`),
		message(`{"msgtype":"m.text","body":"Mia, look"}`),
		message(`{"msgtype":"m.text","body":"@room","m.mentions":{"room":true}}`),
		message(`{"msgtype":"m.text","body":"@room"}`),
		message(`{"msgtype":"m.text","body":7,"level":7}`),
		message(`{"level":7.0,"tags":["a","ops"]}`),
		message(`{"level":8.5,"tags":[1,3]}`),
		message(`{"level":null,"tags":"ops"}`),
		message(`{"com.example":{"kind":"alarm"},"tags":[]}`),
		message(`{"com.example":[{"kind":"alarm"}]}`),
		message(`{"m.relates_to":{"rel_type":"m.replace","event_id":"$x"},"body":"* x","m.new_content":{"body":"x"}}`),
		eventOf("m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x","key":"👍"}}`),
		eventOf("m.room.encrypted", `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"AwgA","m.relates_to":{"rel_type":"m.replace"}}`),
		eventOf("m.call.invite", `{}`),
		eventOf("com.example.thing", `{"body":"thing"}`),
		strings.Replace(eventOf("m.room.tombstone", `{}`), `{`, `{"state_key":"",`, 1),
		strings.Replace(eventOf("m.room.member", `{"membership":"invite"}`), `{`, `{"state_key":"@me:hs",`, 1),
		strings.ReplaceAll(message(`{"body":"my own"}`), string(bob), string(me)),
	}
}

// facts that are all known.
func allKnown(members int) facts {
	return facts{user: me, name: "Mia", members: members, power: newPower(json.RawMessage(`{"users":{"@bob:hs":50}}`), nil, "")}
}

// An event whose members are read when a rule looks at them is the same to all rules as one that
// was read as encoding/json does.
func TestLazyEventsAreTheSameToAllRules(t *testing.T) {
	t.Parallel()
	for _, raw := range everyKind() {
		rules, err := Parse(json.RawMessage(raw))
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range events() {
			for _, members := range []int{2, 9} {
				lazy, err := readEvent(room, json.RawMessage(one))
				if err != nil || lazy.all != nil {
					t.Fatalf("%s: %v", one, err)
				}
				f := allKnown(members)
				if got, want := rules.match(lazy, &f), rules.match(generic(t, one), &f); got != want {
					t.Errorf("%s: rule %v, not %v", one, got, want)
				}
			}
		}
	}
}

// mautrixRoom is a room as package pushrules asks for it.
type mautrixRoom int

func (r mautrixRoom) GetOwnDisplayname() string { return "Mia" }
func (r mautrixRoom) GetMemberCount() int       { return int(r) }
func (r mautrixRoom) GetPowerLevels() *mautrixevent.PowerLevelsEventContent {
	return &mautrixevent.PowerLevelsEventContent{Users: map[id.UserID]int{bob: 50}}
}

// mautrix's own evaluation of push rules says the same of every kind of rule and condition. It is
// not asked about the few events of which the specification says something else: it finds a
// pattern in the middle of a word, and one with wildcards in a whole text only.
func TestRulesAreThoseOfMautrix(t *testing.T) {
	t.Parallel()
	matched := make(map[string]bool)
	for _, raw := range everyKind() {
		rules, err := Parse(json.RawMessage(raw))
		if err != nil {
			t.Fatal(err)
		}
		var theirs struct {
			Global *pushrules.PushRuleset `json:"global"`
		}
		if err := json.Unmarshal([]byte(raw), &theirs); err != nil {
			t.Fatal(err)
		}
		for _, one := range events() {
			if strings.Contains(one, "urgently") || strings.Contains(one, "URGENT") || strings.Contains(one, string(me)+`","event_id`) {
				continue
			}
			for _, members := range []mautrixRoom{2, 9} {
				lazy, err := readEvent(room, json.RawMessage(one))
				if err != nil {
					t.Fatal(err)
				}
				var evt mautrixevent.Event
				if err := json.Unmarshal([]byte(one), &evt); err != nil {
					t.Fatal(err)
				}
				evt.RoomID = room
				f, want := allKnown(int(members)), ""
				if rule := theirs.Global.GetMatchingRule(members, &evt); rule != nil {
					want = rule.RuleID
				}
				got := ""
				if rule := rules.match(lazy, &f); rule != nil {
					got = rule.id
					matched[got] = true
				}
				if got != want {
					t.Errorf("%s with %d members: rule %q, mautrix says %q", one, members, got, want)
				}
			}
		}
	}
	for _, name := range []string{"match", "words", "wildcard", "room", "is text", "is true", "is number", "is null", "has text", "has number", "name", "few", "may", "lunch", "!room:hs", "@bob:hs", "last"} {
		if !matched[name] {
			t.Errorf("no event matches rule %q", name)
		}
	}
}

// What strict readers refuse is read as homeservers read it.
func TestBrokenEventsAreReadAsHomeserversReadThem(t *testing.T) {
	t.Parallel()
	e, err := readEvent(room, json.RawMessage(`{"sender":"@x:hs","sender":"@bob:hs","content":{"body":"a","body":"b"}}`))
	if err != nil || e.sender() != bob || e.text(keyText) != "b" || e.text(keyRoom) != string(room) {
		t.Errorf("read as %v, %v", e, err)
	}
	for _, raw := range []string{``, `null`, `[]`, `"x"`, `{`} {
		if _, err := readEvent(room, json.RawMessage(raw)); err == nil {
			t.Errorf("%q is an event", raw)
		}
	}
}

func FuzzLazyEvent(f *testing.F) {
	for _, one := range events() {
		f.Add(one, "content\x00body")
	}
	f.Add(`{"a":{"b":[1,{"c":null}],"d":1e400},"room_id":{"x":1}}`, "room_id\x00x")
	f.Fuzz(func(t *testing.T, raw, path string) {
		lazy, err := readEvent(room, json.RawMessage(raw))
		if err != nil || lazy.all != nil || strings.ContainsAny(raw, "eE") && json.Unmarshal([]byte(raw), new(map[string]any)) != nil {
			return // among them what has a number that is too large
		}
		want := generic(t, raw)
		names := strings.Split(path, "\x00")
		got, ok := lazy.at(key{path, names})
		value, found := want.at(key{path, names})
		if ok != found || !reflect.DeepEqual(got, value) {
			t.Errorf("%q at %q: %v %v, not %v %v", raw, names, got, ok, value, found)
		}
		text, isText := lazy.textAt(key{path, names})
		if other, is := want.textAt(key{path, names}); text != other || isText != is {
			t.Errorf("%q at %q: text %q, not %q", raw, names, text, other)
		}
		if lazy.mentions() != want.mentions() || lazy.sender() != want.sender() {
			t.Errorf("%q: sender %q, not %q", raw, lazy.sender(), want.sender())
		}
	})
}

// Rules are applied to an event of which something is counted until both forms were judged, and to
// no other: not to what stands on a page of history.
func TestRulesWaitForWhatIsCounted(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.sync(1, sent(1), Event{Ref: RefOf(nameOf(2)), At: 2})
	waits := func(n uint32) bool { return s.l.waitsFor(RefOf(nameOf(n))) }
	if !waits(1) || waits(2) || waits(3) {
		t.Errorf("waits for %v, %v, %v; only the first is encrypted and counted", waits(1), waits(2), waits(3))
	}
	s.l.decide(RefOf(nameOf(1)), notifies, nil)
	if !waits(1) {
		t.Error("an event that could not be decrypted is not judged when it can be")
	}
	s.decide(1, highlight)
	if waits(1) {
		t.Error("an event is judged again")
	}
}
