package rules

import _ "embed" // for the doc comments below

//go:embed rule.go
var source string

// Source returns the Go source of this file: its doc comments explain the parts of a rule, in the
// documentation of the settings too.
func Source() string { return source }

// Rule is one rule as it is written.
type Rule struct {
	// Names the rule in logs, metrics and examples: letters, digits, - and _.
	Name string `json:"name" yaml:"name"`

	// deny or allow. What a rule allows is not looked at by the rules after it; it is never more
	// than is given or shown without any rule.
	Effect string `json:"effect" yaml:"effect"`

	// What the rule is about; without it, everything. All conditions that are given must hold, and
	// of the values of one of them any. In them * stands for any number of characters, ? for one.
	When When `json:"when" yaml:"when"`

	// What becomes of what this rule allows when policy.decision_point does not answer: deny or allow,
	// instead of policy.decision_point.on_error; for rules that allow.
	OnError string `json:"on_error,omitempty" yaml:"on_error"`

	// Why it is denied, in words for the people who are told; for rules that deny.
	Reason string `json:"reason,omitempty" yaml:"reason"`
}

// When are the conditions of a rule.
type When struct {
	// send_key: room keys for devices, of messages and of the history that is shared with who is
	// invited. show_message: messages in encrypted rooms for the account's clients. secret: the
	// account's own secrets, for its other devices.
	Direction []string `json:"direction,omitempty" yaml:"direction"`

	// User IDs of accounts here: who sends the key, sees the message or has the secret.
	Account []string `json:"account,omitempty" yaml:"account"`

	// Groups that the account here is in.
	Group []string `json:"group,omitempty" yaml:"group"`

	// User IDs of the other side: who would be given the key or secret, or sent the message.
	User []string `json:"user,omitempty" yaml:"user"`

	// Groups that the user of the other side is in.
	UserGroup []string `json:"user_group,omitempty" yaml:"user_group"`

	// Servers of the other side. Without a port it means every port in a rule that denies, and
	// none in one that allows; so in user IDs. Capitals make no difference.
	Server []string `json:"server,omitempty" yaml:"server"`

	// How far the other side's device is trusted: verified (its owner has signed it, and the account
	// verified the owner), confirmed (its owner has signed it; those that are verified too),
	// exception (the account made one), unconfirmed (met only while policy is on warn or off),
	// unproven (a message of which it is not proven who sent it, or one in clear).
	Device []string `json:"device,omitempty" yaml:"device"`

	// IDs of rooms (!…), or aliases (#…) that the room names as its own. Whoever may change a room's
	// aliases can name any: name IDs where it matters.
	Room []string `json:"room,omitempty" yaml:"room"`

	// Whether anybody may join the room, or read it without joining.
	RoomPublic *bool `json:"room_public,omitempty" yaml:"room_public"`

	// The room's join rule: public, knock, invite, private, restricted, knock_restricted.
	JoinRule []string `json:"join_rule,omitempty" yaml:"join_rule"`

	// The room's history visibility: invited, joined, shared, world_readable.
	HistoryVisibility []string `json:"history_visibility,omitempty" yaml:"history_visibility"`

	// Servers of which at least one has a member, or somebody who is invited, in the room.
	MemberServer []string `json:"member_server,omitempty" yaml:"member_server"`
}

// Group is a group of users.
type Group struct {
	// Names the group in rules.
	Name string `json:"name" yaml:"name"`

	// User IDs, with * and ? as in rules: ["@*:example.org"].
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
