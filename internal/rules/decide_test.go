package rules_test

import (
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
)

const (
	alice = id.UserID("@alice:corp.example")
	bob   = id.UserID("@bob:corp.example")
	paula = id.UserID("@paula:partner.example")
	eve   = id.UserID("@eve:evil.example")
)

func compile(t testing.TB, groups []rules.Group, list ...rules.Rule) *rules.Set {
	t.Helper()
	set, problems := rules.Compile(list, groups)
	for _, p := range problems {
		t.Error(p)
	}
	if set == nil {
		t.FailNow()
	}
	return set
}

func deny(name string, when rules.When) rules.Rule {
	return rules.Rule{Name: name, Effect: "deny", When: when, Reason: "Because of " + name + "."}
}

func allow(name string, when rules.When) rules.Rule {
	return rules.Rule{Name: name, Effect: "allow", When: when}
}

// room is one of which everything is known.
func room(roomID id.RoomID, joinRule, history string, aliases ...string) *rules.Room {
	return &rules.Room{
		ID: roomID, State: &rules.RoomState{JoinRule: joinRule, HistoryVisibility: history, Aliases: aliases},
		Servers: []string{"corp.example", "partner.example"}, MembersKnown: true,
	}
}

// Every condition holds for what it names and for nothing else.
func TestConditions(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	private, public := room("!fin:corp.example", "invite", "shared", "#finance:corp.example"), room("!pub:corp.example", "public", "shared")
	open := room("!open:corp.example", "invite", "world_readable")
	groups := []rules.Group{{Name: "staff", Users: []string{"@*:corp.example"}}, {Name: "board", Users: []string{"@alice:corp.example"}}}
	key := func(user id.UserID, device rules.Device, in *rules.Room) rules.Question {
		return rules.Question{Direction: rules.SendKey, Account: alice, User: user, Device: device, Room: in}
	}
	message := rules.Question{Direction: rules.ShowMessage, Account: bob, User: paula, Device: rules.DeviceUnproven, Room: private}
	secret := rules.Question{Direction: rules.Secret, Account: alice, User: alice, Device: rules.DeviceVerified}
	toPaula, toBob := key(paula, rules.DeviceConfirmed, private), key(bob, rules.DeviceVerified, private)
	for name, test := range map[string]struct {
		when    rules.When
		holds   []rules.Question
		fails   []rules.Question
		unknown []rules.Question // asks for what is not known
	}{
		"nothing":   {holds: []rules.Question{toPaula, message, secret}},
		"direction": {when: rules.When{Direction: []string{"show_message", "secret"}}, holds: []rules.Question{message, secret}, fails: []rules.Question{toPaula}},
		"account":   {when: rules.When{Account: []string{"@alice:*"}}, holds: []rules.Question{toPaula, secret}, fails: []rules.Question{message}},
		"group":     {when: rules.When{Group: []string{"board"}}, holds: []rules.Question{toPaula}, fails: []rules.Question{message}},
		"user":      {when: rules.When{User: []string{"@paula:partner.example", "@eve:*"}}, holds: []rules.Question{toPaula, message}, fails: []rules.Question{toBob, secret}},
		"user group": {
			when: rules.When{UserGroup: []string{"staff"}}, holds: []rules.Question{toBob, secret}, fails: []rules.Question{toPaula, message},
		},
		"server": {
			when: rules.When{Server: []string{"partner.*"}}, holds: []rules.Question{toPaula, message}, fails: []rules.Question{toBob, key(eve, rules.DeviceConfirmed, private)},
		},
		"device verified": {when: rules.When{Device: []string{"verified"}}, holds: []rules.Question{toBob, secret}, fails: []rules.Question{toPaula, message}},
		"device confirmed": {
			when: rules.When{Device: []string{"confirmed"}}, holds: []rules.Question{toBob, toPaula}, fails: []rules.Question{message, key(bob, rules.DeviceException, private)},
			unknown: []rules.Question{key(bob, rules.DeviceUnknown, private)},
		},
		"device exception": {
			when: rules.When{Device: []string{"exception", "unconfirmed"}}, holds: []rules.Question{key(bob, rules.DeviceException, private), key(bob, rules.DeviceUnconfirmed, private)},
			fails: []rules.Question{toBob, toPaula, message},
		},
		"room by ID":    {when: rules.When{Room: []string{"!fin:*"}}, holds: []rules.Question{toPaula, message, key(bob, rules.DeviceConfirmed, &rules.Room{ID: "!fin:corp.example"})}, fails: []rules.Question{key(bob, rules.DeviceConfirmed, public), secret}},
		"room by alias": {when: rules.When{Room: []string{"#fin*:corp.example"}}, holds: []rules.Question{toPaula}, fails: []rules.Question{key(bob, rules.DeviceConfirmed, public), secret}, unknown: []rules.Question{key(bob, rules.DeviceConfirmed, &rules.Room{ID: "!fin:corp.example"})}},
		"room public":   {when: rules.When{RoomPublic: &yes}, holds: []rules.Question{key(bob, rules.DeviceConfirmed, public), key(bob, rules.DeviceConfirmed, open)}, fails: []rules.Question{toPaula, secret}, unknown: []rules.Question{key(bob, rules.DeviceConfirmed, &rules.Room{ID: "!x"})}},
		"room private":  {when: rules.When{RoomPublic: &no}, holds: []rules.Question{toPaula}, fails: []rules.Question{key(bob, rules.DeviceConfirmed, public), secret}},
		"join rule":     {when: rules.When{JoinRule: []string{"public", "knock"}}, holds: []rules.Question{key(bob, rules.DeviceConfirmed, public)}, fails: []rules.Question{toPaula}, unknown: []rules.Question{key(bob, rules.DeviceConfirmed, &rules.Room{ID: "!x"})}},
		"history":       {when: rules.When{HistoryVisibility: []string{"world_readable"}}, holds: []rules.Question{key(bob, rules.DeviceConfirmed, open)}, fails: []rules.Question{toPaula}, unknown: []rules.Question{key(bob, rules.DeviceConfirmed, &rules.Room{ID: "!x"})}},
		"member":        {when: rules.When{MemberServer: []string{"partner.example"}}, holds: []rules.Question{toBob}, fails: []rules.Question{key(bob, rules.DeviceConfirmed, &rules.Room{ID: "!x", MembersKnown: true, Servers: []string{"corp.example"}})}, unknown: []rules.Question{key(bob, rules.DeviceConfirmed, &rules.Room{ID: "!x"})}},
		"all of them": {
			when: rules.When{Server: []string{"partner.example"}, RoomPublic: &no}, holds: []rules.Question{toPaula}, fails: []rules.Question{toBob, key(bob, rules.DeviceConfirmed, &rules.Room{ID: "!x"})},
			unknown: []rules.Question{key(paula, rules.DeviceConfirmed, &rules.Room{ID: "!x"})},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			denies, allows := compile(t, groups, deny("a-rule", test.when)), compile(t, groups, allow("a-rule", test.when))
			check := func(set *rules.Set, q *rules.Question, want rules.Answer) {
				t.Helper()
				if got := set.Decide(q); got != want {
					t.Errorf("%+v: got %+v, want %+v", *q, got, want)
				}
			}
			for _, q := range test.holds {
				check(denies, &q, rules.Answer{Rule: "a-rule", Reason: "Because of a-rule."})
				check(allows, &q, rules.Answer{Effect: rules.Allow, Rule: "a-rule"})
			}
			for _, q := range test.fails {
				check(denies, &q, rules.Answer{Effect: rules.Allow})
				check(allows, &q, rules.Answer{Effect: rules.Allow})
			}
			for _, q := range test.unknown {
				check(denies, &q, rules.Answer{Rule: "a-rule", Reason: "Because of a-rule.", Failed: true})
				got := allows.Decide(&q)
				if got.Effect != rules.Deny || !got.Failed || got.Rule != "a-rule" || got.Reason == "" {
					t.Errorf("%+v is not known, and was answered with %+v", q, got)
				}
			}
		})
	}
}

