package rules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"maunium.net/go/mautrix/id"
)

// Example is a question with the answer that is expected of rules.
type Example struct {
	Name   string `yaml:"name"`
	Ask    Asked  `yaml:"ask"`
	Answer string `yaml:"answer"`
	// Rule is the rule that is expected to decide: none if none should match; empty if it does
	// not matter.
	Rule string `yaml:"rule"`
}

// Asked is the question of an Example. Of a room whose join rule, history visibility and aliases
// are left out these are not known, and so are the servers of its members.
type Asked struct {
	Direction         string    `yaml:"direction"`
	Account           id.UserID `yaml:"account"`
	User              id.UserID `yaml:"user"`
	Device            string    `yaml:"device"`
	Room              id.RoomID `yaml:"room"`
	Aliases           []string  `yaml:"aliases"`
	JoinRule          string    `yaml:"join_rule"`
	HistoryVisibility string    `yaml:"history_visibility"`
	MemberServers     []string  `yaml:"member_servers"`
}

// Result is what rules answered to an example.
type Result struct {
	Example
	Got  Answer
	Line int
}

// Right reports whether the answer is the one that is expected.
func (r *Result) Right() bool {
	return r.Got.Effect.String() == r.Answer && (r.Rule == "" || r.Rule == named(r.Got.Rule))
}

// String returns the result on one line.
func (r *Result) String() string {
	got := r.Got.Effect.String() + " by " + named(r.Got.Rule)
	if r.Got.Failed {
		got += ", because not enough is known"
	}
	if r.Right() {
		return "ok     " + r.Name + ": " + got
	}
	want := r.Answer
	if r.Rule != "" {
		want += " by " + r.Rule
	}
	return fmt.Sprintf("WRONG  line %d, %s: %s, want %s", r.Line, r.Name, got, want)
}

const noRule = "none"

func named(rule string) string {
	if rule == "" {
		return noRule
	}
	return rule
}

// RunExamples asks the questions of a YAML document, a list of examples, and returns what was
// answered, or every mistake in it, each with its line as the path.
func RunExamples(s *Set, text []byte) ([]Result, []Problem) {
	list, lines, problems := readExamples(text)
	if len(problems) > 0 {
		return nil, problems
	}
	results := make([]Result, len(list))
	for i := range list {
		q, bad := list[i].question(lines[i], s)
		problems = append(problems, bad...)
		results[i] = Result{Example: list[i], Got: s.Decide(&q), Line: lines[i]}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return results, nil
}

// readExamples reads examples strictly, with the line of each.
func readExamples(text []byte) (list []Example, lines []int, problems []Problem) {
	const do = "compare it with docs/policy.md"
	strict := yaml.NewDecoder(bytes.NewReader(text))
	strict.KnownFields(true)
	var types *yaml.TypeError
	switch err := strict.Decode(&list); {
	case errors.As(err, &types):
		for _, e := range types.Errors {
			where, what, _ := strings.Cut(e, ": ")
			what, _, _ = strings.Cut(what, " in type ")
			problems = append(problems, Problem{where, what, do})
		}
		return nil, nil, problems
	case err != nil && !errors.Is(err, io.EOF):
		return nil, nil, []Problem{{"line 1", "the file is not a list of examples: " + strings.TrimPrefix(err.Error(), "yaml: "), do}}
	case len(list) == 0:
		return nil, nil, []Problem{{"line 1", "there is no example", do}}
	case !errors.Is(strict.Decode(new(yaml.Node)), io.EOF):
		return nil, nil, []Problem{{"line 1", "the file has more than one YAML document", "remove everything from the second --- on"}}
	}
	var nodes []yaml.Node
	if err := yaml.Unmarshal(text, &nodes); err != nil {
		return nil, nil, []Problem{{"line 1", err.Error(), do}}
	}
	for i := range nodes {
		lines = append(lines, nodes[i].Line)
	}
	return list, lines, nil
}

// question returns the example's question, and what is wrong with the example.
func (e *Example) question(line int, s *Set) (q Question, problems []Problem) {
	at := fmt.Sprintf("line %d", line)
	problem := func(what, do string) { problems = append(problems, Problem{at, what, do}) }
	if e.Name == "" {
		problem("the example has no name", "say what it shows")
	}
	if e.Answer != Deny.String() && e.Answer != Allow.String() {
		problem("the answer "+strconv.Quote(e.Answer)+" is not known", "write one of: deny, allow")
	}
	if e.Rule != "" && e.Rule != noRule && !slices.Contains(s.Names(), e.Rule) {
		problem("there is no rule "+strconv.Quote(e.Rule), "name one of policy.rules, or none")
	}
	q = Question{Account: e.Ask.Account, User: e.Ask.User}
	for d := SendKey; d <= Secret; d++ {
		if d.String() == e.Ask.Direction {
			q.Direction = d
		}
	}
	if q.Direction == DirectionNone {
		problem("the direction "+strconv.Quote(e.Ask.Direction)+" is not known", "write one of: send_key, show_message, secret")
	}
	for d := DeviceUnknown; d <= DeviceVerified; d++ {
		if d.String() == e.Ask.Device {
			q.Device = d
		}
	}
	if q.Device == DeviceUnknown && e.Ask.Device != "" && e.Ask.Device != DeviceUnknown.String() {
		problem("the device "+strconv.Quote(e.Ask.Device)+" is not known", "write one of: verified, confirmed, exception, unconfirmed, unproven, unknown")
	}
	for what, user := range map[string]id.UserID{"account": e.Ask.Account, "user": e.Ask.User} {
		if _, _, err := user.Parse(); err != nil {
			problem("the "+what+" "+strconv.Quote(string(user))+" is not a user ID", `write it like "@alice:example.org"`)
		}
	}
	switch {
	case q.Direction == Secret && e.Ask.Room != "":
		problem("a secret belongs to no room", "remove the room")
	case q.Direction != Secret && e.Ask.Room == "":
		problem("there is no room", `write it like "!abc:example.org"`)
	}
	q.Room = e.Ask.room()
	slices.SortFunc(problems, func(a, b Problem) int { return strings.Compare(a.What, b.What) })
	return q, problems
}

func (a *Asked) room() *Room {
	if a.Room == "" {
		return nil
	}
	out := &Room{ID: a.Room, Servers: a.MemberServers, MembersKnown: a.MemberServers != nil}
	if a.JoinRule != "" || a.HistoryVisibility != "" || a.Aliases != nil {
		out.State = &RoomState{JoinRule: a.JoinRule, HistoryVisibility: a.HistoryVisibility, Aliases: a.Aliases}
	}
	return out
}
