package rules_test

import (
	"math/rand/v2"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
)

// What is asked without saying in which room is denied only if it is in every room: what does not
// look at rooms holds as ever.
func TestAnyRoom(t *testing.T) {
	t.Parallel()
	yes := true
	inPublic, forFinance := rules.When{RoomPublic: &yes}, rules.When{Room: []string{"!fin:corp.example"}}
	for name, test := range map[string]struct {
		set  *rules.Set
		want string // the rule that denies
	}{
		"about no room":              {compile(t, nil, deny("bob", rules.When{User: []string{string(bob)}})), "bob"},
		"about some rooms":           {compile(t, nil, deny("public", inPublic)), ""},
		"not in some rooms":          {compile(t, nil, allow("finance", forFinance), deny("rest", rules.When{})), ""},
		"another is let be in them":  {compile(t, nil, allow("eve", rules.When{User: []string{string(eve)}, Room: forFinance.Room}), deny("rest", rules.When{})), "rest"},
		"device not known":           {compile(t, nil, deny("unsure", rules.When{Device: []string{"verified"}}), allow("rest", rules.When{})), "unsure"},
		"device not known in rooms":  {compile(t, nil, allow("unsure", rules.When{Device: []string{"verified"}, Room: forFinance.Room}), deny("rest", rules.When{})), "rest"},
		"policy about no room":       {withCedar(t, `permit(principal, action, resource); @id("bob") forbid(principal == User::"@bob:corp.example", action, resource);`), "cedar:bob"},
		"policy about some rooms":    {withCedar(t, `permit(principal, action, resource); forbid(principal, action, resource) when { resource.public };`), ""},
		"permitted in some rooms":    {withCedar(t, `permit(principal, action, resource == Room::"!fin:corp.example");`), ""},
		"permitted in none":          {withCedar(t, `permit(principal == User::"@eve:evil.example", action, resource);`), "cedar"},
		"permitted in some, but bob": {withCedar(t, `permit(principal, action, resource is Room); @id("bob") forbid(principal == User::"@bob:corp.example", action, resource);`), "cedar:bob"},
		"policy that fails":          {withCedar(t, `permit(principal, action, resource); @id("odd") forbid(principal, action, resource) when { principal.shoe == 42 };`), "cedar:odd"},
	} {
		got := test.set.Decide(&rules.Question{Direction: rules.SendKey, Account: alice, User: bob, AnyRoom: true})
		if got.Effect == rules.Allow && test.want != "" || got.Effect != rules.Allow && got.Rule != test.want {
			t.Errorf("%s: %+v, want %q", name, got, test.want)
		}
	}
	for set, want := range map[*rules.Set]bool{
		nil: false, compile(t, nil, deny("a", inPublic)): true, compile(t, nil, deny("a", rules.When{})): false,
		compile(t, nil, deny("a", rules.When{Direction: []string{"show_message"}, RoomPublic: &yes})): false,
		withCedar(t, "permit(principal, action, resource);"):                                          false,
		withCedar(t, "permit(principal, action, resource is Room);"):                                  true,
	} {
		if got := set.AsksRooms(rules.SendKey); got != want {
			t.Errorf("%v asks about rooms: %v, want %v", set.Names(), got, want)
		}
	}
}

// Attack: a client that does not say in which room it gives a key gets what it would be denied in
// all of them, or is kept from what it may do in one. For rules made at random the answer without
// a room denies only what is denied in every room.
func TestAnyRoomDeniesNothingElse(t *testing.T) {
	t.Parallel()
	rooms := []*rules.Room{
		room("!fin:corp.example", "invite", "shared"), room("!pub:corp.example", "public", "shared"), room("!x:corp.example", "invite", "world_readable"),
		room("!y:corp.example", "knock", "joined"), {ID: "!z:corp.example"},
	}
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) []string {
		if r.IntN(2) == 0 {
			return nil
		}
		return []string{of[r.IntN(len(of))]}
	}
	denied := 0
	for range 3000 {
		list := make([]rules.Rule, 1+r.IntN(4))
		for i := range list {
			w := rules.When{
				User: pick("@bob:*", "@eve:*"), Room: pick("!fin:*", "!pub:*", "#a:*"), JoinRule: pick("public", "knock"),
				Device: pick("verified", "confirmed"), Direction: pick("send_key", "secret"),
			}
			list[i] = rules.Rule{Name: string(rune('a' + i)), When: w, Effect: "allow"}
			if r.IntN(2) == 0 {
				list[i].Effect, list[i].Reason = "deny", "Because."
			}
		}
		set, problems := rules.Compile(list, nil)
		if len(problems) > 0 {
			continue // one rule is about everything, or about the room of a secret
		}
		for _, user := range []id.UserID{bob, eve} {
			q := rules.Question{Direction: rules.SendKey, Account: alice, User: user, Device: rules.Device(r.IntN(6)), AnyRoom: true}
			if set.Decide(&q).Effect == rules.Allow {
				continue
			}
			denied++
			q.AnyRoom = false
			for _, q.Room = range rooms {
				if got := set.Decide(&q); got.Effect == rules.Allow {
					t.Fatalf("%+v: denied without a room, allowed in %s by %q", list, q.Room.ID, got.Rule)
				}
			}
		}
	}
	if denied < 100 {
		t.Errorf("only %d questions were denied: the test shows nothing", denied)
	}
}
