package rules_test

import (
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
)

const cedarText = `
permit(principal, action, resource);

@id("finance") @reason("This room is for the board.")
forbid(principal, action, resource == Room::"!fin:corp.example") unless { principal in Group::"board" };

@id("public-partners")
forbid(principal, action == Action::"send_key", resource) when { principal.host == "partner.example" && resource.public };

@id("mixed")
forbid(principal, action == Action::"show_message", resource) when { resource.member_servers.contains("evil.example") };

@id("secrets") @reason("Only verified devices have secrets.")
forbid(principal, action == Action::"secret", resource) unless { context.device == "verified" };
`

func withCedar(t testing.TB, text string, list ...rules.Rule) *rules.Set {
	t.Helper()
	groups := []rules.Group{{Name: "board", Users: []string{"@alice:corp.example"}}}
	set, problems := compile(t, groups, list...).WithCedar("p.cedar", []byte(text), groups)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return set
}

// Policies answer by Cedar's own meaning, and one that asks for what is not known denies.
func TestCedar(t *testing.T) {
	t.Parallel()
	set := withCedar(t, cedarText)
	fin, public, unknown := room("!fin:corp.example", "invite", "shared"), room("!pub:corp.example", "public", "shared"), &rules.Room{ID: "!x:corp.example"}
	for name, test := range map[string]struct {
		q    rules.Question
		want rules.Answer
	}{
		"permitted":         {rules.Question{Direction: rules.SendKey, User: bob, Room: public}, rules.Answer{Effect: rules.Allow, Rule: "cedar:policy1"}},
		"of the board":      {rules.Question{Direction: rules.SendKey, User: alice, Room: fin}, rules.Answer{Effect: rules.Allow, Rule: "cedar:policy1"}},
		"not of it":         {rules.Question{Direction: rules.ShowMessage, User: bob, Room: fin}, rules.Answer{Rule: "cedar:finance", Reason: "This room is for the board."}},
		"partner":           {rules.Question{Direction: rules.SendKey, User: paula, Room: public}, rules.Answer{Rule: "cedar:public-partners", Reason: "The rules of your organisation do not permit it."}},
		"partner's port":    {rules.Question{Direction: rules.SendKey, User: "@x:PARTNER.example:8449", Room: public}, rules.Answer{Rule: "cedar:public-partners", Reason: "The rules of your organisation do not permit it."}},
		"room not known":    {rules.Question{Direction: rules.SendKey, User: paula, Room: unknown}, rules.Answer{Rule: "cedar:public-partners", Reason: "It could not be found out whether the rules of your organisation allow it.", Failed: true}},
		"no need to know":   {rules.Question{Direction: rules.SendKey, User: bob, Room: unknown}, rules.Answer{Effect: rules.Allow, Rule: "cedar:policy1"}},
		"members":           {rules.Question{Direction: rules.ShowMessage, User: bob, Room: &rules.Room{ID: "!x", MembersKnown: true, Servers: []string{"Evil.example"}}}, rules.Answer{Rule: "cedar:mixed", Reason: "The rules of your organisation do not permit it."}},
		"members not known": {rules.Question{Direction: rules.ShowMessage, User: bob, Room: unknown}, rules.Answer{Rule: "cedar:mixed", Reason: "It could not be found out whether the rules of your organisation allow it.", Failed: true}},
		"secret":            {rules.Question{Direction: rules.Secret, User: alice, Device: rules.DeviceVerified}, rules.Answer{Effect: rules.Allow, Rule: "cedar:policy1"}},
		"secret denied":     {rules.Question{Direction: rules.Secret, User: alice, Device: rules.DeviceConfirmed}, rules.Answer{Rule: "cedar:secrets", Reason: "Only verified devices have secrets."}},
		"device unknown":    {rules.Question{Direction: rules.Secret, User: alice}, rules.Answer{Rule: "cedar:secrets", Reason: "It could not be found out whether the rules of your organisation allow it.", Failed: true}},
	} {
		test.q.Account = alice
		if got := set.Decide(&test.q); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
	for _, d := range []rules.Direction{rules.SendKey, rules.ShowMessage} {
		if got := set.Needs(d); got != (rules.Needs{State: true, Members: true}) {
			t.Errorf("%s needs %+v", d, got)
		}
	}
	if got := withCedar(t, "permit(principal, action, resource);").Needs(rules.SendKey); got.Any() {
		t.Errorf("what asks for nothing needs %+v", got)
	}
}

// Attack: a policy would allow what a rule denies, or a rule what the policies deny. Both only narrow.
func TestCedarAndRulesNarrowEachOther(t *testing.T) {
	t.Parallel()
	set := withCedar(t, `@id("board") permit(principal in Group::"board", action, resource);`,
		deny("evil", rules.When{Server: []string{"evil.example"}}), allow("all", rules.When{}))
	for user, want := range map[id.UserID]string{alice: "all", bob: "cedar", eve: "evil"} {
		got := set.Decide(&rules.Question{Direction: rules.SendKey, Account: alice, User: user, Room: &rules.Room{ID: "!x"}})
		if got.Rule != want || (got.Effect == rules.Allow) != (user == alice) {
			t.Errorf("%s: %+v, want %s", user, got, want)
		}
	}
	if set.Len() != 3 || strings.Join(set.Names(), " ") != "evil all cedar:board" {
		t.Errorf("%d: %v", set.Len(), set.Names())
	}
	if got := set.Decide(&rules.Question{Direction: 99, User: alice}); got.Effect != rules.Deny {
		t.Errorf("a question about nothing: %+v", got)
	}
	other := withCedar(t, `@id("board") permit(principal, action, resource);`, deny("evil", rules.When{Server: []string{"evil.example"}}), allow("all", rules.When{}))
	if other.Hash() == set.Hash() {
		t.Error("other policies have the same hash")
	}
}

func TestCedarMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                    "has 0 policies",
		"permit(principal, action, resource)": "is not a list of Cedar policies",
		"allow(principal, action, resource);": "is not a list of Cedar policies",
		`@id("a b") permit(principal, action, resource);`:                                             `p.cedar: line 1: "a b" is not a name`,
		`@id("a") @reason("x` + strings.Repeat("y", 200) + `") permit(principal, action, resource);`:  "more than 200 characters",
		`@id("a") permit(principal, action, resource); @id("a") forbid(principal, action, resource);`: "two policies with the ID a",
	} {
		set, problems := new(rules.Set).WithCedar("p.cedar", []byte(text), nil)
		if set != nil || len(problems) != 1 || !strings.Contains(problems[0].String(), want) || problems[0].Path != "cedar_file" {
			t.Errorf("%q: %v", text, problems)
		}
	}
}

func BenchmarkCedar(b *testing.B) {
	set := withCedar(b, cedarText)
	q := &rules.Question{Direction: rules.SendKey, Account: alice, User: bob, Device: rules.DeviceConfirmed, Room: room("!x:corp.example", "invite", "shared")}
	b.ReportAllocs()
	for b.Loop() {
		if set.Decide(q).Effect != rules.Allow {
			b.Fatal("denied")
		}
	}
}
