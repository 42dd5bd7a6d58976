package unread

import (
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"
	"maunium.net/go/mautrix/pushrules"
)

// Rules are the push rules of an account in the order in which they are tried
// (Client-Server API, Push rules). They may be used by many at once.
type Rules struct {
	all      []rule
	patterns int // regular expressions among them
}

// An account has as many rules as its user makes. Further ones match nothing.
const (
	maxRulesOf  = 5000
	maxPatterns = 100 // with wildcards
)

// Outcome is what the rules say of an event.
type Outcome struct {
	Notify, Highlight bool
}

var errRules = errors.New("the push rules are not readable")

// rule is one rule that is enabled.
type rule struct {
	id         string
	conditions []condition
	outcome    Outcome
	actions    []json.RawMessage
}

// rawRules are the rules as the homeserver has them. Rules and conditions are read one by one: one
// that cannot be read matches nothing.
type rawRules struct {
	Override  []json.RawMessage `json:"override"`
	Content   []json.RawMessage `json:"content"`
	Room      []json.RawMessage `json:"room"`
	Sender    []json.RawMessage `json:"sender"`
	Underride []json.RawMessage `json:"underride"`
}

type rawRule struct {
	ID         string                    `json:"rule_id"`
	Enabled    bool                      `json:"enabled"`
	Conditions []pushrules.PushCondition `json:"conditions"`
	Pattern    string                    `json:"pattern"`
	Actions    []json.RawMessage         `json:"actions"`
}

// Parse reads rules: the content of m.push_rules, and what GET /pushrules/ answers.
func Parse(raw json.RawMessage) (*Rules, error) {
	var content struct {
		Global *rawRules `json:"global"`
	}
	if err := json.Unmarshal(raw, &content); err != nil || content.Global == nil {
		return nil, errRules
	}
	g := content.Global
	r := &Rules{}
	r.add(readRules(g.Override), conditionsOf)
	r.add(readRules(g.Content), func(one *rawRule) ([]condition, bool) {
		return compile([]pushrules.PushCondition{{Kind: pushrules.KindEventMatch, Key: keyBody, Pattern: one.Pattern}})
	})
	r.add(readRules(g.Room), func(one *rawRule) ([]condition, bool) { return []condition{exactly{keyRoom, one.ID}}, true })
	r.add(readRules(g.Sender), func(one *rawRule) ([]condition, bool) { return []condition{exactly{keySender, one.ID}}, true })
	r.add(readRules(g.Underride), conditionsOf)
	return r, nil
}

// ForClear returns the rules that are applied to clear events: with the specification's own
// that an older homeserver does not have.
func ForClear(raw json.RawMessage, user id.UserID) (*Rules, error) {
	completed, err := complete(raw, user)
	if err != nil {
		return nil, err
	}
	return Parse(completed)
}

func readRules(raw []json.RawMessage) []rawRule {
	all := make([]rawRule, 0, len(raw))
	for _, one := range raw {
		var r rawRule
		if json.Unmarshal(one, &r) == nil && r.Enabled {
			all = append(all, r)
		}
	}
	return all
}

func conditionsOf(one *rawRule) ([]condition, bool) { return compile(one.Conditions) }

// add adds the rules of one kind.
func (r *Rules) add(all []rawRule, conditions func(*rawRule) ([]condition, bool)) {
	for i := range all {
		needs, ok := conditions(&all[i])
		if !ok || len(r.all) == maxRulesOf {
			continue
		}
		patterns := 0
		for _, c := range needs {
			if _, ok := c.(matches); ok {
				patterns++
			}
		}
		if r.patterns+patterns > maxPatterns {
			continue
		}
		r.patterns += patterns
		r.all = append(r.all, rule{id: all[i].ID, conditions: needs, outcome: outcomeOf(all[i].Actions), actions: all[i].Actions})
	}
}

