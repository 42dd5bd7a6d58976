package wire

import (
	"bytes"
	"encoding/json"
	"strings"

	"e2ee-proxy/internal/strictjson"
)

// What stands beside a ciphertext for everybody to read. A relation has to (requirement
// 19.1): homeservers aggregate by it, and clients follow it before they can decrypt. So it
// stands there with what they need for that and with nothing else. What a client put into
// it beyond that goes into the ciphertext, with the whole relation, and comes out again
// where the relation in clear is the one that the sender meant.

// maxRelationText bounds each text of a relation in clear, in bytes: names, event IDs, and
// the key of a reaction, which is an emoji or the address of a picture.
const maxRelationText = MaxIDLength

// ClearRelation returns what of a relation may stand in clear, nil when it is nothing. more
// says that the relation has anything beyond that.
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

// mayStandInClear reports whether a text member of a relation is what its name says.
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

// CompleteRelation returns the relation of a decrypted event, nil when it has none. The one
// in clear counts, also by its absence (conflict 0.3); what the sender sealed is added to
// it where both are the same as far as they can stand in clear.
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
