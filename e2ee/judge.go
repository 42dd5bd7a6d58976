package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// placeholder returns the text shown instead of a withheld message (requirement 26.1: no
// word of keys or cross-signing).
func placeholder(code trustcache.Code) string {
	switch code {
	case trustcache.CodeMismatchedSender:
		return "A message that was not encrypted by its sender was held back."
	case trustcache.CodeSentInClear:
		return "A message that was not encrypted, although the room is, was held back."
	case trustcache.CodeAuthenticityNotGuaranteed:
		return "A message was held back because it cannot be checked who sent it."
	case trustcache.CodeUnknownDevice:
		return "A message from an unknown or deleted device was held back."
	case trustcache.CodeUnsignedDevice, trustcache.CodeUnverifiedIdentity, trustcache.CodeVerificationViolation,
		trustcache.CodeMissingRoomKey, trustcache.CodeWithheld, trustcache.CodeUnknownMessageIndex,
		trustcache.CodeMalformed, trustcache.CodeReplayed:
	}
	return "A message from a device that its owner has not confirmed was held back."
}

// judgement is what the events of one batch are judged by.
type judgement struct {
	users  map[id.UserID]*trustcache.User
	policy trustcache.Policy
	notes  map[store.SessionRef]store.WithheldNote
	keys   int // see roomkeys.Inbound.Stored
}

// judge returns what the client is shown of one event.
func (d *Device) judge(job *eventJob, by *judgement) Opened {
	switch {
	case job.Ciphertext == "": // also if something else is wrong with it
		return d.judgePlain(job, by.policy)
	case job.Err != nil:
		code, withheldCode := job.refusal(by.notes)
		job.code = code
		return d.unreadable(job, trustcache.JudgeUndecrypted(code, withheldCode))
	}
	verdict, owner := d.judgeOwners(job, by)
	d.acct.rollout.Verdict(job.room, owner, verdict)
	switch verdict.Deliver {
	case trustcache.DeliverClear:
		return job.clear(verdict)
	case trustcache.DeliverAsCame:
		return job.asCame(verdict)
	case trustcache.DeliverWithheld:
	}
	job.held = d.waitsFor(job, owner, verdict.Code, by.policy)
	return job.withheld(verdict, by.policy)
}

// judgeOwners judges an event by each possible owner of its session and returns the best
// verdict with its owner. A device can claim a session in its own name only, so a claim
// cannot harm another owner.
func (d *Device) judgeOwners(job *eventJob, by *judgement) (best trustcache.Verdict, owner trustcache.Owner) {
	for i, c := range job.Claims(by.policy.Bridges) {
		if verdict := d.judgeAs(job, by, c); i == 0 || verdict.Above(best) {
			best, owner = verdict, c.Owner
		}
	}
	return best, owner
}

// judgeAs judges an event by one possible owner of its session.
func (d *Device) judgeAs(job *eventJob, by *judgement, c roomkeys.Claim) trustcache.Verdict {
	return trustcache.Judge(trustcache.JudgeInput{
		Sender: job.Sender, Own: d.acct.User, OwnKey: d.core.Curve25519,
		Source: c.Source, Owner: c.Owner,
		OwnerUser: by.users[c.UserID], Forwarder: d.forwarder(c.Source), Policy: by.policy,
	})
}

// waitsFor returns the user of whom more must become known before a withheld event can be
// shown; empty when that would change nothing.
func (d *Device) waitsFor(job *eventJob, owner trustcache.Owner, code trustcache.Code, policy trustcache.Policy) id.UserID {
	mismatched := code == trustcache.CodeMismatchedSender && !policy.Bridges[owner.UserID]
	switch {
	case mismatched && owner.Curve25519 == d.core.Curve25519:
		return "" // the session is our own
	case mismatched, owner.UserID == "":
		return job.Sender // the sender may still send the key as theirs
	default:
		return owner.UserID
	}
}

// refusal returns why an event could not be decrypted.
func (job *eventJob) refusal(notes map[store.SessionRef]store.WithheldNote) (trustcache.Code, event.RoomKeyWithheldCode) {
	note, noted := notes[job.Ref]
	switch {
	case errors.Is(job.Err, roomkeys.ErrNoKey) && noted, errors.Is(job.Err, roomkeys.ErrTooEarly) && noted:
		return trustcache.CodeWithheld, event.RoomKeyWithheldCode(note.Code)
	case errors.Is(job.Err, roomkeys.ErrNoKey), errors.Is(job.Err, roomkeys.ErrOurs):
		return trustcache.CodeMissingRoomKey, ""
	case errors.Is(job.Err, roomkeys.ErrTooEarly):
		return trustcache.CodeUnknownMessageIndex, ""
	case errors.Is(job.Err, roomkeys.ErrReplayed):
		return trustcache.CodeReplayed, ""
	default:
		return trustcache.CodeMalformed, ""
	}
}

