package rules_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/rules"
)

// All mistakes are reported at once, each with its place and with what to do.
func TestMistakes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 65)
	set, problems := rules.Compile([]rules.Rule{
		{Name: "", Effect: "", When: rules.When{User: []string{"bob"}}},
		{Name: "two words", Effect: "block", Reason: "x", When: rules.When{Direction: []string{"send_keys"}, Device: []string{"trusted"}}},
		{Name: "dup", Effect: "deny", Reason: "line\nbreak", When: rules.When{Group: []string{"nobody"}, UserGroup: []string{"staff"}}},
		{Name: "dup", Effect: "allow", Reason: "x", When: rules.When{Room: []string{"room", ""}, Server: []string{"@a:b"}, MemberServer: []string{""}}},
		{Name: long, Effect: "deny", Reason: strings.Repeat("ä", 201), When: rules.When{JoinRule: []string{}, HistoryVisibility: []string{"all"}, Account: []string{"@a"}}},
		{Name: "secret-room", Effect: "deny", Reason: "x", When: rules.When{Direction: []string{"secret"}, Room: []string{"!a"}}},
		{Name: "all", Effect: "allow"},
		{Name: "late", Effect: "allow", When: rules.When{User: []string{"*"}}},
	}, []rules.Group{{Name: "staff", Users: []string{"@*:corp.example"}}, {Name: "staff"}, {Name: "a b", Users: []string{"x y"}}})
	if set != nil {
		t.Error("rules with mistakes can be used")
	}
	var got []string
	for _, p := range problems {
		got = append(got, strings.ReplaceAll(p.String(), long, "LONG"))
	}
	want := []string{
		`groups[1].name: is the name of another group too; give each a name of its own`,
		`groups[1].users: names nobody; write user IDs, like ["@*:example.org"]`,
		`groups[2].name: "a b" is not a name; use letters, digits, - and _, at most 64`,
		`groups[2].users[0]: "x y" is not a pattern for user IDs; write it like "@*:example.org"`,
		`rules[0].name: is missing; name it, like: outsiders`,
		`rules[0].effect: is missing; write deny or allow`,
		`rules[0].reason: is missing; say in words for a person why it is denied`,
		`rules[0].when.user[0]: "bob" fits no user ID, which begins with @; write it like "@*:example.org"`,
		`rules[1].name: "two words" is not a name; use letters, digits, - and _, at most 64`,
		`rules[1].effect: "block" is not known; write one of: deny, allow`,
		`rules[1].when.direction[0]: "send_keys" is not known; write one of: send_key, show_message, secret`,
		`rules[1].when.device[0]: "trusted" is not known; write one of: verified, confirmed, exception, unconfirmed, unproven`,
		`rules[2].reason: has control characters or a line break; write it on one line`,
		`rules[2].when.group[0]: "nobody" is not a group; name one of policy.groups`,
		`rules[3].name: is the name of another rule too; give each a name of its own`,
		`rules[3].reason: is shown to nobody, because the rule allows; remove it`,
		`rules[3].when.server[0]: "@a:b" is not a pattern for names of servers; write it like example.org or *.example.org`,
		`rules[3].when.member_server[0]: "" is not a pattern for names of servers; write it like example.org or *.example.org`,
		`rules[3].when.room[0]: "room" fits no room; write an ID, like "!abc:example.org", or an alias, like "#staff-*:example.org"`,
		`rules[3].when.room[1]: "" fits no room; write an ID, like "!abc:example.org", or an alias, like "#staff-*:example.org"`,
		`rules[4].name: "LONG" is not a name; use letters, digits, - and _, at most 64`,
		`rules[4].reason: has more than 200 characters; say it in one sentence`,
		`rules[4].when.account[0]: "@a" fits no user ID, which has a server; write it like "@*:example.org"`,
		`rules[4].when.join_rule: is an empty list; name something, or remove it`,
		`rules[4].when.history_visibility[0]: "all" is not known; write one of: invited, joined, shared, world_readable`,
		`rules[5].when: asks for a room, and a secret belongs to none; remove the conditions about the room`,
		`rules[7]: is never reached: "all" is about everything; move that rule to the end, or say when it holds`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The names of rules become labels of metrics, so there is a bound on them.
func TestTooManyRules(t *testing.T) {
	t.Parallel()
	_, problems := rules.Compile(make([]rules.Rule, 201), nil)
	if len(problems) == 0 || problems[0].Path != "rules" {
		t.Errorf("201 rules were taken: %v", problems)
	}
}
