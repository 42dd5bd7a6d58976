package sharedhistory

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/wire"
)

// IsBundle reports whether a to-device event is an m.room_key_bundle, also under its name
// before 1.19 (requirement 17.9). No client is ever shown one.
func IsBundle(eventType string) bool {
	return eventType == "m.room_key_bundle" || eventType == "io.element.msc4268.room_key_bundle"
}

// Incoming are the bundles among the to-device events of one sync. Memory changes once the
// step is stored that they are added to.
type Incoming struct {
	h    *History
	came []bundle
}

// Receive begins to take in the events of a sync.
func (h *History) Receive() *Incoming { return &Incoming{h: h} }

// Bundle takes an m.room_key_bundle that came over Olm. Who sent it is judged when the bundle
// is taken; a message without its sender's device keys is ignored (requirement 17.6).
func (in *Incoming) Bundle(msg *olm.Received) {
	c, err := parseContent(msg.Content)
	if err != nil || msg.Device == nil || msg.Sender == in.h.Account.User {
		in.h.count(resultRefused)
		return
	}
	in.came = append(in.came, bundle{Room: c.RoomID, From: msg.Owner(), File: c.File, At: in.h.Env.Now()})
}

// Stage adds to a step that the bundles wait. The caller holds the device's lock.
func (in *Incoming) Stage(ctx context.Context, s *core.Step) error {
	if len(in.came) == 0 {
		return nil
	}
	return in.h.changeAndTake(ctx, s, func(w *waiting) bool {
		w.expire(in.h.Env.Now())
		for _, b := range in.came {
			w.addBundle(b)
		}
		return true
	})
}

// changeAndTake is change, and has bundles taken that can be afterwards.
func (h *History) changeAndTake(ctx context.Context, s *core.Step, edit func(w *waiting) bool) error {
	if err := h.change(ctx, s, edit); err != nil {
		return err
	}
	s.After(func() {
		if h.IsBusy() {
			h.host.KickLocked()
		}
	})
	return nil
}

// Apply stages what a sync says of the own user's invitations: who sent them, and that one was
// accepted, from whatever client, or is over. The caller holds the device's lock.
func (h *History) Apply(ctx context.Context, s *core.Step, updates []rooms.Update) error {
	now := h.Env.Now()
	var edits []func(w *waiting) bool
	for _, u := range updates {
		if len(u.RoomID) > wire.MaxIDLength {
			continue
		}
		switch u.Section {
		case rooms.SectionInvite:
			if u.Inviter != "" && len(u.Inviter) <= wire.MaxIDLength && u.Inviter != h.Account.User {
				edits = append(edits, func(w *waiting) bool { return w.invited(u.RoomID, u.Inviter, now) })
			}
		case rooms.SectionJoin:
			if h.joins(u) {
				edits = append(edits, func(w *waiting) bool { return w.joined(u.RoomID, now) })
			}
		case rooms.SectionLeave:
			edits = append(edits, func(w *waiting) bool { return w.left(u.RoomID) })
		case rooms.SectionKnock:
		}
	}
	if len(edits) == 0 {
		return nil
	}
	return h.changeAndTake(ctx, s, func(w *waiting) bool {
		changed := false
		for _, edit := range edits {
			changed = edit(w) || changed
		}
		return changed
	})
}

// joins reports whether an update has the own user's join.
func (h *History) joins(u rooms.Update) bool {
	for _, c := range u.Changes {
		var member struct {
			Membership string `json:"membership"`
		}
		if c.Type == wire.TypeMember && id.UserID(c.StateKey) == h.Account.User && json.Unmarshal(c.Content, &member) == nil && member.Membership == "join" {
			return true
		}
	}
	return false
}

// takeWithin is how long a client that joins a room waits for its history: what it then reads
// is not delivered again.
const takeWithin = 5 * time.Second

// Joined records that the client has joined a room, and takes the bundle of who invited the
// user: it was sent before the invitation, but homeservers deliver in no order.
func (h *History) Joined(ctx context.Context, room id.RoomID) error {
	if err := h.recordJoined(ctx, room); err != nil {
		return err
	}
	if !h.awaits(room) { // a sync may have said before that the user joined
		return nil
	}
	h.within(ctx, takeWithin, func(ctx context.Context) {
		err := h.Take(ctx)
		if h.awaits(room) {
			err = errors.Join(err, h.host.HearNews(ctx), h.Take(ctx))
		}
		if err != nil {
			h.Env.Log.Info().Err(err).Msg("The history of a room that was joined is taken later")
		}
	})
	return nil
}

// recordJoined stores that an invitation was accepted, if there was one.
func (h *History) recordJoined(ctx context.Context, room id.RoomID) error {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	s := h.Begin()
	if err := h.changeAndTake(ctx, s, func(w *waiting) bool { return w.joined(room, h.Env.Now()) }); err != nil {
		return err
	}
	if s.Part(h, nil) == nil {
		return nil
	}
	return s.Commit(ctx, "an invitation that was accepted")
}

// awaits reports whether the history of a room was not taken yet.
func (h *History) awaits(room id.RoomID) bool {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	return slices.ContainsFunc(h.waiting.Accepted, func(i invite) bool { return i.Room == room })
}
