package sharedhistory

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/trustcache"
)

// A message with a bundle waits in the outbox while the homeserver takes nothing. Whether the invitee may
// still have the history is decided again before it is sent.

const (
	// invitedSoon is within what time an invitation follows its history, if nothing holds it up; all
	// that clients of this proxy have changed meanwhile is remembered. invitedBy is when there will be
	// none if there is none yet.
	invitedSoon = 10 * time.Second
	invitedBy   = 2 * time.Minute
)

var (
	errNotYetTold  = errors.New("it is not known yet who is confirmed")
	errNotInvited  = errors.New("the invitation is not there yet")
	errTwoInvitees = errors.New("it cannot be told whom the history is for")
)

// StillMayGive decides again about the history of a room that was sealed for devices at a time, and about
// what is for devices of one other user and may be that. An error means that it cannot be told now.
func (h *History) StillMayGive(ctx context.Context, about *olm.About, since time.Time) (bool, error) {
	user := about.User()
	if user == "" || user == h.Account.User {
		return false, errTwoInvitees
	}
	// Nobody tells of the changes of somebody who is only invited.
	known, err := h.Account.Tracker.LookupMembers(ctx, h.Query(), []id.UserID{user}, func(id.UserID) bool { return false })
	if err != nil {
		return false, fmt.Errorf("look again at who is invited: %w", err)
	}
	if known[user].Knowledge != trustcache.KnowledgeFresh {
		return false, errUnreachable
	}
	devices := make([]*trustcache.Device, len(about.To))
	for i := range about.To {
		if devices[i] = known[user].Device(about.To[i].Device); !about.To[i].Is(devices[i]) {
			return false, nil
		}
	}
	if about.Kind == olm.KindHistory {
		if _, err := h.audience(ctx, about.Room); errors.Is(err, core.ErrNotJoined) || wire.Status(err) == http.StatusForbidden {
			return false, nil
		} else if err != nil {
			return false, fmt.Errorf("look again at the room: %w", err)
		}
	}
	if err := h.askPoint(ctx, about, known[user], devices); err != nil {
		return false, err
	}
	return h.stillMayLocked(ctx, about, user, devices, since)
}

// askPoint has the organisation's decision point asked, if there is one, before the lock is taken.
func (h *History) askPoint(ctx context.Context, about *olm.About, user *trustcache.User, devices []*trustcache.Device) error {
	if about.Kind != olm.KindHistory { // the room is not known
		return nil
	}
	by := h.Env.Rules.Now()
	facts, err := h.parts.Rooms.Facts(ctx, by, about.Room, rules.SendKey)
	if err != nil {
		return fmt.Errorf("look again at the room for the organisation's rules: %w", err)
	}
	questions := make([]rules.Question, len(devices))
	for i, d := range devices {
		questions[i] = orgrules.KeyQuestion(h.Account.User, user, d, facts)
	}
	_, err = by.Known(ctx, questions)
	return err
}

// audience is who reads a room, and when that was found out.
type audience struct {
	*rooms.Audience
	at time.Time
}

func (h *History) audience(ctx context.Context, room id.RoomID) (*audience, error) {
	at := h.Env.Now()
	to, err := h.parts.Rooms.Recipients(ctx, room)
	if err != nil {
		return nil, err
	}
	return &audience{to, at}, nil
}

// stillInvited reports whether the room still stands as it did before its history was uploaded: that takes a
// while, and the invitation may be there by now, and may have been taken back. The caller holds the device's
// lock.
func (h *History) stillInvited(room id.RoomID, user id.UserID, before *audience) bool {
	current := h.parts.Rooms.Current(room, before.Audience)
	switch h.parts.Rooms.Invited(room, user) {
	case rooms.InviteePresent:
		return true
	case rooms.InviteeAbsent:
		return current || h.Env.Now().Sub(before.at) < invitedSoon
	case rooms.InviteeLeft: // who is invited again had left before
		return current
	case rooms.InviteeUnknown, rooms.InviteeNoMore:
	}
	return false
}

func (h *History) stillMayLocked(ctx context.Context, about *olm.About, user id.UserID, devices []*trustcache.Device, since time.Time) (bool, error) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	if h.parts.Identity.StateLocked() == ownidentity.Unknown {
		return false, errNotYetTold
	}
	err := h.stillMay(ctx, about.Room, user, devices)
	if errors.Is(err, errNotSigned) || errors.Is(err, errIdentity) || errors.Is(err, errChanged) {
		return false, nil
	}
	if err != nil || about.Kind != olm.KindHistory {
		return err == nil, err
	}
	age := h.Env.Now().Sub(since)
	switch h.parts.Rooms.Invited(about.Room, user) {
	case rooms.InviteePresent:
		return true, nil
	case rooms.InviteeNoMore:
		return false, nil
	case rooms.InviteeAbsent, rooms.InviteeLeft: // who is invited again had left before
		if age >= invitedSoon && age < invitedBy {
			return false, errNotInvited
		}
		return age < invitedSoon, nil
	case rooms.InviteeUnknown:
	}
	return false, core.ErrRoomChanged
}
