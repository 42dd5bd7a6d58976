package wire

import (
	"bytes"
	"encoding/json"
	"strings"

	"e2ee-proxy/internal/strictjson"
)

// The relation beside a ciphertext, in clear. It must be there (requirement 19.1):
// homeservers aggregate by it, and clients use it before they can decrypt. It contains what
// they need for that and nothing else. If a client's relation has more, the whole relation
// is also encrypted, and used again after decryption if the one in clear still matches it.

// maxRelationText bounds each text of a relation in clear, in bytes: names, event IDs, and
// the key of a reaction.
const maxRelationText = MaxIDLength

// ClearRelation returns the part of a relation that may stay in clear, nil when there is
// none. more reports whether the relation has anything else.
func ClearRelation(relation json.RawMessage) (clear json.RawMessage, more bool) {
	rel, err := strictjson.Parse(relation)
	if err != nil {
		return nil, true
	}
	out := make(strictjson.Object, 0, 5)
	for _, name := range []string{"rel_type", "event_id", "key", "is_falling_back", "m.in_reply_to"} {
		value := rel.Get(name)
		if value == nil {
			continue
		}
		switch name {
		case "m.in_reply_to":
			reply, err := strictjson.Parse(value)
			if err == nil && mayStandInClear("event_id", reply) {
				event, _ := reply.Text("event_id")
				out = append(out, strictjson.Member{Name: name, Value: strictjson.Object{{Name: "event_id", Value: strictjson.Quote(event)}}.Encode()})
				more = more || len(reply) > 1
				continue
			}
		case "is_falling_back":
			if word := string(value); word == "true" || word == "false" {
				out = append(out, strictjson.Member{Name: name, Value: value})
				continue
			}
		default:
			if mayStandInClear(name, rel) {
				text, _ := rel.Text(name)
				out = append(out, strictjson.Member{Name: name, Value: strictjson.Quote(text)})
				continue
			}
		}
		more = true
	}
	more = more || len(out) < len(rel)
	if len(out) == 0 {
		return nil, more
	}
	return out.Encode(), more
}

// mayStandInClear reports whether a text member of a relation has the form that its name
// promises.
func mayStandInClear(name string, of strictjson.Object) bool {
	text, ok := of.Text(name)
	if !ok || text == "" || len(text) > maxRelationText {
		return false
	}
	if name == "key" {
		return true
	}
	if strings.IndexFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) >= 0 {
		return false
	}
	return name != "event_id" || text[0] == '$'
}

// CompleteRelation returns the relation of a decrypted event, nil when it has none. The
// relation in clear decides, also if there is none (requirement 0.3). The encrypted one is
// used if its clear part is the same.
func CompleteRelation(clear, sealed json.RawMessage) json.RawMessage {
	outside, _ := ClearRelation(clear)
	inside, more := ClearRelation(sealed)
	rel, err := strictjson.Parse(clear)
	if clear != nil && err != nil {
		return nil
	}
	whole, err := strictjson.Parse(sealed)
	if err != nil || !more || !bytes.Equal(outside, inside) {
		return clear
	}
	return rel.And(whole).Encode()
}
