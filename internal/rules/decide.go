package rules

import (
	"cmp"
	"slices"
	"strings"
)

// reasonUnknown is the reason where a rule that would allow asks for what is not known.
const reasonUnknown = "It could not be found out whether the rules of your organisation allow it."

// asked is a question with what is read off it once for all rules.
type asked struct {
	*Question
	account, user, server name
}

// Decide answers a question by the first rule that matches. Conditions that are known are looked
// at first: a rule that does not match whatever the rest may be is passed by, and one that asks
// for something that is not known denies.
func (s *Set) Decide(q *Question) Answer {
	if q.Direction <= DirectionNone || q.Direction > Secret {
		return Answer{Failed: true}
	}
	if s.Len() == 0 {
		return Answer{Effect: Allow}
	}
	_, server, _ := strings.Cut(string(q.User), ":")
	a := asked{q, userName(string(q.Account)), userName(string(q.User)), serverName(server)}
	for i := range s.rules {
		r := &s.rules[i]
		switch r.matches(&a) {
		case matchNo:
		case matchYes:
			if r.effect == Allow {
				out := s.narrowed(&a, r.name)
				if out.Effect == Allow {
					out.OnError = r.failed
				}
				return out
			}
			return Answer{Rule: r.name, Reason: r.reason}
		case matchUnknown:
			return Answer{Rule: r.name, Reason: cmp.Or(r.reason, reasonUnknown), Failed: true}
		}
	}
	return s.narrowed(&a, "")
}

// narrowed returns the answer about what the rules let be, after the policies were asked.
func (s *Set) narrowed(a *asked, rule string) Answer {
	if s.cedar == nil {
		return Answer{Effect: Allow, Rule: rule}
	}
	return s.cedar.decide(a, rule)
}

// match is whether a rule, or a condition, holds. The zero value is that it cannot be told.
type match int

const (
	matchUnknown match = iota
	matchNo
	matchYes
)

func (r *compiled) matches(a *asked) match {
	switch {
	case !r.directions[a.Direction],
		r.account != nil && !r.account.matchName(a.account, r.effect),
		r.groups != nil && !anyGroup(r.groups, a.account, r.effect),
		r.user != nil && !r.user.matchName(a.user, r.effect),
		r.userGroups != nil && !anyGroup(r.userGroups, a.user, r.effect),
		r.server != nil && !r.server.matchName(a.server, r.effect):
		return matchNo
	}
	out := matchYes
	if r.device != nil {
		switch {
		case a.Device == DeviceUnknown:
			out = matchUnknown
		case !slices.Contains(r.device, a.Device):
			return matchNo
		}
	}
	if !r.aboutRoom {
		return out
	}
	if a.AnyRoom { // there is a room of which it may not be said, and one of which it may
		return known(out == matchYes && r.effect == Allow)
	}
	room := r.matchesRoom(a.Room)
	if room == matchYes {
		return out
	}
	return room
}

func anyGroup(groups []globs, n name, effect Effect) bool {
	for _, g := range groups {
		if g.matchName(n, effect) {
			return true
		}
	}
	return false
}

// matchesRoom reports whether all conditions about the room hold. What is about no room matches
// no rule about rooms.
func (r *compiled) matchesRoom(room *Room) match {
	if room == nil {
		return matchNo
	}
	out := matchYes
	for _, m := range [...]match{r.isRoom(room), r.isPublic(room), r.joins(room), r.shows(room), r.hasMember(room)} {
		switch m {
		case matchNo:
			return matchNo
		case matchUnknown:
			out = matchUnknown
		case matchYes:
		}
	}
	return out
}

func (r *compiled) isRoom(room *Room) match {
	switch {
	case !r.named || r.room.match(string(room.ID)):
		return matchYes
	case r.alias == nil:
		return matchNo
	case room.State == nil:
		return matchUnknown
	}
	return known(slices.ContainsFunc(room.State.Aliases, r.alias.match))
}

func (r *compiled) isPublic(room *Room) match {
	switch {
	case r.public == nil:
		return matchYes
	case room.State == nil:
		return matchUnknown
	}
	return known(*r.public == room.State.public())
}

func (r *compiled) joins(room *Room) match {
	switch {
	case r.joinRule == nil:
		return matchYes
	case room.State == nil:
		return matchUnknown
	}
	return known(slices.Contains(r.joinRule, room.State.JoinRule))
}

func (r *compiled) shows(room *Room) match {
	switch {
	case r.history == nil:
		return matchYes
	case room.State == nil:
		return matchUnknown
	}
	return known(slices.Contains(r.history, room.State.HistoryVisibility))
}

func (r *compiled) hasMember(room *Room) match {
	switch {
	case r.member == nil:
		return matchYes
	case !room.MembersKnown:
		return matchUnknown
	}
	return known(slices.ContainsFunc(room.Servers, func(s string) bool { return r.member.matchName(serverName(s), r.effect) }))
}

func known(holds bool) match {
	if holds {
		return matchYes
	}
	return matchNo
}