// outcomeOf reads actions. A tweak without a notification highlights nothing.
func outcomeOf(actions []json.RawMessage) Outcome {
	var o Outcome
	for _, raw := range actions {
		var a pushrules.PushAction
		if json.Unmarshal(raw, &a) != nil {
			continue
		}
		switch {
		case a.Action == pushrules.ActionNotify:
			o.Notify = true
		case a.Action == pushrules.ActionSetTweak && a.Tweak == pushrules.TweakHighlight:
			o.Highlight = a.Value != false // no value means true
		}
	}
	o.Highlight = o.Highlight && o.Notify
	return o
}

const (
	keyBody    = "content.body"
	maxPattern = 1024 // of a pattern that is compiled, in bytes
)

// compile makes conditions ready; ok is false when they can never hold. Those that take
// asking come last.
func compile(all []pushrules.PushCondition) (out []condition, ok bool) {
	for i := range all {
		c := compileOne(&all[i])
		if c == nil {
			return nil, false
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b condition) int { return a.cost() - b.cost() })
	return out, true
}

// compileOne returns a condition; nil when it is unknown or unreadable, and so never holds.
func compileOne(c *pushrules.PushCondition) condition {
	switch c.Kind {
	case pushrules.KindEventMatch:
		return compileMatch(c.Key, c.Pattern)
	case pushrules.KindEventPropertyIs:
		return exactly{keyOf(c.Key), c.Value}
	case pushrules.KindEventPropertyContains:
		return contains{keyOf(c.Key), c.Value}
	case pushrules.KindContainsDisplayName:
		return namesUser{}
	case pushrules.KindRoomMemberCount:
		return compileMembers(c.MemberCountCondition)
	case pushrules.KindSenderNotificationPermission:
		return mayNotify{c.Key}
	case pushrules.KindRelatedEventMatch, pushrules.KindUnstableRelatedEventMatch: // MSC3664, in no specification
	}
	return nil
}

// compileMatch returns event_match. Most patterns have no wildcards, and take no regular
// expression.
func compileMatch(key, pattern string) condition {
	words := key == keyBody
	if key == "" {
		return nil
	}
	literal := !strings.ContainsAny(pattern, "*?")
	switch {
	case literal && !words:
		return equals{keyOf(key), pattern}
	case literal && pattern != "":
		return says{strings.ToLower(pattern)}
	}
	compiled := compilePattern(pattern, words)
	if compiled == nil {
		return nil
	}
	return matches{keyOf(key), compiled}
}

// compilePattern returns a pattern of event_match: the whole value, or words of a text,
// without regard to case. A word ends at everything but ASCII letters, digits and _.
func compilePattern(pattern string, words bool) *regexp.Regexp {
	if pattern == "" && words || len(pattern) > maxPattern {
		return nil
	}
	var out strings.Builder
	for _, r := range pattern {
		switch r {
		case '*':
			out.WriteString(".*")
		case '?':
			out.WriteString(".")
		default:
			out.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	before, behind := "^", "$"
	if words {
		before, behind = `(?:^|\W)`, `(?:\W|$)`
	}
	compiled, err := regexp.Compile("(?is)" + before + out.String() + behind)
	if err != nil {
		return nil
	}
	return compiled
}

func compileMembers(is string) condition {
	parts := pushrules.MemberCountFilterRegex.FindStringSubmatch(is)
	if len(parts) != 3 {
		return nil
	}
	n, err := strconv.Atoi(parts[2])
	if err != nil {
		return nil
	}
	return memberCount{parts[1], n}
}

// key is where a value stands in an event.
type key struct {
	name string // as rules name it
	path []string
}

func keyOf(name string) key { return key{name, splitKey(name)} }

var (
	keyRoom     = keyOf("room_id")
	keySender   = keyOf("sender")
	keyEventID  = keyOf("event_id")
	keyText     = keyOf(keyBody)
	keyMentions = keyOf(`content.m\.mentions`)
)

// splitKey splits a key at its dots; a backslash makes a dot or a backslash part of a name.
func splitKey(key string) []string {
	var names []string
	var name strings.Builder
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
			name.WriteByte(key[i])
		case c == '.':
			names = append(names, name.String())
			name.Reset()
		default:
			name.WriteByte(c)
		}
	}
	return append(names, name.String())
}