func TestFirstMatchDecides(t *testing.T) {
	t.Parallel()
	set := compile(t, nil,
		allow("own-people", rules.When{Server: []string{"corp.example"}}),
		deny("outsiders", rules.When{Direction: []string{"send_key"}, Room: []string{"!fin:corp.example"}}),
		allow("partners", rules.When{Server: []string{"partner.example"}}),
		deny("everybody-else", rules.When{}),
	)
	for _, test := range []struct {
		user id.UserID
		room id.RoomID
		want string
	}{
		{bob, "!fin:corp.example", "own-people"},
		{paula, "!fin:corp.example", "outsiders"},
		{paula, "!other:corp.example", "partners"},
		{eve, "!other:corp.example", "everybody-else"},
	} {
		got := set.Decide(&rules.Question{Direction: rules.SendKey, Account: alice, User: test.user, Device: rules.DeviceConfirmed, Room: &rules.Room{ID: test.room}})
		if got.Rule != test.want {
			t.Errorf("%s in %s: %s decided, want %s", test.user, test.room, got.Rule, test.want)
		}
	}
	if want := []string{"own-people", "outsiders", "partners", "everybody-else"}; fmt.Sprint(set.Names()) != fmt.Sprint(want) {
		t.Errorf("the names are %v", set.Names())
	}
}

