package filter

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"
)

// Requirement 19.12: what goes upstream lets everything pass that the proxy needs.
func TestFilterIsWidened(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, filter, incremental, initial string }{
		{"nothing is limited", `{"presence":{"types":[]},"room":{"timeline":{"limit":20},"state":{"lazy_load_members":true},"ephemeral":{"not_types":["*"]}}}`, "", ""},
		{
			"timeline types", `{"room":{"timeline":{"types":["m.room.message"],"limit":5}}}`,
			`{"room":{"timeline":{"limit":5,"types":["m.room.message","m.room.encrypted","m.room.encryption","m.room.history_visibility","m.room.member"]}}}`,
			`{"room":{"timeline":{"limit":5,"types":["m.room.message","m.room.encrypted","m.room.encryption","m.room.history_visibility"]}}}`,
		},
		{
			"the control room", `{"room":{"rooms":["!c:e2ee-proxy.invalid"],"timeline":{"not_rooms":["!a:hs","!c:e2ee-proxy.invalid"]},"ephemeral":{"rooms":["!c:e2ee-proxy.invalid"]},"account_data":{"rooms":["!a:hs"]}}}`,
			`{"room":{"account_data":{"rooms":["!a:hs"]},"ephemeral":{"rooms":[]},"timeline":{}}}`,
			`{"room":{"account_data":{"rooms":["!a:hs"]},"ephemeral":{"rooms":[]},"rooms":[],"timeline":{"not_rooms":["!a:hs"]}}}`,
		},
		{
			"patterns that let some pass", `{"room":{"timeline":{"types":["m.room.*"]},"state":{"types":["m.room.e*","m.room.member"]}}}`,
			`{"room":{"state":{"types":["m.room.e*","m.room.member","m.room.encryption","m.room.history_visibility"]},"timeline":{"types":["m.room.*","m.room.encrypted","m.room.encryption","m.room.history_visibility","m.room.member"]}}}`,
			`{"room":{"state":{"types":["m.room.e*","m.room.member","m.room.encryption","m.room.history_visibility"]},"timeline":{"types":["m.room.*","m.room.encrypted","m.room.encryption","m.room.history_visibility"]}}}`,
		},
		{
			"no types at all", `{"room":{"state":{"types":[]},"timeline":{"types":[]}}}`,
			`{"room":{"state":{"types":["m.room.encryption","m.room.history_visibility","m.room.member"]},"timeline":{"types":["m.room.encrypted","m.room.encryption","m.room.history_visibility","m.room.member"]}}}`,
			`{"room":{"state":{"types":["m.room.encryption","m.room.history_visibility"]},"timeline":{"types":["m.room.encrypted","m.room.encryption","m.room.history_visibility"]}}}`,
		},
		{
			"everything but (matrix-appservice-bridge)", `{"room":{"state":{"not_types":["*"],"types":["a.invalid.type"]}}}`,
			`{"room":{"state":{"types":["m.room.encryption","m.room.history_visibility","m.room.member"]}}}`,
			`{"room":{"state":{"types":["m.room.encryption","m.room.history_visibility"]}}}`,
		},
		{
			"excluded types", `{"room":{"timeline":{"not_types":["m.room.member","m.sticker","m.room.encr*"]}}}`,
			`{"room":{"timeline":{"not_types":["m.sticker"]}}}`,
			`{"room":{"timeline":{"not_types":["m.room.member","m.sticker"]}}}`,
		},
		{
			"senders", `{"room":{"timeline":{"not_senders":["@me:hs"]},"state":{"senders":["@me:hs"]}}}`,
			`{"room":{"state":{},"timeline":{}}}`, `{"room":{"state":{},"timeline":{}}}`,
		},
		{
			"rooms", `{"room":{"rooms":["!a:hs"],"not_rooms":["!b:hs"],"timeline":{"rooms":["!c:hs"]},"state":{"not_rooms":[]}}}`,
			`{"room":{"state":{},"timeline":{}}}`, "",
		},
		{
			"URLs", `{"room":{"timeline":{"contains_url":true},"state":{"contains_url":false}}}`,
			`{"room":{"state":{},"timeline":{}}}`, `{"room":{"state":{},"timeline":{}}}`,
		},
		{"fields", `{"event_fields":["type"],"x":1}`, `{"x":1}`, `{"x":1}`},
		{"the format of federation", `{"event_format":"federation"}`, `{}`, `{}`},
		{"the format of clients", `{"event_format":"client"}`, "", ""},
		{
			"account data (opsdroid)", `{"account_data":{"types":[]},"room":{"account_data":{"types":[]}}}`,
			`{"account_data":{"types":["m.secret_storage.default_key","m.secret_storage.key.*","m.cross_signing.master","m.cross_signing.self_signing","m.cross_signing.user_signing","m.megolm_backup.v1","m.key_backup","m.push_rules"]},"room":{"account_data":{"types":[]}}}`,
			`{"account_data":{"types":["m.secret_storage.default_key","m.secret_storage.key.*","m.cross_signing.master","m.cross_signing.self_signing","m.cross_signing.user_signing","m.megolm_backup.v1","m.key_backup","m.push_rules"]},"room":{"account_data":{"types":[]}}}`,
		},
		{"account data that is excluded", `{"account_data":{"not_types":["m.secret_storage.key.x","m.direct"]}}`, `{"account_data":{"not_types":["m.direct"]}}`, `{"account_data":{"not_types":["m.direct"]}}`},
		{"unknown members", `{"room":{"timeline":{"not_types":["a"],"org.example":{"a":[1]}},"y":2},"event_fields":[],"x":{}}`, `{"room":{"timeline":{"not_types":["a"],"org.example":{"a":[1]}},"y":2},"x":{}}`, `{"room":{"timeline":{"not_types":["a"],"org.example":{"a":[1]}},"y":2},"x":{}}`},
	} {
		f, err := Parse([]byte(tt.filter))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		for _, w := range []struct {
			initial bool
			want    string
		}{{false, tt.incremental}, {true, tt.initial}} {
			if got := string(f.upstream(w.initial)); got != w.want {
				t.Errorf("%s (initial %v):\n got %s\nwant %s", tt.name, w.initial, got, w.want)
			}
		}
	}
}

func TestFilterThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{
		``, `[]`, `5`, `{`, `{"room":[]}`, `{"room":{"timeline":5}}`, `{"room":{"timeline":{"types":"m.room.message"}}}`,
		`{"room":{"timeline":{"types":[5]}}}`, `{"room":{},"room":{}}`, `{"room":{"timeline":{"types":[],"types":["a"]}}}`,
		`{"event_fields":"type"}`, "{\"x\":\"\xff\"}", `{} {}`, `{"account_data":7}`,
	} {
		if _, err := Parse([]byte(filter)); err == nil {
			t.Errorf("%s was read", filter)
		}
	}
	// Names are case-sensitive: another case is an unknown member, which limits nothing.
	f, err := Parse([]byte(`{"Room":{"timeline":{"types":[]}}}`))
	if err != nil || f.upstream(false) != nil {
		t.Errorf("another case: %v", err)
	}
}

// FuzzFilter: whatever a filter says, its wider form can be read, lets pass what is
// needed, and lets pass everything that the filter lets pass.
func FuzzFilter(f *testing.F) {
	f.Add(`{"room":{"timeline":{"types":["m.room.*"],"not_types":["m.room.m*"],"not_senders":["@a:b"]},"rooms":["!a:b"]}}`, "m.room.message")
	f.Add(`{"room":{"timeline":{"not_types":["*"]},"state":{"types":[]}},"account_data":{"not_types":["m.*"]}}`, "m.room.name")
	f.Fuzz(func(t *testing.T, filter, typ string) {
		narrow, err := Parse([]byte(filter))
		if err != nil {
			return
		}
		raw := narrow.upstream(false)
		if raw == nil {
			raw = []byte(filter)
		}
		wide, err := Parse(raw)
		if err != nil {
			t.Fatalf("%s became %s", filter, raw)
		}
		if again := wide.upstream(false); again != nil {
			t.Fatalf("%s was made wider twice: %s, then %s", filter, raw, again)
		}
		head := func(typ string) Event { return Event{Type: []byte(typ), Sender: []byte("@x:y")} }
		for _, n := range neededTimeline {
			if !wide.WantsRoom("!r:s") || !wide.Timeline().Passes("!r:s", head(n)) {
				t.Fatalf("%s keeps %s away", raw, n)
			}
		}
		for _, n := range neededState {
			if !wide.State().Passes("!r:s", head(n)) {
				t.Fatalf("%s keeps %s away in the state", raw, n)
			}
		}
		for _, part := range [][2]*Events{{narrow.Timeline(), wide.Timeline()}, {narrow.State(), wide.State()}, {narrow.OfAccountData(), wide.OfAccountData()}} {
			if part[0].PassesType([]byte(typ)) && !part[1].PassesType([]byte(typ)) {
				t.Fatalf("%s is narrower than %s for %q", raw, filter, typ)
			}
		}
	})
}

