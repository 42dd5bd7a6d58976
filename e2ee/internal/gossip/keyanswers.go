package gossip

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Answers to m.room_key_request of the user's other devices. Requests come in clear, so
// anybody can forge them: a key is sent over Olm, and only to a device that the identity
// has confirmed (requirements 1.14, 11.4).
const (
	// maxKeyRequests bounds the waiting requests. giveKeyEvery is the least time between
	// two answers with the same key for one device (attack N5).
	maxKeyRequests = 256
	giveKeyEvery   = time.Hour
)

// keyRequest is a request that waits for its answer.
type keyRequest struct {
	Device id.DeviceID      `json:"device"`
	ID     string           `json:"id"`
	Ref    store.SessionRef `json:"ref"`
	At     int64            `json:"at,omitempty"` // when it came, in seconds since 1970
}

// givenKey is a room key that was sent to a device.
type givenKey struct {
	device id.DeviceID
	ref    store.SessionRef
}

// KeyRequest takes an m.room_key_request, or removes the one that it cancels. The caller
// holds the device's lock.
func (in *Incoming) KeyRequest(sender id.UserID, content json.RawMessage) {
	var req struct {
		Action    string      `json:"action"`
		RequestID string      `json:"request_id"`
		Device    id.DeviceID `json:"requesting_device_id"`
		Body      struct {
			Algorithm string       `json:"algorithm"`
			RoomID    id.RoomID    `json:"room_id"`
			SessionID id.SessionID `json:"session_id"`
		} `json:"body"`
	}
	x := in.x
	if strictjson.Unmarshal(content, &req) != nil || sender != x.Account.User || req.Device == x.ID ||
		req.Device == "" || req.RequestID == "" || len(req.RequestID) > wire.MaxIDLength || len(req.Device) > wire.MaxIDLength ||
		len(req.Body.RoomID) > wire.MaxIDLength || len(req.Body.SessionID) > wire.MaxIDLength {
		return
	}
	same := func(r keyRequest) bool { return r.Device == req.Device && r.ID == req.RequestID }
	switch req.Action {
	case "request":
		if w := in.changeRequests(); req.Body.Algorithm == wire.AlgorithmMegolm && len(w.Keys) < maxKeyRequests && !slices.ContainsFunc(w.Keys, same) {
			ref := store.SessionRef{RoomID: req.Body.RoomID, SessionID: req.Body.SessionID}
			w.Keys = append(w.Keys, keyRequest{req.Device, req.RequestID, ref, x.Env.Now().Unix()})
		}
	case "request_cancellation":
		w := in.changeRequests()
		w.Keys = slices.DeleteFunc(w.Keys, same)
	}
}

// AnswerKeyRequests sends the requested room keys that are here to the devices that may
// have them.
func (x *Exchange) AnswerKeyRequests(ctx context.Context) error {
	waiting, err := x.waiting(ctx, func(w *waitingRequests) int { return len(w.Keys) })
	if err != nil || waiting == nil {
		return err
	}
	requests := waiting.Keys
	own, err := x.answeringUser(ctx)
	if err != nil {
		return err
	}
	refs := make([]store.SessionRef, len(requests))
	for i, req := range requests {
		refs[i] = req.Ref
	}
	rows, err := x.Env.Store.InboundSessions(ctx, x.Account.Row, x.RowID, refs)
	if err != nil {
		return fmt.Errorf("load room keys that were asked for: %w", err)
	}
	notes, err := x.Env.Store.Withheld(ctx, x.Account.Row, x.RowID, refs)
	if err != nil {
		return fmt.Errorf("load withheld notes: %w", err)
	}
	var done []keyRequest
	var denied []*auditing.Decision
	for _, req := range requests {
		row, here := rows[req.Ref]
		var why rules.Answer
		became, over, err := x.answerTo(own, req.Device, req.At, func(dev *trustcache.Device) (answer, error) {
			if !here {
				return answerRefused, nil
			}
			content, err := forwardContent(&row, notes[req.Ref])
			if err != nil {
				return answerLater, err
			}
			if why, err = x.keyRuled(ctx, req, own, dev); err != nil || why.Effect != rules.Allow {
				return answerRuled, err
			}
			return x.forwardKey(ctx, req, dev, content, row.FirstIndex)
		})
		if err != nil {
			return err
		}
		if over {
			x.Env.Counts.Forwards.WithLabelValues("not_sent").Inc()
			done = append(done, req)
		}
		denied = append(denied, x.deniedKey(req, own, became, why)...)
	}
	if len(done) > 0 {
		if err := x.dropRequests(ctx, func(w *waitingRequests) []*auditing.Decision {
			w.dropKeys(done...)
			return denied
		}); err != nil {
			return err
		}
	}
	return x.host.FlushOutbox(ctx)
}

// deniedKey returns what the audit log is told of a request that was denied.
func (x *Exchange) deniedKey(req keyRequest, own *trustcache.User, became answer, why rules.Answer) []*auditing.Decision {
	d := auditing.Begin(x.Device, audit.KindForwardedKey).InRoom(req.Ref.RoomID, req.Ref.SessionID, 0)
	if !audited(d, own, req.Device, became, why) {
		return nil
	}
	return []*auditing.Decision{d}
}

