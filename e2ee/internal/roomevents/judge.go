package roomevents

import (
	"context"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// judgement is what the events of one batch are judged by.
type judgement struct {
	users  map[id.UserID]*trustcache.User
	policy trustcache.Policy
	notes  map[store.SessionRef]store.WithheldNote
	keys   int // see roomkeys.Inbound.Stored
	// rules are the organisation's, which ask asks; rooms is what they are told of rooms.
	rules *orgrules.Version
	ask   orgrules.Decide
	rooms map[id.RoomID]*rules.Room
}

// newJudgement returns a judgement by the policy and the rules in force.
func (r *Reader) newJudgement(ctx context.Context) *judgement {
	by := r.Env.Rules.Now()
	return &judgement{policy: r.Env.Policy(), rules: by, ask: by.AskMessages(ctx)}
}

// judge returns what the client is shown of one event.
func (r *Reader) judge(job *eventJob, by *judgement) Opened {
	switch {
	case job.Ciphertext == "": // also if something else is wrong with it
		return r.judgePlain(job, by)
	case job.Err != nil:
		code, withheldCode := job.refusal(by.notes)
		job.code = code
		return r.unreadable(job, trustcache.JudgeUndecrypted(code, withheldCode))
	}
	verdict, in := r.judgeOwners(job, by)
	owner := in.Owner
	verdict = r.narrowed(verdict, &in, job, by)
	r.rollout.Verdict(job.room, owner, verdict)
	switch verdict.Deliver {
	case trustcache.DeliverClear:
		return job.clear(verdict)
	case trustcache.DeliverAsCame:
		return job.asCame(verdict)
	case trustcache.DeliverWithheld:
	}
	job.held = r.waitsFor(job, owner, verdict.Code, by.policy)
	return job.withheld(verdict, by.policy)
}

// judgeOwners judges an event by each possible owner of its session and returns the best
// verdict with what it was made of. A device can claim a session in its own name only, so a claim
// cannot harm another owner.
func (r *Reader) judgeOwners(job *eventJob, by *judgement) (best trustcache.Verdict, of trustcache.JudgeInput) {
	for i, c := range job.Claims(by.policy.Bridges) {
		in := r.judgedAs(job, by, c)
		if verdict := trustcache.Judge(in); i == 0 || verdict.Above(best) {
			best, of = verdict, in
		}
	}
	return best, of
}

// judgedAs is what an event is judged by with one possible owner of its session.
func (r *Reader) judgedAs(job *eventJob, by *judgement, c roomkeys.Claim) trustcache.JudgeInput {
	return trustcache.JudgeInput{
		Sender: job.Sender, Own: r.Account.User, OwnKey: r.Curve25519,
		Source: c.Source, Owner: c.Owner,
		OwnerUser: by.users[c.UserID], Forwarder: r.forwarder(c), Policy: by.policy,
	}
}

// waitsFor returns the user of whom more must become known before a withheld event can be
// shown; empty when that would change nothing.
func (r *Reader) waitsFor(job *eventJob, owner trustcache.Owner, code trustcache.Code, policy trustcache.Policy) id.UserID {
	mismatched := code == trustcache.CodeMismatchedSender && !policy.Bridges[owner.UserID]
	switch {
	case mismatched && owner.Curve25519 == r.Curve25519:
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
func (r *Reader) judgePlain(job *eventJob, by *judgement) Opened {
	policy := by.policy
	if job.Type == "m.room.encrypted" && len(job.event.Get("content")) > len(`{}`) { // sent as state, which encrypted events never are
		return r.unreadable(job, trustcache.JudgeUndecrypted(trustcache.CodeMalformed, ""))
	}
	if job.order == OrderBefore || !r.rooms.KnownEncrypted(job.room) || !encryptable(job) {
		return Opened{Event: job.event.Encode(), Type: job.Type}
	}
	if job.order == OrderUnknown { // an event that may be older than the encryption is not withheld
		policy.InClear = trustcache.InClearMark
	}
	verdict := r.narrowedClear(trustcache.JudgeInClear(job.Sender, policy), job, by)
	r.rollout.Verdict(job.room, trustcache.Owner{UserID: job.Sender}, verdict)
	if verdict.Deliver == trustcache.DeliverAsCame {
		job.dropEdit()
		return job.asCame(verdict)
	}
	return job.withheld(verdict, policy)
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

// forwarder returns the user who sent us a room key that did not come from its owner: one of
// the user's own devices that was asked (requirement 11.4), or who shared the room's history.
func (r *Reader) forwarder(c roomkeys.Claim) id.UserID {
	switch c.Source {
	case store.SourceForwarded:
		return r.Account.User
	case store.SourceBundle:
		return c.SharedBy
	case store.SourceDirect, store.SourceBackup, store.SourceImport:
	}
	return ""
}

// learnWait bounds how long a batch waits for requests about its senders. What is unknown
// then is judged so, and the events are delivered again when more is known.
const learnWait = 3 * time.Second

// judgementFor collects what a batch is judged by, and upgrades the owners of its keys. The
// homeserver is asked only about senders who are unknown or whose devices changed, once for
// all of them.
func (r *Reader) judgementFor(ctx context.Context, jobs []*eventJob) (*judgement, error) {
	by := r.newJudgement(ctx)
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
		if by.users, err = r.learn(ctx, users); err != nil {
			return nil, fmt.Errorf("look up senders: %w", err)
		}
	}
	if len(missing) > 0 {
		if by.notes, err = r.Env.Store.Withheld(ctx, r.Account.Row, r.RowID, missing); err != nil {
			return nil, fmt.Errorf("load withheld notes: %w", err)
		}
	}
	r.lookAtRooms(ctx, jobs, by)
	return by, r.inbound.UpgradeOwners(ctx, eventsOf(jobs), by.users)
}

// learn returns what is known of users, after asking the homeserver for a bounded time.
func (r *Reader) learn(ctx context.Context, users []id.UserID) (map[id.UserID]*trustcache.User, error) {
	short, cancel := context.WithTimeout(ctx, learnWait)
	defer cancel()
	known, err := r.Account.Tracker.Lookup(short, r.Query(), users)
	if err == nil || (short.Err() == nil && !errors.Is(err, trustcache.ErrAsker)) {
		return known, err
	}
	return r.Account.Tracker.Cached(ctx, users)
}