func TestFilterMatches(t *testing.T) {
	t.Parallel()
	event := func(typ, sender string, url bool) Event {
		return Event{Type: []byte(typ), Sender: []byte(sender), HasURL: url}
	}
	text, file := event("m.room.message", "@a:hs", false), event("m.room.message", "@a:hs", true)
	sealed := event("m.room.encrypted", "@b:hs", false)
	for _, tt := range []struct {
		filter string
		event  Event
		room   id.RoomID
		want   bool
	}{
		{`{}`, text, "!a:hs", true},
		{`{"types":["m.room.message"]}`, text, "!a:hs", true},
		{`{"types":["m.room.message"]}`, sealed, "!a:hs", false},
		{`{"types":["m.*"]}`, sealed, "!a:hs", true},
		{`{"types":["*.message"]}`, text, "!a:hs", true},
		{`{"types":["m*message*"]}`, text, "!a:hs", true},
		{`{"types":["m*x*"]}`, text, "!a:hs", false},
		{`{"types":["*"]}`, text, "!a:hs", true},
		{`{"types":[]}`, text, "!a:hs", false},
		{`{"not_types":["m.room.message"]}`, text, "!a:hs", false},
		{`{"types":["m.room.message"],"not_types":["*"]}`, text, "!a:hs", false},
		{`{"senders":["@a:hs"]}`, text, "!a:hs", true},
		{`{"senders":["@a:hs"]}`, sealed, "!a:hs", false},
		{`{"senders":[]}`, text, "!a:hs", false},
		{`{"not_senders":["@a:hs"]}`, text, "!a:hs", false},
		{`{"rooms":["!a:hs"]}`, text, "!a:hs", true},
		{`{"rooms":["!a:hs"]}`, text, "!b:hs", false},
		{`{"not_rooms":["!a:hs"]}`, text, "!a:hs", false},
		{`{"rooms":["!a:hs"],"not_rooms":["!a:hs"]}`, text, "!a:hs", false},
		{`{"contains_url":true}`, text, "!a:hs", false},
		{`{"contains_url":true}`, file, "!a:hs", true},
		{`{"contains_url":false}`, file, "!a:hs", false},
		{`{"contains_url":false}`, text, "!a:hs", true},
	} {
		parsed, err := Parse([]byte(`{"room":{"timeline":` + tt.filter + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := parsed.Timeline().Passes(tt.room, tt.event); got != tt.want {
			t.Errorf("%s: %s of %s passes: %v, want %v", tt.filter, tt.event.Type, tt.event.Sender, got, tt.want)
		}
	}
}

func TestEventFields(t *testing.T) {
	t.Parallel()
	const event = `{"type":"m.room.message","content":{"body":"b","m.relates_to":{"rel_type":"r","event_id":"e"},"a\\b":1},"sender":"@a:hs","unsigned":{"age":1,"dev.e2ee-proxy.trust":{"color":"red"}},"decrypted":true}`
	for _, tt := range []struct {
		fields []string
		want   string
	}{
		{[]string{"type"}, `{"type":"m.room.message","unsigned":{"dev.e2ee-proxy.trust":{"color":"red"}},"decrypted":true}`},
		{[]string{"content"}, `{"content":{"body":"b","m.relates_to":{"rel_type":"r","event_id":"e"},"a\\b":1},"unsigned":{"dev.e2ee-proxy.trust":{"color":"red"}},"decrypted":true}`},
		{[]string{"content.body", "content"}, `{"content":{"body":"b","m.relates_to":{"rel_type":"r","event_id":"e"},"a\\b":1},"unsigned":{"dev.e2ee-proxy.trust":{"color":"red"}},"decrypted":true}`},
		{[]string{"content", "content.body"}, `{"content":{"body":"b","m.relates_to":{"rel_type":"r","event_id":"e"},"a\\b":1},"unsigned":{"dev.e2ee-proxy.trust":{"color":"red"}},"decrypted":true}`},
		{[]string{`content.m\.relates_to.rel_type`, `content.a\\b`}, `{"content":{"m.relates_to":{"rel_type":"r"},"a\\b":1},"unsigned":{"dev.e2ee-proxy.trust":{"color":"red"}},"decrypted":true}`},
		{[]string{"unsigned", "sender.x", "nothing"}, `{"unsigned":{"age":1,"dev.e2ee-proxy.trust":{"color":"red"}},"decrypted":true}`},
		{nil, `{"unsigned":{"dev.e2ee-proxy.trust":{"color":"red"}},"decrypted":true}`},
	} {
		got, err := newFields(tt.fields, []string{"decrypted"}, []string{"unsigned", "dev.e2ee-proxy.trust"}).Project([]byte(event))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, string(got)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.fields, diff)
		}
	}
	if _, err := newFields(nil).Project([]byte(`{"type":1,"type":2}`)); err == nil {
		t.Error("an ambiguous event was read")
	}
}

