package verification

import (
	"context"
	"crypto/rand"
	"slices"

	"golang.org/x/time/rate"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
)

// handle handles one event of the other side.
func (x *Flows) handle(ctx context.Context, ev *Event) error {
	give, err := x.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	f := x.find(ev)
	switch {
	case f != nil:
		k, err := x.host.Known(ctx, f.user, f.deviceOf(ev))
		if err != nil {
			return err
		}
		if f.waits(k, ev) {
			return core.ErrCannotEncrypt // it is handled again
		}
		next, eff := f.Handle(k, ev)
		_, err = x.perform(ctx, next, eff)
		return err
	case ev.kind == typeRequest, ev.kind == typeStart && ev.room == "":
		return x.asked(ctx, ev)
	}
	return x.unknown(ctx, ev)
}

// deviceOf returns the device of the other side after an event.
func (f *Flow) deviceOf(ev *Event) id.DeviceID {
	if f.device == "" {
		return ev.fromDevice()
	}
	return f.device
}

// find returns the flow that an event belongs to. In a room it may be one of the own user.
func (x *Flows) find(ev *Event) *Flow {
	x.mu.Lock()
	defer x.mu.Unlock()
	if ev.room == "" || ev.sender != x.Account.User {
		return x.all[flowID(ev.room, ev.sender, ev.txn)]
	}
	for _, f := range x.all {
		if f.room == ev.room && f.txn == ev.txn {
			return f
		}
	}
	return nil
}

// asked takes a request.
func (x *Flows) asked(ctx context.Context, ev *Event) error {
	us := Us{User: x.Account.User, Device: x.ID}
	f, ok := Asked(us, ev, x.Env.Now())
	if !ok || !x.mayAsk(f.user) || !x.makeRoom(ctx, &f) {
		return nil
	}
	if f.own && x.host.ConfirmsUnseen() {
		k, err := x.host.Known(ctx, f.user, f.device)
		if err != nil {
			return err
		}
		if dev := k.Them.Device(f.device); dev != nil && dev.Usable() && dev.Signed && k.Them.State().Accepted() {
			f.auto = true
			if next, eff, err := f.Accept(k); err == nil {
				_, err = x.perform(ctx, next, eff)
				return err
			}
			f.auto = false
		}
	}
	_, err := x.perform(ctx, f, Effects{})
	return err
}

// mayAsk counts a request of a user, and reports whether it is heard: each may be a write, and
// somebody who asks and cancels without end would keep the database busy.
func (x *Flows) mayAsk(user id.UserID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	limit, ok := x.asks[user]
	if !ok {
		if x.asks == nil || len(x.asks) >= maxSenders {
			x.asks = make(map[id.UserID]*rate.Limiter)
		}
		limit = rate.NewLimiter(rate.Every(requestEvery), maxRequests)
		x.asks[user] = limit
	}
	return limit.AllowN(x.Env.Now(), 1)
}

// makeRoom reports whether there is room for another request of the other side. A device that
// asks again takes back what it asked for before; while something is under way with it, both
// are ended (requirement 13.16).
func (x *Flows) makeRoom(ctx context.Context, f *Flow) bool {
	x.mu.Lock()
	all := x.list()
	x.mu.Unlock()
	open, ofUser, ofOthers := 0, 0, 0
	for _, o := range all {
		switch {
		case o.state.Over():
			continue
		case o.user == f.user && o.device == f.device && o.incoming && o.state == Requested:
			x.set(o.end(x.Env.Now(), codeUnexpected, true))
			continue
		case o.user == f.user && o.device == f.device && o.state != Requested:
			for _, one := range []*Flow{o, f} {
				next, eff := one.cancel(x.Env.Now(), codeUnexpected)
				if one == o {
					x.set(next)
				}
				if err := x.send(ctx, one, eff.Send); err != nil {
					x.Env.Log.Debug().Err(err).Msg("A verification was not cancelled at the other side")
				}
			}
			return false
		}
		open++
		if o.incoming && !o.own {
			ofOthers++
		}
		if o.user == f.user && o.incoming && o.state == Requested {
			ofUser++
		}
	}
	return open < maxFlows && ofUser < maxPerUser && (f.own || ofOthers < maxOthers)
}

// unknown tells the other side, once, that its verification is not known here (requirement
// 13.16). Nothing is said of what ends one, so that no loop begins, and nothing in a room,
// where it may be somebody else's.
func (x *Flows) unknown(ctx context.Context, ev *Event) error {
	if ev.room != "" || ev.kind == typeCancel || ev.kind == typeDone {
		return nil
	}
	key := ev.sender.String() + "\x00" + ev.txn
	x.mu.Lock()
	said := x.told[key]
	if x.told == nil || len(x.told) >= maxUnknown {
		x.told = make(map[string]bool)
	}
	x.told[key] = true
	x.mu.Unlock()
	if said {
		return nil
	}
	f := Flow{user: ev.sender, txn: ev.txn}
	to := ev.fromDevice()
	if to == "" {
		to = "*" // only the device that has the transaction looks at it
	}
	m := f.message(typeCancel, []id.DeviceID{to}, text("code", codeUnknownTxn), text("reason", reasonOf(codeUnknownTxn)))
	return x.host.SendToDevices(ctx, m, ev.sender)
}

