package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// Set are rules that were checked. A nil Set has none, and allows.
type Set struct {
	rules []compiled
	needs [Secret + 1]Needs
	hash  string
	cedar *cedarPolicies // nil when there are none
}

// compiled is one rule in the form in which it is asked. A condition that is not given is nil.
type compiled struct {
	name   string
	effect Effect
	reason string
	failed OnError // see Answer.OnError

	directions [Secret + 1]bool
	account    globs
	groups     []globs
	user       globs
	userGroups []globs
	server     globs
	device     []Device
	named      bool // room or alias is a condition
	room       globs
	alias      globs
	public     *bool
	joinRule   []string
	history    []string
	member     globs
	aboutRoom  bool
}

// Len returns the number of rules and policies.
func (s *Set) Len() int {
	switch {
	case s == nil:
		return 0
	case s.cedar == nil:
		return len(s.rules)
	}
	return len(s.rules) + len(s.cedar.reasons)
}

// Dear reports whether a decision costs more than to remember it.
func (s *Set) Dear() bool { return s != nil && s.cedar != nil }

// AsksRooms reports whether anything that is asked in a direction depends on the room.
func (s *Set) AsksRooms(d Direction) bool {
	if s == nil || d <= DirectionNone || d > Secret {
		return false
	}
	return slices.ContainsFunc(s.rules, func(r compiled) bool { return r.aboutRoom && r.directions[d] }) || s.cedar != nil && s.cedar.asksRooms
}

// Hash names the rules: equal rules, with equal groups, have equal hashes. It is empty when
// there are none.
func (s *Set) Hash() string {
	if s.Len() == 0 {
		return ""
	}
	return s.hash
}

// Names returns the names of the rules, in order, and then of the policies.
func (s *Set) Names() []string {
	if s.Len() == 0 {
		return nil
	}
	names := make([]string, len(s.rules), s.Len())
	for i := range names {
		names[i] = s.rules[i].name
	}
	if s.cedar != nil {
		names = append(names, s.cedar.names()...)
	}
	return names
}

// Needs returns what must be known of a room for decisions of a direction.
func (s *Set) Needs(d Direction) Needs {
	if s == nil || d <= DirectionNone || d > Secret {
		return Needs{}
	}
	return s.needs[d]
}

// hashOf returns the hash of rules as they are written.
func hashOf(list []Rule, groups []Group) string {
	raw, err := json.Marshal(struct {
		Rules  []Rule  `json:"rules"`
		Groups []Group `json:"groups"`
	}{list, groups})
	if err != nil { // texts, lists and a bool: it cannot fail
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// compile makes a rule that has no mistake.
func compile(r *Rule, groups map[string]globs) compiled {
	w := &r.When
	c := compiled{
		name: r.Name, reason: r.Reason, public: w.RoomPublic, joinRule: w.JoinRule, history: w.HistoryVisibility, aboutRoom: w.aboutRoom(),
		account: newGlobs(foldedUsers(w.Account)), user: newGlobs(foldedUsers(w.User)),
		server: newGlobs(folded(w.Server)), member: newGlobs(folded(w.MemberServer)), named: w.Room != nil,
	}
	for _, pattern := range w.Room {
		if isAlias(pattern) {
			c.alias = append(c.alias, newGlob(pattern))
		} else {
			c.room = append(c.room, newGlob(pattern))
		}
	}
	if r.Effect == Allow.String() {
		c.effect = Allow
	}
	switch r.OnError {
	case Allow.String():
		c.failed = OnErrorAllow
	case Deny.String():
		c.failed = OnErrorDeny
	}
	for d := SendKey; d <= Secret; d++ {
		c.directions[d] = w.Direction == nil || slices.Contains(w.Direction, d.String())
	}
	for d := DeviceUnproven; d <= DeviceVerified; d++ {
		if slices.Contains(w.Device, d.String()) || d == DeviceVerified && slices.Contains(w.Device, DeviceConfirmed.String()) {
			c.device = append(c.device, d)
		}
	}
	for _, name := range w.Group {
		c.groups = append(c.groups, groups[name])
	}
	for _, name := range w.UserGroup {
		c.userGroups = append(c.userGroups, groups[name])
	}
	return c
}

// require adds what a rule asks of rooms.
func (s *Set) require(w *When, c *compiled) {
	state := w.RoomPublic != nil || w.JoinRule != nil || w.HistoryVisibility != nil || slices.ContainsFunc(w.Room, isAlias)
	for d := SendKey; d < Secret; d++ {
		if c.directions[d] {
			s.needs[d].State = s.needs[d].State || state
			s.needs[d].Members = s.needs[d].Members || w.MemberServer != nil
		}
	}
}

// isAlias reports whether a pattern for rooms is about aliases.
func isAlias(pattern string) bool { return pattern != "" && pattern[0] == '#' }