// FuzzPage: whatever a page's filter says, what goes up for it can be read, and lets pass what
// it lets pass and what is needed.
func FuzzPage(f *testing.F) {
	f.Add(`{"types":["m.room.*"],"not_types":["m.room.m*"],"not_senders":["@a:b"],"rooms":["!a:b"],"lazy_load_members":true}`, "m.room.message")
	f.Add(`{"not_types":["*"],"contains_url":true}`, "m.room.name")
	f.Fuzz(func(t *testing.T, filter, typ string) {
		page, err := ParsePage(filter, false)
		if err != nil {
			return
		}
		for _, up := range []string{page.First(), page.Next(), page.Whole()} {
			wide, err := ParsePage(up, false)
			if err != nil {
				t.Fatalf("%s became %s", filter, up)
			}
			of := wide.Shown.Timeline()
			if of.ContainsURL != nil {
				t.Fatalf("%s became %s", filter, up)
			}
			for _, n := range neededPage {
				if !of.PassesType([]byte(n)) {
					t.Fatalf("%s keeps %s away", up, n)
				}
			}
			if page.Shown.Timeline().PassesType([]byte(typ)) && !of.PassesType([]byte(typ)) {
				t.Fatalf("%s is narrower than %s for %q", up, filter, typ)
			}
			if !reflect.DeepEqual(of.Rooms, page.Shown.Timeline().Rooms) {
				t.Fatalf("%s became %s", filter, up)
			}
		}
		if narrow := page.Shown.Timeline(); narrow.Nothing() && narrow.Passes("!r:s", Event{Type: []byte(typ), Sender: []byte("@x:y")}) {
			t.Fatalf("%q passes %s", typ, filter)
		}
	})
}
