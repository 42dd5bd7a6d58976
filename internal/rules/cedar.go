package rules

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
)

// Policies in Cedar say what a list of rules cannot. They are asked after the rules, about what
// these let be, and can only narrow it too. Cedar's own meaning holds: what no policy permits is
// denied, and so is what one forbids. A policy that fails denies as well, which Cedar would pass
// by: one that asks for what is not known must not count as one that does not apply.

// cedarPolicies are the policies of a file.
type cedarPolicies struct {
	set     *cedar.PolicySet
	reasons map[cedar.PolicyID]string
	groups  []cedarGroup

	// anywhere are those that do not look at the room. permits reports whether there is one
	// besides them that permits, and asksRooms whether there is any.
	anywhere           *cedar.PolicySet
	permits, asksRooms bool
}

type cedarGroup struct {
	uid   cedar.EntityUID
	users globs
}

// cedarPrefix stands before the name of a policy where it is named like a rule.
const cedarPrefix = "cedar:"

// reasonNotPermitted is the reason where no policy permits.
const reasonNotPermitted = "The rules of your organisation do not permit it."

// WithCedar returns the rules with the policies of a file, or every mistake that was found in it.
func (s *Set) WithCedar(file string, text []byte, groups []Group) (*Set, []Problem) {
	const at = "cedar_file"
	list, err := cedar.NewPolicyListFromBytes(file, text)
	if err != nil {
		return nil, []Problem{{at, "is not a list of Cedar policies: " + err.Error(), "correct it; docs/policy.md says what policies can ask for"}}
	}
	c := &cedarPolicies{set: cedar.NewPolicySet(), anywhere: cedar.NewPolicySet(), reasons: make(map[cedar.PolicyID]string)}
	var problems []Problem
	if len(list) == 0 || len(list) > maxRules {
		problems = append(problems, Problem{at, fmt.Sprintf("has %d policies", len(list)), fmt.Sprintf("write 1 to %d, or remove the setting", maxRules)})
	}
	for i, policy := range list {
		name, where := string(policy.Annotations()["id"]), fmt.Sprintf("%s: line %d", file, policy.Position().Line)
		if name == "" {
			name = fmt.Sprintf("policy%d", i+1)
		}
		check := &checker{}
		check.checkName("", name)
		reason := string(policy.Annotations()["reason"])
		if reason != "" {
			check.checkReason("", reason)
		}
		for _, bad := range check.problems {
			problems = append(problems, Problem{at, where + bad.Path + ": " + bad.What, bad.Do})
		}
		if !c.set.Add(cedar.PolicyID(name), policy) {
			problems = append(problems, Problem{at, where + ": there are two policies with the ID " + name, "give each an @id of its own"})
		}
		c.reasons[cedar.PolicyID(name)] = reason
		if looksAtRoom(policy) {
			c.asksRooms, c.permits = true, c.permits || policy.Effect() == cedar.Permit
		} else {
			c.anywhere.Add(cedar.PolicyID(name), policy)
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	for i := range groups {
		c.groups = append(c.groups, cedarGroup{cedar.NewEntityUID("Group", cedar.String(groups[i].Name)), newGlobs(foldedUsers(groups[i].Users))})
	}
	sum := sha256.New()
	_, _ = fmt.Fprintf(sum, "%s\n%s", s.hash, text) // a hash takes everything
	out := &Set{rules: s.rules, needs: s.needs, hash: hex.EncodeToString(sum.Sum(nil)), cedar: c}
	for d := SendKey; d < Secret; d++ { // what a policy names it may ask for
		for _, attribute := range []string{"aliases", "join_rule", "history_visibility", "public"} {
			out.needs[d].State = out.needs[d].State || bytes.Contains(text, []byte(attribute))
		}
		out.needs[d].Members = out.needs[d].Members || bytes.Contains(text, []byte("member_servers"))
	}
	return out, nil
}

// looksAtRoom reports whether a policy is about some resources only, or asks something of one.
func looksAtRoom(policy *cedar.Policy) bool {
	text, err := policy.MarshalJSON()
	return err != nil || !bytes.Contains(text, []byte(`"resource":{"op":"All"}`)) || bytes.Contains(text, []byte(`"Var":"resource"`))
}

func (c *cedarPolicies) names() []string {
	var names []string
	for name := range c.set.All() {
		names = append(names, cedarPrefix+string(name))
	}
	slices.Sort(names)
	return names
}

// decide asks the policies. rule is the rule that let it be, if one did.
func (c *cedarPolicies) decide(a *asked, rule string) Answer {
	entities := make(cedar.EntityMap, 3)
	principal, account := c.user(entities, string(a.User), a.user), c.user(entities, string(a.Account), a.account)
	context := cedar.RecordMap{"account": account}
	if a.Device != DeviceUnknown {
		context["device"] = cedar.String(a.Device.String())
		context["confirmed"] = cedar.Boolean(a.Device == DeviceConfirmed || a.Device == DeviceVerified)
	}
	request := cedar.Request{
		Principal: principal, Action: cedar.NewEntityUID("Action", cedar.String(a.Direction.String())), Resource: account,
		Context: cedar.NewRecord(context),
	}
	set := c.set
	switch {
	case a.Room != nil:
		request.Resource = roomEntity(entities, a.Room)
	case a.AnyRoom:
		set, request.Resource = c.anywhere, cedar.NewEntityUID("Room", "")
	}
	decision, why := cedar.Authorize(set, entities, request)
	switch {
	case a.AnyRoom && c.permits && decision != cedar.Allow && len(why.Errors)+len(why.Reasons) == 0:
		return Answer{Effect: Allow, Rule: rule} // one that looks at the room may permit it
	case len(why.Errors) > 0:
		ids := make([]cedar.PolicyID, len(why.Errors))
		for i := range why.Errors {
			ids[i] = why.Errors[i].PolicyID
		}
		return Answer{Rule: cedarPrefix + string(slices.Min(ids)), Reason: reasonUnknown, Failed: true}
	case decision == cedar.Allow:
		if rule == "" {
			rule = cedarPrefix + string(first(why.Reasons))
		}
		return Answer{Effect: Allow, Rule: rule}
	case len(why.Reasons) == 0:
		return Answer{Rule: strings.TrimSuffix(cedarPrefix, ":"), Reason: reasonNotPermitted}
	}
	id := first(why.Reasons)
	reason := c.reasons[id]
	if reason == "" {
		reason = reasonNotPermitted
	}
	return Answer{Rule: cedarPrefix + string(id), Reason: reason}
}

// first returns the first policy by name: Cedar asks them in no order.
func first(reasons []cedar.DiagnosticReason) cedar.PolicyID {
	ids := make([]cedar.PolicyID, len(reasons))
	for i := range reasons {
		ids[i] = reasons[i].PolicyID
	}
	return slices.Min(ids)
}

// user adds a user, in their groups.
func (c *cedarPolicies) user(to cedar.EntityMap, id string, n name) cedar.EntityUID {
	uid := cedar.NewEntityUID("User", cedar.String(id))
	_, server, _ := strings.Cut(id, ":")
	at := serverName(server)
	var groups []cedar.EntityUID
	for i := range c.groups {
		if c.groups[i].users.matchName(n, Allow) {
			groups = append(groups, c.groups[i].uid)
		}
	}
	to[uid] = cedar.Entity{UID: uid, Parents: cedar.NewEntityUIDSet(groups...), Attributes: cedar.NewRecord(cedar.RecordMap{
		"id": cedar.String(id), "server": cedar.String(at.full), "host": cedar.String(at.portless),
	})}
	return uid
}

// roomEntity adds a room with what is known of it.
func roomEntity(to cedar.EntityMap, room *Room) cedar.EntityUID {
	uid := cedar.NewEntityUID("Room", cedar.String(room.ID))
	attributes := cedar.RecordMap{"id": cedar.String(room.ID)}
	if state := room.State; state != nil {
		attributes["aliases"] = textSet(state.Aliases)
		attributes["join_rule"] = cedar.String(state.JoinRule)
		attributes["history_visibility"] = cedar.String(state.HistoryVisibility)
		attributes["public"] = cedar.Boolean(state.public())
	}
	if room.MembersKnown {
		servers := make([]string, len(room.Servers))
		for i, server := range room.Servers {
			servers[i] = strings.ToLower(server)
		}
		attributes["member_servers"] = textSet(servers)
	}
	to[uid] = cedar.Entity{UID: uid, Attributes: cedar.NewRecord(attributes)}
	return uid
}

func textSet(texts []string) cedar.Set {
	values := make([]cedar.Value, len(texts))
	for i, text := range texts {
		values[i] = cedar.String(text)
	}
	return cedar.NewSet(values...)
}
