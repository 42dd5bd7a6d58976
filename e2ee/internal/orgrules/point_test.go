package orgrules

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/rules"
)

// fakePoint is a decision point that records what it is asked.
type fakePoint struct {
	asked [][]rules.Question
	err   error
	deny  id.UserID
	short bool
}

func (f *fakePoint) Ask(_ context.Context, _ string, questions []rules.Question) ([]rules.Answer, error) {
	f.asked = append(f.asked, questions)
	if f.err != nil {
		return nil, f.err
	}
	out := make([]rules.Answer, len(questions))
	for i := range questions {
		out[i] = rules.Answer{Effect: rules.Allow, Rule: "decision_point"}
		if questions[i].User == f.deny {
			out[i] = rules.Answer{Rule: "decision_point", Reason: "Not them."}
		}
	}
	if f.short {
		return out[1:], nil
	}
	return out, nil
}

func pointed(t *testing.T, f *fakePoint, change func(*PointSettings), list ...rules.Rule) (*Version, *time.Time) {
	t.Helper()
	set, problems := rules.Compile(list, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	now := time.Unix(1000, 0)
	s := &PointSettings{Asker: f, Cache: time.Minute, Now: func() time.Time { return now }}
	if change != nil {
		change(s)
	}
	r, err := New(Ruling{Rules: set, Point: s}, "v1", zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return r.Now(), &now
}

func keyFor(users ...id.UserID) (out []rules.Question) {
	for _, user := range users {
		out = append(out, rules.Question{Direction: rules.SendKey, Account: alice, User: user, Device: rules.DeviceConfirmed, Room: &rules.Room{ID: "!r"}})
	}
	return out
}

func effects(answers []rules.Answer) (out string) {
	for _, a := range answers {
		out += a.Effect.String() + ":" + a.Rule + " "
	}
	return out
}

// The point is asked once about all that the rules let be, each question once, and again when what
// it answered is too old or the room is another; it narrows, and allows nothing that a rule denies.
func TestPointIsAskedOnce(t *testing.T) {
	t.Parallel()
	f := &fakePoint{deny: "@carol:x"}
	v, now := pointed(t, f, nil, rules.Rule{Name: "eve", Effect: "deny", Reason: "No.", When: rules.When{User: []string{"@eve:x"}}})
	if asks, tried := v.AsksRooms(rules.SendKey); !asks || tried || !v.Any() || !v.Needs(rules.SendKey).State || v.Must(rules.SendKey).State || v.Needs(rules.ShowMessage).Any() {
		t.Error("what the point needs is not asked for, or more")
	}
	questions := keyFor(bob, "@carol:x", "@eve:x", bob, bob)
	for range 3 {
		got, err := v.Ask(t.Context(), questions)
		if want := "allow: deny:decision_point deny:eve allow: allow: "; err != nil || effects(got) != want {
			t.Errorf("%q, %v", effects(got), err)
		}
	}
	if len(f.asked) != 1 || len(f.asked[0]) != 2 {
		t.Errorf("asked %d times: %+v", len(f.asked), f.asked)
	}
	if again, _ := v.AllAgain(questions); effects(again) != "allow:decision_point deny:decision_point deny:eve allow:decision_point allow:decision_point " {
		t.Errorf("again: %s", effects(again))
	}
	other := keyFor(bob)
	other[0].Room = &rules.Room{ID: "!r", State: &rules.RoomState{JoinRule: "public"}}
	if again := v.Again()(&other[0]); again.Effect != rules.Deny || !again.Failed {
		t.Errorf("what was not asked: %+v", again)
	}
	*now = now.Add(time.Minute)
	if _, err := v.Ask(t.Context(), questions[:1]); err != nil || len(f.asked) != 2 {
		t.Errorf("a minute later: %v, asked %d times", err, len(f.asked))
	}
	message := rules.Question{Direction: rules.ShowMessage, Account: alice, User: "@carol:x", Room: &rules.Room{ID: "!r"}}
	if v.AskMessages(t.Context())(&message).Effect != rules.Allow || len(f.asked) != 2 {
		t.Error("it is asked about messages")
	}
}

// What happens when it does not answer: nothing is given, or what the rules let be where the
// settings or a rule say so; it is not remembered for long, and answers that are too few are none.
func TestPointDoesNotAnswer(t *testing.T) {
	t.Parallel()
	careful := rules.Rule{Name: "careful", Effect: "allow", OnError: "deny", When: rules.When{User: []string{"@carol:x"}}}
	lenient := rules.Rule{Name: "lenient", Effect: "allow", OnError: "allow", When: rules.When{User: []string{"@dave:x"}}}
	for _, allow := range []bool{false, true} {
		for what, f := range map[string]*fakePoint{"fails": {err: errors.New("refused")}, "too few": {short: true}} {
			v, _ := pointed(t, f, func(s *PointSettings) { s.AllowOnError = allow }, careful, lenient)
			for user, allowed := range map[id.UserID]bool{bob: allow, "@carol:x": false, "@dave:x": true} {
				got, err := v.Ask(t.Context(), keyFor(user))
				if allowed != (err == nil) || err != nil && !errors.Is(err, ErrPoint) || err == nil && got[0].Effect != rules.Allow {
					t.Errorf("%s, on_error allow %v, %s: %+v, %v", what, allow, user, got, err)
				}
				if again := v.Again()(&keyFor(user)[0]); (again.Effect == rules.Allow) != allowed {
					t.Errorf("%s, on_error allow %v, %s again: %+v", what, allow, user, again)
				}
			}
			asked := len(f.asked)
			f.err, f.short, f.deny = nil, false, "@dave:x"
			if got, err := v.Ask(t.Context(), keyFor("@dave:x")); err != nil || got[0].Effect != rules.Deny || len(f.asked) != asked+1 {
				t.Errorf("%s, once it answers: %+v, %v", what, got, err)
			}
		}
	}
	for _, bad := range []rules.Rule{
		{Name: "a", Effect: "deny", Reason: "No.", OnError: "allow"}, {Name: "a", Effect: "allow", OnError: "perhaps"},
	} {
		if _, problems := rules.Compile([]rules.Rule{bad}, nil); len(problems) != 1 || problems[0].Path != "rules[0].on_error" {
			t.Errorf("%+v: %v", bad, problems)
		}
	}
}

// Very many questions are a few requests, not one without bounds.
func TestPointIsAskedInBatches(t *testing.T) {
	t.Parallel()
	f := &fakePoint{}
	v, _ := pointed(t, f, nil)
	users := make([]id.UserID, 2*maxAtOnce+1)
	for i := range users {
		users[i] = id.UserID(fmt.Sprintf("@u%d:x", i))
	}
	got, err := v.Ask(t.Context(), keyFor(users...))
	if err != nil || len(f.asked) != 3 || strings.Contains(effects(got), "deny") {
		t.Errorf("%d requests, %v", len(f.asked), err)
	}
}
