package wire

import (
	"encoding/json"
	"strings"

	"e2ee-proxy/internal/strictjson"
)

// What may stay in clear in an encrypted room, and what clients show as a message, whatever
// else the event is. Sending and receiving use the same rules.

// maxClearText bounds each text of a reaction in clear, in bytes: its key is an emoji, a
// word or the URL of a picture, never a message.
const maxClearText = 255

// MessageType reports whether clients show events of this type as a message, also with a
// state key, because some check the type alone. Related state events, such as m.beacon_info
// and m.call.member, are not messages.
func MessageType(eventType string) bool {
	switch eventType {
	case "m.room.message", "m.sticker", "m.room.encrypted", "m.reaction", "m.room.redaction", "m.room.message.feedback",
		// MSC3489, MSC3672: a location. (m.beacon_info, that it is shared, is state.)
		"m.beacon", "org.matrix.msc3489.beacon", "org.matrix.msc3672.beacon",
		// Extensible events: MSC1767, 3246, 3488, 3551, 3552, 3553, 3927, 3954, 3955.
		"m.message", "m.emote", "m.notice", "m.text", "m.location", "m.file", "m.image", "m.image_gallery", "m.video",
		"m.audio", "m.voice", "m.encrypted":
		return true
	case "m.call.member": // MSC3401, MSC4143: who takes part in a call
		return false
	}
	for _, prefix := range []string{
		"m.key.verification.", "m.poll.", "org.matrix.msc3381.",
		"m.call.", "org.matrix.call.", // offers and answers of calls, which contain network addresses
		"org.matrix.msc1767.", "org.matrix.msc3246.", "org.matrix.msc3488.", "org.matrix.msc3551.", "org.matrix.msc3552.",
		"org.matrix.msc3553.", "org.matrix.msc3927.", "org.matrix.msc3954.",
	} {
		if strings.HasPrefix(eventType, prefix) {
			return true
		}
	}
	return false
}

// PlainReaction reports whether a reaction contains only what it reacts to, and with what,
// which every client sends in clear (requirement 19.5). A redacted one is plain, too.
func PlainReaction(event json.RawMessage) bool {
	ev, err := strictjson.Parse(event)
	if err != nil {
		return false
	}
	raw := ev.Get("content")
	if raw == nil {
		return true
	}
	content, err := strictjson.Parse(raw)
	_, state := ev.Text("state_key")
	return err == nil && PlainReactionContent(content) && (!state || len(content) == 0)
}

// PlainReactionContent is PlainReaction for a content.
func PlainReactionContent(content strictjson.Object) bool {
	if len(content) == 0 {
		return true
	}
	for _, m := range content {
		switch m.Name {
		case "m.relates_to":
		case "shortcode", "com.beeper.reaction.shortcode": // MSC4027: names of custom pictures
			if text, ok := content.Text(m.Name); !ok || len(text) > maxClearText {
				return false
			}
		default:
			return false
		}
	}
	relation, err := strictjson.Parse(content.Get("m.relates_to"))
	if err != nil {
		return false
	}
	for _, m := range relation {
		text, ok := relation.Text(m.Name)
		if !ok || len(text) > maxClearText {
			return false
		}
		switch m.Name {
		case "event_id", "key":
		case "rel_type":
			if text != "m.annotation" {
				return false
			}
		default:
			return false
		}
	}
	return relation.Get("rel_type") != nil
}