// judgePlain judges events in clear. In an encrypted room those that should have been
// encrypted are marked or withheld (requirement 8.11).
func (d *Device) judgePlain(job *eventJob, policy trustcache.Policy) Opened {
	if job.Type == "m.room.encrypted" && len(job.event.Get("content")) > len(`{}`) { // sent as state, which encrypted events never are
		return d.unreadable(job, trustcache.JudgeUndecrypted(trustcache.CodeMalformed, ""))
	}
	if job.order == OrderBefore || !d.KnownEncrypted(job.room) || !encryptable(job) {
		return Opened{Event: job.event.Encode(), Type: job.Type}
	}
	if job.order == OrderUnknown { // an event that may be older than the encryption is not withheld
		policy.InClear = trustcache.InClearMark
	}
	verdict := trustcache.JudgeInClear(job.Sender, policy)
	d.acct.rollout.Verdict(job.room, trustcache.Owner{UserID: job.Sender}, verdict)
	if verdict.Deliver == trustcache.DeliverAsCame {
		job.dropEdit()
		return job.asCame(verdict)
	}
	return job.withheld(verdict, policy)
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

// encryptable reports whether an event in clear should have been encrypted in an encrypted
// room. State, redactions and reactions without a text should not (requirements 19.5, 19.6,
// 20.1); what clients show as a message should, whatever else it is.
func encryptable(job *eventJob) bool {
	content := job.event.Get("content")
	if len(content) <= len(`{}`) {
		return false
	}
	_, state := job.event.Text("state_key")
	switch {
	case state && !wire.MessageType(job.Type), job.Type == "m.room.redaction", job.Type == "m.room.encrypted":
		return false
	case job.Type == "m.reaction" && !state:
		said, err := strictjson.Parse(content)
		return err != nil || !wire.PlainReactionContent(said)
	}
	return true
}

// clear returns the decrypted event.
func (job *eventJob) clear(v trustcache.Verdict) Opened {
	content, err := job.clearContent()
	if err != nil { // the event was parsed before, so this cannot fail
		return job.withheld(trustcache.JudgeUndecrypted(trustcache.CodeMalformed, ""), trustcache.Policy{})
	}
	out := job.event.Set("type", strictjson.Quote(job.Type)).Set("content", content)
	out = annotate(out, v).Set("decrypted", json.RawMessage(`true`))
	return Opened{Event: out.Encode(), Type: job.Type, Decrypted: true}
}

// clearContent returns the decrypted content with the complete relation (attack N3). A
// relation that makes an edit of an event that is none is dropped.
func (job *eventJob) clearContent() (json.RawMessage, error) {
	content, err := strictjson.Parse(job.Payload.Get("content"))
	if err != nil {
		return nil, err
	}
	relation := wire.CompleteRelation(job.outer.Get("m.relates_to"), content.Get("m.relates_to"))
	content = content.Without("m.relates_to")
	rel, err := strictjson.Parse(relation)
	if err != nil {
		return content.Encode(), nil
	}
	if kind, _ := rel.Text("rel_type"); kind == "m.replace" && content.Get("m.new_content") == nil {
		return content.Encode(), nil
	}
	return content.Set("m.relates_to", relation).Encode(), nil
}

// withheld returns the placeholder of a withheld event.
func (job *eventJob) withheld(v trustcache.Verdict, policy trustcache.Policy) Opened {
	out := job.placeholder(v, placeholder(v.Code))
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

// forwarder returns the user who sent us a room key that did not come from its owner: only
// the user's own devices may (requirement 11.4).
func (d *Device) forwarder(source store.Source) id.UserID {
	if source == store.SourceForwarded {
		return d.acct.User
	}
	return ""
}

// asCame returns the event as the homeserver sent it, with the verdict.
func (job *eventJob) asCame(v trustcache.Verdict) Opened {
	eventType, _ := job.event.Text("type")
	return Opened{Event: annotate(job.event, v).Encode(), Type: eventType}
}

// annotate adds the verdict to unsigned.
func annotate(event strictjson.Object, v trustcache.Verdict) strictjson.Object {
	note, err := json.Marshal(v.Annotation())
	if err != nil {
		return event
	}
	unsigned, err := strictjson.Parse(event.Get("unsigned"))
	if err != nil {
		unsigned = nil
	}
	return event.Set("unsigned", unsigned.Set(trustcache.AnnotationKey, note).Encode())
}

// learnWait bounds how long a batch waits for requests about its senders. What is unknown
// then is judged so, and the events are delivered again when more is known.
const learnWait = 3 * time.Second

// judgementFor collects what a batch is judged by, and upgrades the owners of its keys. The
// homeserver is asked only about senders who are unknown or whose devices changed, once for
// all of them.
func (d *Device) judgementFor(ctx context.Context, jobs []*eventJob) (*judgement, error) {
	by := &judgement{policy: d.core.Env.Policy()}
	seen := make(map[id.UserID]bool)
	var users []id.UserID
	var missing []store.SessionRef
	for _, job := range jobs {
		switch {
		case job == nil:
		case job.Payload != nil:
			for user := range job.OwnerUsers() {
				if !seen[user] {
					seen[user] = true
					users = append(users, user)
				}
			}
		case errors.Is(job.Err, roomkeys.ErrNoKey), errors.Is(job.Err, roomkeys.ErrTooEarly):
			missing = append(missing, job.Ref)
		}
	}
	var err error
	if len(users) > 0 {
		if by.users, err = d.learn(ctx, users); err != nil {
			return nil, fmt.Errorf("look up senders: %w", err)
		}
	}
	if len(missing) > 0 {
		if by.notes, err = d.core.Env.Store.Withheld(ctx, d.acct.Row, d.core.RowID, missing); err != nil {
			return nil, fmt.Errorf("load withheld notes: %w", err)
		}
	}
	return by, d.inbound.UpgradeOwners(ctx, eventsOf(jobs), by.users)
}

// learn returns what is known of users, after asking the homeserver for a bounded time.
func (d *Device) learn(ctx context.Context, users []id.UserID) (map[id.UserID]*trustcache.User, error) {
	short, cancel := context.WithTimeout(ctx, learnWait)
	defer cancel()
	known, err := d.acct.Tracker.Lookup(short, d.core.Query(), users)
	if err == nil || (short.Err() == nil && !errors.Is(err, trustcache.ErrAsker)) {
		return known, err
	}
	return d.acct.Tracker.Cached(ctx, users)
}
