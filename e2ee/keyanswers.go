package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Requests for room keys by the user's other devices. They come in the clear, so that
// anybody can have made them up: a key goes over Olm to a device that the identity has
// confirmed, and to no other (requirements 1.14, 11.4).
const (
	// maxKeyRequests bounds the requests that wait, and giveKeyEvery how often one device is
	// given the same key (attack N5).
	maxKeyRequests = 256
	giveKeyEvery   = time.Hour
)

// keyRequest is a request that waits for its answer.
type keyRequest struct {
	Device id.DeviceID      `json:"device"`
	ID     string           `json:"id"`
	Ref    store.SessionRef `json:"ref"`
}

// givenKey is a room key that was given to a device.
type givenKey struct {
	device id.DeviceID
	ref    store.SessionRef
}

// keyRequested notes a request or takes back what it cancels. The caller holds d.mu.
func (b *batch) keyRequested(ev *toDevice) {
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
	d := b.d
	if decodeStrict(ev.Content, &req) != nil || ev.Sender != d.acct.user || req.Device == d.id ||
		req.Device == "" || req.RequestID == "" || len(req.RequestID) > maxIDLength || len(req.Device) > maxIDLength ||
		len(req.Body.RoomID) > maxIDLength || len(req.Body.SessionID) > maxIDLength {
		b.refused++
		return
	}
	same := func(r keyRequest) bool { return r.Device == req.Device && r.ID == req.RequestID }
	switch req.Action {
	case "request":
		if w := b.moving(); req.Body.Algorithm == algorithmMegolm && len(w.Keys) < maxKeyRequests && !slices.ContainsFunc(w.Keys, same) {
			ref := store.SessionRef{RoomID: req.Body.RoomID, SessionID: req.Body.SessionID}
			w.Keys = append(w.Keys, keyRequest{req.Device, req.RequestID, ref})
		}
	case "request_cancellation":
		w := b.moving()
		w.Keys = slices.DeleteFunc(w.Keys, same)
	}
}

// answerKeyRequests gives the keys that were asked for, as far as we have them, to those
// who may have them.
func (d *Device) answerKeyRequests(ctx context.Context) error {
	waiting, err := d.waiting(ctx, func(w *waitingRequests) int { return len(w.Keys) })
	if err != nil || waiting == nil {
		return err
	}
	requests := waiting.Keys
	own, err := d.whoAsks(ctx)
	if err != nil {
		return err
	}
	refs := make([]store.SessionRef, len(requests))
	for i, req := range requests {
		refs[i] = req.Ref
	}
	rows, err := d.eng.store.InboundSessions(ctx, d.acct.row, d.rowID, refs)
	if err != nil {
		return fmt.Errorf("load room keys that were asked for: %w", err)
	}
	notes, err := d.eng.store.Withheld(ctx, d.acct.row, d.rowID, refs)
	if err != nil {
		return fmt.Errorf("load withheld notes: %w", err)
	}
	for _, req := range requests {
		dev := own.Device(req.Device)
		row, ok := rows[req.Ref]
		if !ok || !mayHoldSecrets(dev) || !d.mayGiveKey(req) {
			d.eng.counts.forwards.WithLabelValues("not_sent").Inc()
			continue
		}
		content, err := forwardContent(&row, notes[req.Ref])
		if err != nil {
			return err
		}
		if content == nil {
			continue
		}
		if err := d.forwardKey(ctx, dev, content); err != nil {
			d.takeKeyBack(givenKey{req.Device, req.Ref})
			return err
		}
	}
	err = d.answered(ctx, func(w *waitingRequests) {
		w.Keys = slices.DeleteFunc(w.Keys, func(r keyRequest) bool { return slices.Contains(requests, r) })
	})
	if err != nil {
		return err
	}
	return d.flushOutbox(ctx)
}

// mayGiveKey limits how often a device is given the same key.
func (d *Device) mayGiveKey(req keyRequest) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.eng.now()
	key := givenKey{req.Device, req.Ref}
	if last, ok := d.keysGiven[key]; ok && now.Sub(last) < giveKeyEvery {
		return false
	}
	if d.keysGiven == nil || len(d.keysGiven) >= maxNoKeys {
		d.keysGiven = make(map[givenKey]time.Time)
	}
	d.keysGiven[key] = now
	return true
}

// takeKeyBack forgets that a key was given, because it was not after all.
func (d *Device) takeKeyBack(key givenKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.keysGiven, key)
}

// forwardContent is the m.forwarded_room_key of a room key; nil when it is not even
// claimed whose it is. Why the beginning is missing is told, if somebody told us
// (requirement 10.5).
func forwardContent(row *store.InboundSession, note store.WithheldNote) (json.RawMessage, error) {
	data, from, err := sessionData(row)
	if err != nil {
		return nil, err
	}
	if from.Curve25519 == "" || from.Ed25519 == "" {
		return nil, nil
	}
	out := object{
		{"algorithm", quoted(algorithmMegolm)},
		{fieldForwards, data.get(fieldForwards)},
		{"room_id", quoted(row.RoomID.String())},
		{"sender_claimed_ed25519_key", quoted(from.Ed25519.String())},
		{"sender_key", data.get("sender_key")},
		{"session_id", quoted(row.SessionID.String())},
		{"session_key", data.get("session_key")},
		{fieldSharedHistory, data.get(fieldSharedHistory)},
	}
	if note.Code != "" && row.FirstIndex > 0 {
		out = append(out, member{"withheld", object{{"code", quoted(note.Code)}, {"reason", quoted(note.Reason)}}.encode()})
	}
	return out.encode(), nil
}

// forwardKey encrypts a key for a device and puts it into the outbox.
func (d *Device) forwardKey(ctx context.Context, dev *trustcache.Device, content json.RawMessage) error {
	to := []*trustcache.Device{dev}
	claimed, err := d.claimFor(ctx, to)
	if err != nil {
		return fmt.Errorf("claim a one-time key: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.begin()
	sealed, _, err := s.olmEncryptAll(ctx, "m.forwarded_room_key", content, to, claimed)
	if err != nil || len(sealed) == 0 {
		return err
	}
	s.ch.Outbox = outboxItems("m.room.encrypted", sealed, d.eng.now())
	s.after(func() { d.outboxPending = true })
	if err := s.commit(ctx, "a room key that was asked for"); err != nil {
		return err
	}
	d.eng.counts.forwards.WithLabelValues("sent").Inc()
	return nil
}
