package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The bounds of a set of rules. The names of rules become labels of metrics.
const (
	maxRules  = 200
	maxName   = 64
	maxReason = 200
)

// Problem is one mistake. Path is its place below the policy: rules[2].when.device[0].
type Problem struct{ Path, What, Do string }

// String returns the problem on one line.
func (p Problem) String() string { return p.Path + ": " + p.What + "; " + p.Do }

// Compile checks rules and groups, and returns every mistake. The set is usable only without one.
func Compile(list []Rule, groups []Group) (*Set, []Problem) {
	c := &checker{groups: make(map[string]globs, len(groups))}
	c.checkGroups(groups)
	c.checkRules(list)
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	s := &Set{rules: make([]compiled, len(list)), hash: hashOf(list, groups)}
	for i := range list {
		s.rules[i] = compile(&list[i], c.groups)
		s.require(&list[i].When, &s.rules[i])
	}
	return s, nil
}

type checker struct {
	groups   map[string]globs
	problems []Problem
}

func (c *checker) problem(path, what, do string) {
	c.problems = append(c.problems, Problem{path, what, do})
}

func (c *checker) checkGroups(groups []Group) {
	for i := range groups {
		g, at := &groups[i], fmt.Sprintf("groups[%d]", i)
		c.checkName(at+".name", g.Name)
		if _, twice := c.groups[g.Name]; twice {
			c.problem(at+".name", "is the name of another group too", "give each a name of its own")
		}
		if len(g.Users) == 0 {
			c.problem(at+".users", "names nobody", `write user IDs, like ["@*:example.org"]`)
		}
		c.checkList(at+".users", g.Users, userProblem)
		c.groups[g.Name] = newGlobs(foldedUsers(g.Users))
	}
}

func (c *checker) checkRules(list []Rule) {
	if len(list) > maxRules {
		c.problem("rules", fmt.Sprintf("has %d rules, more than %d", len(list), maxRules), "put what belongs together into one rule: each condition takes a list")
	}
	names, all := make(map[string]bool, len(list)), ""
	for i := range list {
		r, at := &list[i], fmt.Sprintf("rules[%d]", i)
		c.checkName(at+".name", r.Name)
		if names[r.Name] && r.Name != "" {
			c.problem(at+".name", "is the name of another rule too", "give each a name of its own")
		}
		names[r.Name] = true
		if all != "" {
			c.problem(at, "is never reached: "+all+" is about everything", "move that rule to the end, or say when it holds")
		}
		if r.When.empty() && all == "" {
			all = strconv.Quote(r.Name)
		}
		c.checkEffect(at, r)
		c.checkWhen(at+".when", &r.When)
	}
}

func (c *checker) checkName(at, name string) {
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	}
	switch {
	case name == "":
		c.problem(at, "is missing", "name it, like: outsiders")
	case len(name) > maxName || strings.ContainsFunc(name, bad):
		c.problem(at, strconv.Quote(name)+" is not a name", fmt.Sprintf("use letters, digits, - and _, at most %d", maxName))
	}
}

func (c *checker) checkEffect(at string, r *Rule) {
	switch {
	case r.OnError == "":
	case r.Effect == Deny.String():
		c.problem(at+".on_error", "has no effect, because the rule denies", "remove it")
	default:
		c.oneOf(at+".on_error", r.OnError, []string{Deny.String(), Allow.String()})
	}
	switch r.Effect {
	case Allow.String():
		if r.Reason != "" {
			c.problem(at+".reason", "is shown to nobody, because the rule allows", "remove it")
		}
		return
	case Deny.String():
	case "":
		c.problem(at+".effect", "is missing", "write deny or allow")
	default:
		c.oneOf(at+".effect", r.Effect, []string{Deny.String(), Allow.String()})
	}
	c.checkReason(at+".reason", r.Reason)
}

func (c *checker) checkReason(at, reason string) {
	switch {
	case reason == "":
		c.problem(at, "is missing", "say in words for a person why it is denied")
	case utf8.RuneCountInString(reason) > maxReason:
		c.problem(at, fmt.Sprintf("has more than %d characters", maxReason), "say it in one sentence")
	case !utf8.ValidString(reason) || strings.ContainsFunc(reason, unicode.IsControl):
		c.problem(at, "has control characters or a line break", "write it on one line")
	}
}