// List returns all flows, the newest first.
func (x *Flows) List(ctx context.Context) []Verification {
	x.tendIfDue(ctx)
	x.mu.Lock()
	defer x.mu.Unlock()
	out := make([]Verification, 0, len(x.all))
	for _, f := range x.list() {
		out = append(out, f.View())
	}
	return out
}

// tendIfDue ends what is over when somebody looks: the timer may be late.
func (x *Flows) tendIfDue(ctx context.Context) {
	x.mu.Lock()
	now := x.Env.Now()
	due := !x.resumed || slices.ContainsFunc(x.list(), func(f *Flow) bool { return !f.state.Over() && !now.Before(f.Expires()) })
	x.mu.Unlock()
	if due {
		x.tend(ctx)
	}
}

// Look returns one flow, at which a person looks.
func (x *Flows) Look(ctx context.Context, flow string) (Verification, error) {
	x.tendIfDue(ctx)
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.all[flow]
	if f == nil {
		return Verification{}, core.ErrNoVerification
	}
	if !f.looked && !f.state.Over() {
		seen := f.Look()
		x.all[flow], f = &seen, &seen
		x.wind()
	}
	return f.View(), nil
}

// Decide is what a person decides about a flow.
type Decide func(f Flow, k Known) (Flow, Effects, error)

// Decided makes a person's decision about a flow happen, and returns the flow that it
// becomes. What is known is read again from the homeserver.
func (x *Flows) Decided(ctx context.Context, flow string, decide Decide) (Verification, error) {
	give, err := x.take(ctx)
	if err != nil {
		return Verification{}, err
	}
	defer give()
	x.expire(ctx)
	f := x.get(flow)
	if f == nil {
		return Verification{}, core.ErrNoVerification
	}
	k, err := x.host.KnownAgain(ctx, f.user)
	if err != nil {
		return Verification{}, err
	}
	next, eff, err := decide(*f, k)
	if err != nil {
		return Verification{}, err
	}
	if next, err = x.perform(ctx, next, eff); err != nil {
		return Verification{}, err
	}
	return next.View(), nil
}

// Cancel ends a flow. It needs nothing to be known.
func (x *Flows) Cancel(ctx context.Context, flow string) error {
	give, err := x.take(ctx)
	if err != nil {
		return err
	}
	defer give()
	f := x.get(flow)
	if f == nil {
		return core.ErrNoVerification
	}
	next, eff, err := f.Cancel(x.Env.Now())
	if err != nil {
		return err
	}
	_, err = x.perform(ctx, next, eff)
	return err
}

// Request asks somebody to verify: devices, or in a room.
func (x *Flows) Request(ctx context.Context, user id.UserID, room id.RoomID, choose func(k Known) ([]id.DeviceID, error)) (Verification, error) {
	give, err := x.take(ctx)
	if err != nil {
		return Verification{}, err
	}
	defer give()
	x.expire(ctx)
	k, err := x.host.KnownAgain(ctx, user)
	if err != nil {
		return Verification{}, err
	}
	if x.tooMany() {
		return Verification{}, core.ErrTooManyVerifications
	}
	to, err := choose(k)
	if err != nil {
		return Verification{}, err
	}
	f, eff, err := Begin(k, room, rand.Text(), to)
	if err != nil {
		return Verification{}, err
	}
	if room != "" {
		// The answer must be seen however soon it comes.
		defer x.sendsInRoom()()
		event, err := x.host.SendInRoom(ctx, eff.Send[0], room)
		if err != nil {
			return Verification{}, err
		}
		f, eff = f.InRoom(event), Effects{}
	}
	if f, err = x.perform(ctx, f, eff); err != nil {
		return Verification{}, err
	}
	return f.View(), nil
}

// sendsInRoom makes InRooms true until the returned function is called.
func (x *Flows) sendsInRoom() func() {
	set := func(on bool) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.inRoom = on
	}
	set(true)
	x.host.Begun()
	return func() { set(false) }
}

func (x *Flows) tooMany() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	open := 0
	for _, f := range x.all {
		if !f.state.Over() {
			open++
		}
	}
	return open >= maxFlows
}

// Named returns the flow that a code names; empty when there is none.
func (x *Flows) Named(c *Code) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, f := range x.all {
		if f.txn == c.Txn && !f.state.Over() {
			return f.ID
		}
	}
	return ""
}
