package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// unwedgeEvery is the least time between new Olm sessions to one device (requirement 6.12).
const unwedgeEvery = time.Hour

// unwedge makes new Olm sessions with devices whose messages no session could read, or
// who told us that they have none with us, and says so with an m.dummy (requirements 6.12, 10.3).
// Unlike a room key, an m.dummy carries nothing; still only confirmed devices get one. A
// note stays until this is done: whoever is not known is asked for, and what fails is
// tried again.
func (o *olmState) unwedge(ctx context.Context) error {
	if o.mode != ModeProxied || o.currentToken().IsZero() {
		return nil
	}
	due, err := o.dueWedges(ctx)
	if err != nil || len(due) == 0 {
		return err
	}
	known, err := o.seekWedged(ctx, due)
	if err != nil {
		return err
	}
	plan := o.planUnwedging(due, known)
	claimed, err := o.claim(ctx, plan.devices)
	if err != nil {
		return err
	}
	if err := o.sendDummies(ctx, plan, claimed); err != nil {
		return err
	}
	o.postpone(plan.wait)
	return o.flushOutbox(ctx)
}

// seekWedged returns the users of notes. The homeserver is asked about those who are not
// known, or not with the device that a note is about, once for each.
func (o *olmState) seekWedged(ctx context.Context, due []wedge) (map[id.UserID]*trustcache.User, error) {
	var users []id.UserID
	for i := range due {
		users = append(users, due[i].User)
	}
	slices.Sort(users)
	users = slices.Compact(users)
	before, err := o.acct.tracker.Cached(ctx, users)
	if err != nil {
		return nil, fmt.Errorf("look up devices to unwedge: %w", err)
	}
	var again []id.UserID
	for i := range due {
		w := &due[i]
		if user := before[w.User]; user.Knowledge == trustcache.KnowledgeFresh && w.device(user) == nil && !w.sought {
			again = append(again, w.User) // nobody tells us of devices of who is in no room with us
			w.sought = true
		}
	}
	if len(again) > 0 {
		slices.Sort(again)
		if _, err := o.acct.tracker.Query(ctx, o.query(), slices.Compact(again)); err != nil {
			return nil, fmt.Errorf("look up devices to unwedge: %w", err)
		}
	}
	known, err := o.acct.tracker.Lookup(ctx, o.query(), users)
	if err != nil {
		return nil, fmt.Errorf("look up devices to unwedge: %w", err)
	}
	return known, nil
}

// device returns the device that a note is about; nil when the user has none.
func (w *wedge) device(user *trustcache.User) *trustcache.Device {
	if dev := user.Device(w.Device); dev != nil {
		return dev
	}
	return user.DeviceByCurve25519(w.Key)
}

// unwedging is what is to be done about notes.
type unwedging struct {
	devices  []*trustcache.Device // get a new session
	notes    map[store.DeviceRef][]wedge
	finished []wedge // nothing is to be done
	wait     []wedge // nothing can be done now
}

// planUnwedging decides what is to be done about notes.
func (o *olmState) planUnwedging(due []wedge, known map[id.UserID]*trustcache.User) *unwedging {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.eng.now()
	plan := &unwedging{notes: make(map[store.DeviceRef][]wedge)}
	for _, w := range due {
		user := known[w.User]
		dev := w.device(user)
		switch {
		case now.Sub(w.Since) >= wedgedFor:
			plan.finished = append(plan.finished, w)
			continue
		case dev == nil && user.Knowledge != trustcache.KnowledgeFresh:
			plan.wait = append(plan.wait, w)
			continue
		case dev == nil || !dev.Usable() || !o.mayUnwedge(user, dev):
			plan.finished = append(plan.finished, w)
			continue
		}
		ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
		if now.Sub(o.wedges.renewedAt(ref)) < unwedgeEvery {
			plan.wait = append(plan.wait, w) // it may be broken again: after the hour it gets another
			continue
		}
		if plan.notes[ref] == nil {
			plan.devices = append(plan.devices, dev)
		}
		plan.notes[ref] = append(plan.notes[ref], w)
	}
	return plan
}

// mayUnwedge reports whether a device may be given a session: only one that may be given
// room keys, whatever the stage of the policy.
func (o *olmState) mayUnwedge(user *trustcache.User, dev *trustcache.Device) bool {
	in := trustcache.ShareInput{User: user, Device: dev, SenderUser: o.acct.user, SenderDevice: o.id, Mode: trustcache.ModeEnforce}
	return trustcache.Share(in).Outcome == trustcache.ShareGive
}

// sendDummies replaces the sessions with the devices, and stores the messages that say so
// together with what that settles.
func (o *olmState) sendDummies(ctx context.Context, plan *unwedging, claimed map[store.DeviceRef]id.Curve25519) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	keys := make([]id.Curve25519, len(plan.devices))
	for i, dev := range plan.devices {
		keys[i] = dev.Curve25519
	}
	sessions, err := o.loadOlmSessions(ctx, keys)
	if err != nil {
		return err
	}
	frame := o.newEnvelopeFrame("m.dummy", json.RawMessage(`{}`))
	var sealed []olm.Message
	var renewed []store.DeviceRef
	begun := make([]id.Curve25519, 0, len(plan.devices))
	settled := slices.Clone(plan.finished)
	for _, dev := range plan.devices {
		ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
		if claimed[ref] == "" { // it has no key left, or its server cannot be reached
			plan.wait = append(plan.wait, plan.notes[ref]...)
			continue
		}
		made, err := o.account.NewOutbound(dev.Curve25519, claimed[ref])
		if err != nil { // a key that is none: the next may be one
			plan.wait = append(plan.wait, plan.notes[ref]...)
			continue
		}
		settled, renewed = append(settled, plan.notes[ref]...), append(renewed, ref)
		content, err := frame.Seal(made, dev)
		if err != nil {
			return err
		}
		sessions.Add(dev.Curve25519, made, o.eng.now())
		sealed = append(sealed, olm.Message{To: dev, Content: content})
		begun = append(begun, dev.Curve25519)
	}
	if len(settled) == 0 {
		return nil
	}
	s := o.host.begin()
	s.ch.Outbox = olm.OutboxItems("m.room.encrypted", sealed, o.eng.now())
	sessions.Collect(s.ch)
	if err := s.wedges(o.wedges.without(settled, renewed, o.eng.now())); err != nil {
		return err
	}
	s.after(func() {
		o.countBegun(begun)
		o.outboxPending = o.outboxPending || len(sealed) > 0
	})
	return s.commit(ctx, "new Olm sessions")
}