func (c *checker) checkWhen(at string, w *When) {
	c.checkWords(at+".direction", w.Direction, []string{SendKey.String(), ShowMessage.String(), Secret.String()})
	c.checkList(at+".account", w.Account, userProblem)
	c.checkList(at+".user", w.User, userProblem)
	c.checkList(at+".server", w.Server, serverProblem)
	c.checkList(at+".member_server", w.MemberServer, serverProblem)
	c.checkList(at+".room", w.Room, roomProblem)
	c.checkKnownGroups(at+".group", w.Group)
	c.checkKnownGroups(at+".user_group", w.UserGroup)
	c.checkWords(at+".device", w.Device, []string{DeviceVerified.String(), DeviceConfirmed.String(), DeviceException.String(), DeviceUnconfirmed.String(), DeviceUnproven.String()})
	c.checkWords(at+".join_rule", w.JoinRule, []string{"public", "knock", "invite", "private", "restricted", "knock_restricted"})
	c.checkWords(at+".history_visibility", w.HistoryVisibility, []string{"invited", "joined", "shared", "world_readable"})
	if w.aboutRoom() && len(w.Direction) == 1 && w.Direction[0] == Secret.String() {
		c.problem(at, "asks for a room, and a secret belongs to none", "remove the conditions about the room")
	}
}

func (c *checker) checkKnownGroups(at string, names []string) {
	c.checkList(at, names, func(name string) (what, do string) {
		if _, known := c.groups[name]; !known {
			return strconv.Quote(name) + " is not a group", "name one of policy.groups"
		}
		return "", ""
	})
}

func (c *checker) checkWords(at string, words, known []string) {
	c.checkList(at, words, func(string) (what, do string) { return "", "" })
	for i, word := range words {
		c.oneOf(fmt.Sprintf("%s[%d]", at, i), word, known)
	}
}

func (c *checker) oneOf(at, word string, known []string) {
	if !slices.Contains(known, word) {
		c.problem(at, strconv.Quote(word)+" is not known", "write one of: "+strings.Join(known, ", "))
	}
}

// checkList checks each text of a condition. One that is there and has none would hold never, or
// always: it is a mistake either way.
func (c *checker) checkList(at string, texts []string, check func(string) (what, do string)) {
	if texts != nil && len(texts) == 0 && !strings.HasPrefix(at, "groups") {
		c.problem(at, "is an empty list", "name something, or remove it")
	}
	for i, text := range texts {
		if what, do := check(text); what != "" {
			c.problem(fmt.Sprintf("%s[%d]", at, i), what, do)
		}
	}
}

func userProblem(text string) (what, do string) {
	const example = `write it like "@*:example.org"`
	switch {
	case text == "" || strings.ContainsAny(text, " \t\r\n"):
		return strconv.Quote(text) + " is not a pattern for user IDs", example
	case !strings.ContainsRune("@*?", rune(text[0])):
		return strconv.Quote(text) + " fits no user ID, which begins with @", example
	case !strings.ContainsAny(text, ":*"):
		return strconv.Quote(text) + " fits no user ID, which has a server", example
	}
	return "", ""
}

func serverProblem(text string) (what, do string) {
	if text == "" || strings.ContainsAny(text, "@/#! \t\r\n") {
		return strconv.Quote(text) + " is not a pattern for names of servers", "write it like example.org or *.example.org"
	}
	return "", ""
}

func roomProblem(text string) (what, do string) {
	if text == "" || !strings.ContainsRune("!#*", rune(text[0])) || strings.ContainsAny(text, " \t\r\n") {
		return strconv.Quote(text) + " fits no room", `write an ID, like "!abc:example.org", or an alias, like "#staff-*:example.org"`
	}
	return "", ""
}

// folded returns names of servers as they are compared.
func folded(servers []string) []string {
	if servers == nil {
		return nil
	}
	out := make([]string, len(servers))
	for i, s := range servers {
		out[i] = strings.ToLower(s)
	}
	return out
}

// foldedUsers is folded for user IDs, of which only the server is the same in capitals.
func foldedUsers(users []string) []string {
	if users == nil {
		return nil
	}
	out := make([]string, len(users))
	for i, user := range users {
		if at := strings.IndexByte(user, ':'); at >= 0 {
			user = user[:at] + strings.ToLower(user[at:])
		}
		out[i] = user
	}
	return out
}
