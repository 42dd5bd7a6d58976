package channel

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// unwedgeEvery is the least time between two new Olm sessions with one device (requirement
// 6.12).
const unwedgeEvery = time.Hour

// Unwedge makes new Olm sessions with devices whose messages no session could decrypt, or
// that told us that they have no session with us, and sends each an m.dummy (requirements
// 6.12, 10.3). An m.dummy carries nothing, but still only confirmed devices get one. A
// wedge stays recorded until then: unknown devices are queried, and failures are retried.
func (o *Olm) Unwedge(ctx context.Context) error {
	if o.Mode != core.ModeProxied || o.CurrentToken().IsZero() {
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
	return o.FlushOutbox(ctx)
}

// seekWedged returns the users of wedges. It queries once those who are not known, or not
// with the device in question.
func (o *Olm) seekWedged(ctx context.Context, due []wedge) (map[id.UserID]*trustcache.User, error) {
	var users []id.UserID
	for i := range due {
		users = append(users, due[i].User)
	}
	slices.Sort(users)
	users = slices.Compact(users)
	before, err := o.Account.Tracker.Cached(ctx, users)
	if err != nil {
		return nil, fmt.Errorf("look up devices to unwedge: %w", err)
	}
	var again []id.UserID
	for i := range due {
		w := &due[i]
		if user := before[w.User]; user.Knowledge == trustcache.KnowledgeFresh && w.device(user) == nil && !w.sought {
			again = append(again, w.User) // without a shared room nobody reports this user's devices
			w.sought = true
		}
	}
	if len(again) > 0 {
		slices.Sort(again)
		if _, err := o.Account.Tracker.Query(ctx, o.Query(), slices.Compact(again)); err != nil {
			return nil, fmt.Errorf("look up devices to unwedge: %w", err)
		}
	}
	known, err := o.Account.Tracker.Lookup(ctx, o.Query(), users)
	if err != nil {
		return nil, fmt.Errorf("look up devices to unwedge: %w", err)
	}
	return known, nil
}

// device returns the device of a wedge; nil when the user has no such device.
func (w *wedge) device(user *trustcache.User) *trustcache.Device {
	if dev := user.Device(w.Device); dev != nil {
		return dev
	}
	return user.DeviceByCurve25519(w.Key)
}

// unwedging is the plan for wedges.
type unwedging struct {
	devices  []*trustcache.Device // get a new session
	notes    map[store.DeviceRef][]wedge
	finished []wedge // they need nothing
	wait     []wedge // nothing can be done now
}

// planUnwedging decides what to do about wedges.
func (o *Olm) planUnwedging(due []wedge, known map[id.UserID]*trustcache.User) *unwedging {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	now := o.Env.Now()
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
			plan.wait = append(plan.wait, w) // the new session may be broken, too: it gets another after the hour
			continue
		}
		if plan.notes[ref] == nil {
			plan.devices = append(plan.devices, dev)
		}
		plan.notes[ref] = append(plan.notes[ref], w)
	}
	return plan
}

// mayUnwedge reports whether a device may get a new session: only one that may have room
// keys, whether or not the policy is enforced.
func (o *Olm) mayUnwedge(user *trustcache.User, dev *trustcache.Device) bool {
	in := trustcache.ShareInput{User: user, Device: dev, SenderUser: o.Account.User, SenderDevice: o.ID, Mode: trustcache.ModeEnforce}
	return trustcache.Share(in).Outcome == trustcache.ShareGive
}

// sendDummies replaces the sessions with the devices. It stores the m.dummy messages and
// removes the wedges in one write.
func (o *Olm) sendDummies(ctx context.Context, plan *unwedging, claimed map[store.DeviceRef]id.Curve25519) error {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	sessions, err := o.LoadSessions(ctx, keysOf(plan.devices))
	if err != nil {
		return err
	}
	frame := o.newFrame("m.dummy", json.RawMessage(`{}`))
	var sealed []olm.Message
	var renewed []store.DeviceRef
	begun := make([]id.Curve25519, 0, len(plan.devices))
	settled := slices.Clone(plan.finished)
	for _, dev := range plan.devices {
		ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
		if claimed[ref] == "" { // it has no one-time key left, or its server cannot be reached
			plan.wait = append(plan.wait, plan.notes[ref]...)
			continue
		}
		made, err := o.keys.NewOutbound(dev.Curve25519, claimed[ref])
		if err != nil { // an invalid key: the next may be valid
			plan.wait = append(plan.wait, plan.notes[ref]...)
			continue
		}
		settled, renewed = append(settled, plan.notes[ref]...), append(renewed, ref)
		content, err := frame.Seal(made, dev)
		if err != nil {
			return err
		}
		sessions.Add(dev, made, o.Env.Now())
		sealed = append(sealed, olm.Message{To: dev, Content: content})
		begun = append(begun, dev.Curve25519)
	}
	if len(settled) == 0 {
		return nil
	}
	s := o.Begin()
	s.Changes.Outbox = olm.OutboxItems("m.room.encrypted", sealed, o.Env.Now())
	if err := o.StageSessions(ctx, s, sessions); err != nil {
		return err
	}
	if err := o.replaceWedges(s, o.wedges.without(settled, renewed, o.Env.Now())); err != nil {
		return err
	}
	s.After(func() {
		o.CountBegun(begun)
		if len(sealed) > 0 {
			o.OutboxFilled()
		}
	})
	return s.Commit(ctx, "new Olm sessions")
}