// Attack: somebody chooses a name, or a place for their server, that a rule overlooks: wildcards
// in the user ID, capitals in the server's name, another port of the same host.
func TestNamesThatEvadeRules(t *testing.T) {
	t.Parallel()
	set := compile(t, nil,
		allow("trusted", rules.When{Server: []string{"corp.example"}, User: []string{"@admin-*:corp.example", "@a?b:corp.example", "@*:corp.example"}}),
		deny("evil", rules.When{Server: []string{"evil.example"}}),
		deny("eve", rules.When{User: []string{"@eve*:other.example"}}),
		allow("rest", rules.When{}),
	)
	for user, want := range map[id.UserID]string{
		"@x:evil.example": "evil", "@x:EVIL.example": "evil", "@x:evil.example:8449": "evil", "@*:evil.example": "evil", "@x:y:evil.example": "rest",
		"@eve:other.example": "eve", "@eve1:Other.Example:1": "eve", "@eve*:other.example": "eve", "@EVE:other.example": "rest",
		"@x:corp.example": "trusted", "@x:corp.example:8449": "rest", "@x:CORP.example": "trusted", "@*:corp.example.evil.example": "rest",
		"@*": "rest", "*": "rest", "": "rest", "@x:[::1]": "rest", "@x:[::1]:8448": "rest",
	} {
		if got := set.Decide(&rules.Question{Direction: rules.SendKey, Account: alice, User: user, Device: rules.DeviceConfirmed}); got.Rule != want {
			t.Errorf("%q: %s decided, want %s", user, got.Rule, want)
		}
	}
	ports := compile(t, nil, deny("loop", rules.When{Server: []string{"[::1]"}}), deny("member", rules.When{MemberServer: []string{"evil.example"}}))
	if got := ports.Decide(&rules.Question{Direction: rules.SendKey, User: "@x:[::1]:8448"}); got.Rule != "loop" {
		t.Errorf("an address with a port was overlooked: %+v", got)
	}
	if got := ports.Decide(&rules.Question{Direction: rules.SendKey, User: bob, Room: &rules.Room{MembersKnown: true, Servers: []string{"Evil.Example:99"}}}); got.Rule != "member" {
		t.Errorf("a member's server was overlooked: %+v", got)
	}
}

// What is not said denies: the zero value of an answer, and a question about nothing.
func TestZeroValuesDeny(t *testing.T) {
	t.Parallel()
	if (rules.Answer{}).Effect != rules.Deny {
		t.Error("an empty answer allows")
	}
	for _, set := range []*rules.Set{nil, compile(t, nil), compile(t, nil, allow("all", rules.When{}))} {
		for _, d := range []rules.Direction{rules.DirectionNone, -1, 99} {
			if got := set.Decide(&rules.Question{Direction: d, User: bob}); got.Effect != rules.Deny {
				t.Errorf("a question about direction %d was answered with %+v", d, got)
			}
			if set.Needs(d).Any() {
				t.Errorf("something is needed for direction %d", d)
			}
		}
		if got := set.Decide(&rules.Question{Direction: rules.SendKey, User: bob}); got.Effect != rules.Allow {
			t.Errorf("without a rule against it: %+v", got)
		}
	}
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	yes := true
	for name, test := range map[string]struct {
		when      rules.When
		send, see rules.Needs
	}{
		"people":    {rules.When{User: []string{"*"}, Device: []string{"verified"}}, rules.Needs{}, rules.Needs{}},
		"ID":        {rules.When{Room: []string{"!a", "*"}}, rules.Needs{}, rules.Needs{}},
		"alias":     {rules.When{Room: []string{"!a", "#b"}}, rules.Needs{State: true}, rules.Needs{State: true}},
		"public":    {rules.When{RoomPublic: &yes, Direction: []string{"send_key"}}, rules.Needs{State: true}, rules.Needs{}},
		"join rule": {rules.When{JoinRule: []string{"public"}, Direction: []string{"show_message"}}, rules.Needs{}, rules.Needs{State: true}},
		"history":   {rules.When{HistoryVisibility: []string{"shared"}}, rules.Needs{State: true}, rules.Needs{State: true}},
		"members":   {rules.When{MemberServer: []string{"*"}}, rules.Needs{Members: true}, rules.Needs{Members: true}},
	} {
		set := compile(t, nil, deny("a", test.when))
		if got := set.Needs(rules.SendKey); got != test.send {
			t.Errorf("%s: %+v is needed to send", name, got)
		}
		if got := set.Needs(rules.ShowMessage); got != test.see {
			t.Errorf("%s: %+v is needed to show", name, got)
		}
		if set.Needs(rules.Secret).Any() {
			t.Errorf("%s: a room is needed for a secret", name)
		}
	}
}

