package interceptors

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// What is sent in clear into encrypted rooms, as by every client: reactions and redactions
// (requirements 19.5, 19.6). Both lose what a person could read in them, for the reasons in
// docs/clear-text.md.
//
//   - A reaction keeps its relation and nothing else. The names of pictures that some
//     clients put beside it (MSC4027) are removed. One with anything more is encrypted like
//     a message.
//   - A redaction keeps the event ID. Its reason is removed, because it is about what
//     somebody wrote here; the redaction does not fail for it. One with anything more is
//     refused: encrypted it would redact nothing.

const memberReason = "reason"

// inClear returns the body of an event that is sent in clear, nil for everything else.
func inClear(eventType string, raw []byte) ([]byte, error) {
	if eventType != typeReaction && eventType != typeRedaction {
		return nil, nil
	}
	content, err := exchange.ParseObject(raw)
	if err != nil {
		return nil, err
	}
	if eventType == typeRedaction {
		if err := checkRedaction(content); err != nil {
			return nil, err
		}
		return withoutMembers(raw, content, memberReason)
	}
	if !isReaction(content) {
		return nil, nil
	}
	return withoutMembers(raw, content, "shortcode", "com.beeper.reaction.shortcode")
}

// isReaction reports whether a reaction has only its relation and the name of its picture.
func isReaction(content strictjson.Object) bool {
	relation := content.Object("m.relates_to")
	if _, more := e2ee.ClearRelation(content.Get("m.relates_to")); more || relation.TextOrEmpty("rel_type") != "m.annotation" {
		return false
	}
	for _, m := range content {
		switch m.Name {
		case "m.relates_to":
		case "shortcode", "com.beeper.reaction.shortcode":
			if jsontext.Value(m.Value).Kind() != jsontext.KindString {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// checkRedaction refuses a redaction with members that no redaction has.
func checkRedaction(content strictjson.Object) error {
	for _, m := range content {
		ok := false
		switch m.Name {
		case memberReason:
			ok = true // it is removed
		case "redacts":
			event := content.TextOrEmpty(m.Name)
			ok = isIdentifier(event) && event[0] == '$'
		case "with_rel_types", "org.matrix.msc3912.with_rel_types", "org.matrix.msc3912.with_relations":
			var kinds []string
			ok = json.Unmarshal(m.Value, &kinds) == nil && !slices.ContainsFunc(kinds, func(s string) bool { return !isIdentifier(s) })
		}
		if !ok {
			return apierr.BadJSON("A redaction in an encrypted room can name what it redacts and nothing else, because it is not encrypted.")
		}
	}
	return nil
}

// isIdentifier reports whether a text can be an identifier and is no sentence.
func isIdentifier(s string) bool {
	return s != "" && len(s) <= 255 && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) < 0
}

// withoutMembers removes members of an object, and returns one that has none of them as it
// is.
func withoutMembers(raw []byte, content strictjson.Object, names ...string) ([]byte, error) {
	if !slices.ContainsFunc(names, func(name string) bool { return content.Get(name) != nil }) {
		return raw, nil
	}
	return strictjson.Edit(raw, func(name string, value jsontext.Value) (jsontext.Value, error) {
		if slices.Contains(names, name) {
			return nil, nil
		}
		return value, nil
	})
}
