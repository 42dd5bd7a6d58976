package verification

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"
)

// What is stored of the flows that are under way is enough to say, after the process has ended or
// the account went to another one, that they are over: their secrets are in memory only. A
// request of the other side that nobody has answered has none, and goes on waiting.

// keptFlow is what is stored of one.
type keptFlow struct {
	User     id.UserID     `json:"user"`
	Room     id.RoomID     `json:"room,omitempty"`
	Txn      string        `json:"txn"`
	Device   id.DeviceID   `json:"device,omitempty"`
	Asked    []id.DeviceID `json:"asked,omitempty"`
	Incoming bool          `json:"incoming,omitempty"`
	Waits    bool          `json:"waits,omitempty"` // for a person's answer, and can go on
	SentAt   time.Time     `json:"sent_at"`
	CameAt   time.Time     `json:"came_at"`
	Looked   bool          `json:"looked,omitempty"`
	Methods  []string      `json:"methods,omitempty"`
}

// kept returns what is to be stored, nil when nothing is under way; ok is false when it is not
// known what is, and nothing may be stored.
func (x *Flows) kept() (raw []byte, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.resumed || x.stopped {
		return nil, false
	}
	var all []keptFlow
	for _, f := range x.list() {
		if f.state.Over() {
			continue
		}
		all = append(all, keptFlow{
			User: f.user, Room: f.room, Txn: f.txn, Device: f.device, Asked: f.asked, Incoming: f.incoming,
			Waits:  f.incoming && f.state == Requested && f.pending == nil,
			SentAt: f.sentAt, CameAt: f.cameAt, Looked: f.looked, Methods: f.theirs,
		})
	}
	if all == nil {
		return nil, true
	}
	raw, err := json.Marshal(all)
	return raw, err == nil
}

// take waits for the turn, in which flows may change. What they became is stored before it is
// given back.
func (x *Flows) take(ctx context.Context) (give func(), err error) {
	back, err := x.turn.Take(ctx, struct{}{})
	if err != nil {
		return nil, err
	}
	x.resume(ctx)
	return func() {
		defer back()
		now, ok := x.kept()
		if !ok || bytes.Equal(now, x.stored) {
			return
		}
		if err := x.host.Keep(ctx, now); err != nil {
			x.Env.Log.Debug().Err(err).Msg("It was not stored which verifications are under way")
			return
		}
		x.stored = now
	}, nil
}

func (x *Flows) isResumed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.resumed
}

// Resume begins to say how the verifications ended that were under way when another process had
// the device, or this one before it was started again. It does not wait for that, and begins
// nothing where none was: most devices are only visited, and do not stay in memory for it.
func (x *Flows) Resume(ctx context.Context) error {
	if x.isResumed() {
		return nil
	}
	if raw, err := x.host.Kept(ctx); err != nil || raw == nil {
		return err
	}
	x.Receive(nil)
	return nil
}

// resume does that for a caller that has the turn. What cannot be read now is read the next time.
func (x *Flows) resume(ctx context.Context) {
	if x.isResumed() {
		return
	}
	raw, err := x.host.Kept(ctx)
	if err != nil {
		x.Env.Log.Debug().Err(err).Msg("It could not be read which verifications were under way")
		return
	}
	x.mu.Lock()
	x.resumed = true
	x.mu.Unlock()
	x.stored = raw
	var all []keptFlow
	if raw == nil || json.Unmarshal(raw, &all) != nil {
		return
	}
	for i := range all[:min(len(all), maxFlows)] {
		x.goOn(ctx, &all[i])
	}
}

// goOn has one go on, or ends it and tells both sides.
func (x *Flows) goOn(ctx context.Context, k *keptFlow) {
	f := Flow{
		ID: flowID(k.Room, k.User, k.Txn), user: k.User, own: k.User == x.Account.User, room: k.Room, txn: k.Txn, state: Requested,
		device: k.Device, asked: k.Asked, incoming: k.Incoming, sentAt: k.SentAt, cameAt: k.CameAt, looked: k.Looked, theirs: k.Methods,
	}
	if x.get(f.ID) != nil {
		return
	}
	now := x.Env.Now()
	if k.Waits {
		if now.Before(f.Expires()) {
			x.set(f)
		}
		return
	}
	next, eff := f.cancel(now, codeRestarted)
	next.looked = true // it is not among the first to be forgotten
	eff.Send = slices.DeleteFunc(eff.Send, func(m Message) bool { return f.room == "" && len(m.Devices) == 1 && m.Devices[0] == "" })
	x.set(next)
	if err := x.send(ctx, &next, eff.Send); err != nil {
		x.Env.Log.Debug().Err(err).Msg("The other side of a verification was not told that it was interrupted")
	}
	x.host.Interrupted(ctx, next.View())
}