// The hash tells policies apart, and is the same in every process.
func TestHash(t *testing.T) {
	t.Parallel()
	groups := []rules.Group{{Name: "staff", Users: []string{"@*:corp.example"}}}
	one := deny("a", rules.When{Group: []string{"staff"}})
	base := compile(t, groups, one)
	const want = "b506cd2b1c500d2a42e76ab95e5bbc0c365c8452aa0953158461da3e28b92c81"
	if base.Hash() != want {
		t.Errorf("the hash is %s, want %s", base.Hash(), want)
	}
	other := one
	other.Reason = "Another one."
	for name, set := range map[string]*rules.Set{
		"reason": compile(t, groups, other), "more": compile(t, groups, one, deny("b", rules.When{Direction: []string{"secret"}})),
		"group": compile(t, []rules.Group{{Name: "staff", Users: []string{"@alice:corp.example"}}}, one),
	} {
		if set.Hash() == base.Hash() {
			t.Errorf("%s: another policy has the same hash", name)
		}
	}
	if (*rules.Set)(nil).Hash() != "" || compile(t, nil).Hash() != "" {
		t.Error("no rules have a hash")
	}
}

// Patterns are matched in bounded time, also those that were made to take long: one that tries
// every way to share the text among its wildcards does not end before the test is ended.
func TestGlobsTakeNoTime(t *testing.T) {
	t.Parallel()
	set := compile(t, nil, deny("slow", rules.When{User: []string{"@" + strings.Repeat("a*", 100) + "b:corp.example"}}))
	user := id.UserID("@" + strings.Repeat("a", 230) + ":corp.example")
	for range 100 {
		if got := set.Decide(&rules.Question{Direction: rules.SendKey, User: user}); got.Effect != rules.Allow {
			t.Fatalf("the pattern fits: %+v", got)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	var list []rules.Rule
	for i := range 20 {
		switch i % 4 {
		case 0:
			list = append(list, deny(fmt.Sprintf("r%d", i), rules.When{Server: []string{fmt.Sprintf("evil%d.example", i), "*.bad.example"}}))
		case 1:
			list = append(list, deny(fmt.Sprintf("r%d", i), rules.When{Direction: []string{"send_key"}, Room: []string{fmt.Sprintf("!room%d:corp.example", i)}, Server: []string{"*"}}))
		case 2:
			list = append(list, deny(fmt.Sprintf("r%d", i), rules.When{Account: []string{fmt.Sprintf("@intern-%d-*:corp.example", i)}, User: []string{"@*:partner.example"}}))
		default:
			list = append(list, allow(fmt.Sprintf("r%d", i), rules.When{Group: []string{"board"}, Device: []string{"exception"}}))
		}
	}
	set := compile(b, []rules.Group{{Name: "board", Users: []string{"@a*:corp.example", "@b*:corp.example"}}}, list...)
	q := &rules.Question{Direction: rules.SendKey, Account: alice, User: bob, Device: rules.DeviceConfirmed, Room: room("!x:corp.example", "invite", "shared")}
	b.ReportAllocs()
	for b.Loop() {
		if set.Decide(q).Effect != rules.Allow {
			b.Fatal("denied")
		}
	}
}