// keyRuled asks the organisation's rules about a key for a device that may have it.
func (x *Exchange) keyRuled(ctx context.Context, req keyRequest, own *trustcache.User, dev *trustcache.Device) (rules.Answer, error) {
	by := x.Env.Rules.Now()
	room, err := x.host.Facts(ctx, by, req.Ref.RoomID, rules.SendKey)
	if err != nil {
		return rules.Answer{}, fmt.Errorf("look at a room for the organisation's rules: %w", err)
	}
	answers, err := by.Ask(ctx, []rules.Question{orgrules.KeyQuestion(own.UserID, own, dev, room)})
	if err != nil {
		return rules.Answer{}, err
	}
	return answers[0], nil
}

// keyRuledAgain is keyRuled from memory. The caller holds the device's lock.
func (x *Exchange) keyRuledAgain(roomID id.RoomID, own *trustcache.User, dev *trustcache.Device) rules.Answer {
	by := x.Env.Rules.Now()
	q := orgrules.KeyQuestion(own.UserID, own, dev, x.host.FactsLocked(by, roomID, rules.SendKey))
	return by.Again()(&q)
}

// forwardContent returns the m.forwarded_room_key of a room key; nil when nobody is known
// to claim it. It also has the reason why earlier indices are withheld, if we were told one
// (requirement 10.5).
func forwardContent(row *store.InboundSession, note store.WithheldNote) (json.RawMessage, error) {
	data, from, err := megolm.Data(row)
	if err != nil {
		return nil, err
	}
	if from.Curve25519 == "" || from.Ed25519 == "" {
		return nil, nil
	}
	out := strictjson.Object{
		{Name: "algorithm", Value: strictjson.Quote(wire.AlgorithmMegolm)},
		{Name: megolm.FieldForwards, Value: data.Get(megolm.FieldForwards)},
		{Name: "room_id", Value: strictjson.Quote(row.RoomID.String())},
		{Name: "sender_claimed_ed25519_key", Value: strictjson.Quote(from.Ed25519.String())},
		{Name: "sender_key", Value: data.Get("sender_key")},
		{Name: "session_id", Value: strictjson.Quote(row.SessionID.String())},
		{Name: "session_key", Value: data.Get("session_key")},
		{Name: megolm.FieldSharedHistory, Value: data.Get(megolm.FieldSharedHistory)},
	}
	if note.Code != "" && row.FirstIndex > 0 {
		out = append(out, strictjson.Member{Name: "withheld", Value: strictjson.Object{{Name: "code", Value: strictjson.Quote(note.Code)}, {Name: "reason", Value: strictjson.Quote(note.Reason)}}.Encode()})
	}
	return out.Encode(), nil
}

// forwardKey encrypts a room key for a device, puts it into the outbox and removes the
// request, in one write. from is the first index of the key. Nothing is sent if there is no content, or if the device lost its
// right to it while a one-time key was claimed.
func (x *Exchange) forwardKey(ctx context.Context, req keyRequest, dev *trustcache.Device, content json.RawMessage, from uint32) (answer, error) {
	key := givenKey{req.Device, req.Ref}
	x.Mu.Lock()
	given, silent := x.keysGiven.within(giveKeyEvery, key, x.Env.Now()), x.host.HasNoKeys(dev)
	x.Mu.Unlock()
	switch {
	case content == nil || given:
		return answerRefused, nil
	case silent:
		return answerLater, nil
	}
	to := []*trustcache.Device{dev}
	claimed, err := x.host.ClaimFor(ctx, to)
	if err != nil {
		return answerLater, fmt.Errorf("claim a one-time key: %w", err)
	}
	x.Mu.Lock()
	defer x.Mu.Unlock()
	if !slices.Contains(x.requests.Keys, req) || x.keysGiven.within(giveKeyEvery, key, x.Env.Now()) {
		return answerRefused, nil // the request was cancelled
	}
	own, err := x.host.StillMayHold(ctx, dev)
	if err != nil || own == nil {
		return answerDenied, err
	}
	if x.keyRuledAgain(req.Ref.RoomID, own, own.Device(dev.DeviceID)).Effect != rules.Allow {
		return answerDenied, nil
	}
	s := x.Begin()
	sealed, _, err := x.host.EncryptAll(ctx, s, "m.forwarded_room_key", content, to, claimed)
	if err != nil {
		return answerLater, err
	}
	if len(sealed) == 0 {
		x.host.RememberNoKeys(dev)
		return answerLater, nil
	}
	rest, err := x.stageWithout(s, func(w *waitingRequests) { w.dropKeys(req) })
	if err != nil {
		return answerLater, err
	}
	s.Changes.Audit = auditing.Gave(x.Device, audit.KindForwardedKey, own, dev).InRoom(req.Ref.RoomID, req.Ref.SessionID, from).Records()
	s.Changes.Outbox = olm.AboutItems(olm.About{Kind: olm.KindForward, Room: req.Ref.RoomID}, sealed, x.Env.Now())
	s.After(func() {
		x.requests = *rest
		x.host.OutboxFilled()
		x.keysGiven.add(key, x.Env.Now())
	})
	if err := s.Commit(ctx, "a room key that was asked for"); err != nil {
		return answerLater, err
	}
	x.Env.Counts.Forwards.WithLabelValues("sent").Inc()
	return answerGiven, nil
}
