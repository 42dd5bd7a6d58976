package rules

// Rule is one rule as it is written.
type Rule struct {
	// Name names the rule in logs, metrics and examples.
	Name string `json:"name" yaml:"name"`
	// Effect is deny or allow.
	Effect string `json:"effect" yaml:"effect"`
	// When says what the rule is about; a rule that says nothing is about everything.
	When When `json:"when" yaml:"when"`
	// Reason tells a person why; for rules that deny.
	Reason string `json:"reason,omitempty" yaml:"reason"`
}

// When are the conditions of a rule. All that are given must hold, and of the values of one of
// them any. In texts * stands for any number of characters, ? for one.
type When struct {
	// Direction: send_key, show_message, secret.
	Direction []string `json:"direction,omitempty" yaml:"direction"`
	// Account and Group are the account here, and the groups that it is in.
	Account []string `json:"account,omitempty" yaml:"account"`
	Group   []string `json:"group,omitempty" yaml:"group"`
	// User, UserGroup and Server are the other side: who would be given the key or the secret, or
	// who sent the message.
	User      []string `json:"user,omitempty" yaml:"user"`
	UserGroup []string `json:"user_group,omitempty" yaml:"user_group"`
	Server    []string `json:"server,omitempty" yaml:"server"`
	// Device is how far the other side's device is trusted; see [Device].
	Device []string `json:"device,omitempty" yaml:"device"`
	// Room is the room's ID, or one of its aliases.
	Room []string `json:"room,omitempty" yaml:"room"`
	// RoomPublic is whether anybody may join the room, or read it without joining.
	RoomPublic        *bool    `json:"room_public,omitempty" yaml:"room_public"`
	JoinRule          []string `json:"join_rule,omitempty" yaml:"join_rule"`
	HistoryVisibility []string `json:"history_visibility,omitempty" yaml:"history_visibility"`
	// MemberServer holds if some member's server matches.
	MemberServer []string `json:"member_server,omitempty" yaml:"member_server"`
}

// Group is a group of users.
type Group struct {
	Name  string   `json:"name" yaml:"name"`
	Users []string `json:"users" yaml:"users"`
}

// aboutRoom reports whether the rule asks anything about a room.
func (w *When) aboutRoom() bool {
	return w.Room != nil || w.RoomPublic != nil || w.JoinRule != nil || w.HistoryVisibility != nil || w.MemberServer != nil
}

// empty reports whether the rule is about everything.
func (w *When) empty() bool {
	return !w.aboutRoom() && w.Direction == nil && w.Account == nil && w.Group == nil && w.User == nil && w.UserGroup == nil &&
		w.Server == nil && w.Device == nil
}
