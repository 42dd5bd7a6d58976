package roomevents

import (
	"encoding/json"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// What is shown instead of a message that was held back (requirement 26.1: no word of keys
// or cross-signing), or that cannot be read yet.
const (
	textMismatchedSender    = "A message that was not encrypted by its sender was held back."
	textSentInClear         = "A message that was not encrypted, although the room is, was held back."
	textUnknownAuthenticity = "A message was held back because it cannot be checked who sent it."
	textUnknownDevice       = "A message from an unknown or deleted device was held back."
	textUnsignedDevice      = "A message from a device that its owner has not confirmed was held back."
	textDeniedByRule        = "A message was held back by a rule of your organisation. "
	textWaiting             = "Waiting for a message that cannot be read yet. It is shown when it can be."
)

// placeholder returns the text shown instead of a withheld message.
func placeholder(v trustcache.Verdict) string {
	switch v.Code {
	case trustcache.CodeDeniedByRule:
		return textDeniedByRule + v.Message
	case trustcache.CodeMismatchedSender:
		return textMismatchedSender
	case trustcache.CodeSentInClear:
		return textSentInClear
	case trustcache.CodeAuthenticityNotGuaranteed:
		return textUnknownAuthenticity
	case trustcache.CodeUnknownDevice:
		return textUnknownDevice
	case trustcache.CodeUnsignedDevice, trustcache.CodeUnverifiedIdentity, trustcache.CodeVerificationViolation,
		trustcache.CodeMissingRoomKey, trustcache.CodeWithheld, trustcache.CodeUnknownMessageIndex,
		trustcache.CodeMalformed, trustcache.CodeReplayed:
	}
	return textUnsignedDevice
}

// dropEdit turns an edit in clear into a message of its own: it must not change an
// encrypted one (attack A24).
func (job *eventJob) dropEdit() {
	content, err := strictjson.Parse(job.event.Get("content"))
	if err != nil {
		return
	}
	relation, err := strictjson.Parse(content.Get("m.relates_to"))
	if err != nil {
		return
	}
	if kind, _ := relation.Text("rel_type"); kind == "m.replace" {
		job.event = job.event.Set("content", content.Without("m.relates_to").Encode())
	}
}

// clear returns the decrypted event.
func (job *eventJob) clear(v trustcache.Verdict) Opened {
	content, err := job.clearContent()
	if err != nil { // the event was parsed before, so this cannot fail
		return job.withheld(trustcache.JudgeUndecrypted(trustcache.CodeMalformed, ""), trustcache.Policy{})
	}
	job.said = content
	out := job.event.Set("type", strictjson.Quote(job.Type)).Set("content", content.Encode())
	out = annotate(out, v).Set("decrypted", json.RawMessage(`true`))
	return Opened{Event: out.Encode(), Type: job.Type, Decrypted: true}
}

// clearContent returns the decrypted content with the complete relation (attack N3). A
// relation that makes an edit of an event that is none is dropped.
func (job *eventJob) clearContent() (strictjson.Object, error) {
	content, err := strictjson.Parse(job.Payload.Get("content"))
	if err != nil {
		return nil, err
	}
	outside, inside := job.outer.Get("m.relates_to"), content.Get("m.relates_to")
	if outside == nil && inside == nil {
		return content, nil
	}
	relation := wire.CompleteRelation(outside, inside)
	content = content.Without("m.relates_to")
	rel, err := strictjson.Parse(relation)
	if err != nil {
		return content, nil
	}
	if kind, _ := rel.Text("rel_type"); kind == "m.replace" && content.Get("m.new_content") == nil {
		return content, nil
	}
	return content.Set("m.relates_to", relation), nil
}

// withheld returns the placeholder of a withheld event.
func (job *eventJob) withheld(v trustcache.Verdict, policy trustcache.Policy) Opened {
	out := job.placeholder(v, placeholder(v))
	out.Withheld, out.Hidden = true, policy.Withheld == trustcache.WithheldHide
	return out
}

// placeholder returns an event with nothing of the message but its sender, time and room.
func (job *eventJob) placeholder(v trustcache.Verdict, text string) Opened {
	content := strictjson.Object{{Name: "msgtype", Value: strictjson.Quote("m.notice")}, {Name: "body", Value: strictjson.Quote(text)}}
	out := append(job.event.Only("event_id", "origin_server_ts", "room_id", "sender"),
		strictjson.Member{Name: "type", Value: strictjson.Quote("m.room.message")}, strictjson.Member{Name: "content", Value: content.Encode()})
	if unsigned, err := strictjson.Parse(job.event.Get("unsigned")); err == nil {
		out = out.Set("unsigned", unsigned.Only("age", "membership", "transaction_id").Encode())
	}
	return Opened{Event: annotate(out, v).Encode(), Type: "m.room.message"}
}

// asCame returns the event as the homeserver sent it, with the verdict.
func (job *eventJob) asCame(v trustcache.Verdict) Opened {
	eventType, _ := job.event.Text("type")
	return Opened{Event: annotate(job.event, v).Encode(), Type: eventType}
}

// annotate adds the verdict to unsigned. An event that was judged is no state, so that what the
// homeserver says it replaced is a text that nobody judged.
func annotate(event strictjson.Object, v trustcache.Verdict) strictjson.Object {
	note, err := json.Marshal(v.Annotation())
	if err != nil {
		return event
	}
	unsigned, err := strictjson.Parse(event.Get("unsigned"))
	if err != nil {
		unsigned = nil
	}
	unsigned = unsigned.Without("prev_content").Without("replaces_state")
	return event.Without("prev_content").Without("replaces_state").Set("unsigned", unsigned.Set(trustcache.AnnotationKey, note).Encode())
}

// unreadable returns what a client is shown of an event that cannot be decrypted.
func (r *Reader) unreadable(job *eventJob, v trustcache.Verdict) Opened {
	if r.undecryptable == UndecryptableEvent {
		return job.asCame(v)
	}
	out := job.placeholder(v, unreadableText(v))
	out.Withheld = true
	return out
}

// unreadableText returns the text of that placeholder.
func unreadableText(v trustcache.Verdict) string {
	if v.Code == trustcache.CodeMissingRoomKey {
		return textWaiting
	}
	return v.Message
}
