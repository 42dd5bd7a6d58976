package unread

import (
	"regexp"
	"slices"
	"strings"
)

// condition is one condition of a rule.
type condition interface {
	// holds reports whether it is fulfilled.
	holds(e *event, f *facts) bool
	// cost orders conditions: those that need nothing but the event come first.
	cost() int
}

const (
	costEvent = iota
	costText
	costAsk
)

// matches is event_match: only texts match.
type matches struct {
	key     key
	pattern *regexp.Regexp
}

func (c matches) cost() int { return costEvent }

func (c matches) holds(e *event, _ *facts) bool {
	text, ok := e.textAt(c.key)
	return ok && c.pattern.MatchString(text)
}

// equals is event_match with a pattern that is a text without wildcards.
type equals struct {
	key  key
	want string
}

func (c equals) cost() int { return costEvent }

func (c equals) holds(e *event, _ *facts) bool {
	text, ok := e.textAt(c.key)
	return ok && strings.EqualFold(text, c.want)
}

// exactly is event_property_is.
type exactly struct {
	key  key
	want any
}

func (c exactly) cost() int { return costEvent }

func (c exactly) holds(e *event, _ *facts) bool {
	if want, ok := c.want.(string); ok {
		text, isText := e.textAt(c.key)
		return isText && text == want
	}
	value, ok := e.at(c.key)
	return ok && same(value, c.want)
}

// contains is event_property_contains.
type contains struct {
	key  key
	want any
}

func (c contains) cost() int { return costEvent }

func (c contains) holds(e *event, _ *facts) bool {
	if !e.has(c.key) {
		return false
	}
	value, _ := e.at(c.key)
	all, _ := value.([]any)
	return slices.ContainsFunc(all, func(one any) bool { return same(one, c.want) })
}

// same compares values that are neither lists nor objects; those equal nothing.
func same(a, b any) bool {
	switch a.(type) {
	case nil, bool, string, float64:
		return a == b
	}
	return false
}

// namesUser is contains_display_name: the user's name in the room as words of the body.
type namesUser struct{}

func (c namesUser) cost() int { return costText }

func (c namesUser) holds(e *event, f *facts) bool {
	return e.says(strings.ToLower(strings.TrimSpace(f.name)))
}

// says is event_match of the body with a text without wildcards, in small letters.
type says struct{ words string }

func (c says) cost() int { return costText }

func (c says) holds(e *event, _ *facts) bool { return e.says(c.words) }

// says reports whether a text in small letters stands in the body as words.
func (e *event) says(words string) bool {
	if e.body == nil {
		text := strings.ToLower(e.text(keyText))
		e.body = &text
	}
	text := *e.body
	for from := 0; words != ""; {
		i := strings.Index(text[from:], words)
		if i < 0 {
			break
		}
		start, end := from+i, from+i+len(words)
		if (start == 0 || !isWord(text[start-1])) && (end == len(text) || !isWord(text[end])) {
			return true
		}
		from = start + 1
	}
	return false
}

func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// memberCount is room_member_count.
type memberCount struct {
	operator string
	n        int
}

func (c memberCount) cost() int { return costAsk }

func (c memberCount) holds(_ *event, f *facts) bool {
	if f.members < 0 {
		return f.guess(needsMembers)
	}
	switch c.operator {
	case "", "==":
		return f.members == c.n
	case "<":
		return f.members < c.n
	case ">":
		return f.members > c.n
	case "<=":
		return f.members <= c.n
	case ">=":
		return f.members >= c.n
	}
	return false
}

// mayNotify is sender_notification_permission.
type mayNotify struct{ key string }

func (c mayNotify) cost() int { return costAsk }

func (c mayNotify) holds(e *event, f *facts) bool {
	if f.power == nil {
		return f.guess(needsPower)
	}
	return f.power.mayNotify(e.sender(), c.key)
}
