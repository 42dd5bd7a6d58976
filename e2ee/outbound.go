package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// outbound is a room's current Megolm session for sending, with the devices that were given
// its key or a withheld code. It is guarded by the Device.
type outbound struct {
	row      store.OutboundSession
	sess     *session.MegolmOutboundSession
	settings sessionSettings
	shares   map[store.DeviceRef]store.Share
	// begun is the value of Device.begun for a device when it was given the key.
	begun map[store.DeviceRef]int
}

// sessionSettings are the room's settings when the session was made. If they change, the
// session is not used any more (requirements 9.5, 9.6).
type sessionSettings struct {
	Shareable bool          `json:"shareable"`
	Period    time.Duration `json:"period"`
	Messages  int64         `json:"messages"`
}

func settingsOf(r store.Room, visibility string) sessionSettings {
	return sessionSettings{rooms.Shareable(visibility), r.RotationPeriod, r.RotationMessages}
}

// gaveTo reports whether any device of the user was given the key.
func (o *outbound) gaveTo(user id.UserID) bool {
	for ref, share := range o.shares {
		if ref.UserID == user && share.Withheld == "" {
			return true
		}
	}
	return false
}

// has reports whether a device was given the key over an Olm session that, as far as we
// know, it can read. begun is how many sessions it has begun with us.
func (o *outbound) has(dev *trustcache.Device, begun int) bool {
	ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
	share, ok := o.shares[ref]
	return ok && share.Withheld == "" && share.Curve25519 == dev.Curve25519.String() && o.begun[ref] == begun
}

// eligible are the devices that may have a room's key now, and those that get a withheld
// code instead.
type eligible struct {
	give     map[store.DeviceRef]*trustcache.Device
	withhold map[store.DeviceRef]withhold
	// against are those of give that would get no key if the policy were enforced.
	against map[store.DeviceRef]bool
	// known, version and mode are what the decision was made by; see stillEligible.
	known   map[id.UserID]*trustcache.User
	version uint64
	mode    trustcache.Mode
}

type withhold struct {
	device *trustcache.Device
	code   string
}

// mustRotate reports whether the session may not be used for the next message (requirements
// 9.1 to 9.6). Devices that only got a withheld code never cause a rotation.
func (o *outbound) mustRotate(r store.Room, now time.Time, visibility string, who *eligible) bool {
	switch {
	case o.row.Discard,
		o.settings != settingsOf(r, visibility),
		now.Sub(o.row.CreatedAt) >= o.settings.Period, now.Before(o.row.CreatedAt.Add(-time.Hour)),
		int64(o.row.Messages) >= o.settings.Messages:
		return true
	}
	for ref, share := range o.shares {
		if share.Withheld != "" {
			continue
		}
		dev := who.give[ref]
		if dev == nil || dev.Curve25519.String() != share.Curve25519 {
			return true
		}
	}
	return false
}

// loadOutbound returns the room's current session, nil when there is none. The caller holds
// mu.
func (m *megolmState) loadOutbound(ctx context.Context, roomID id.RoomID) (*outbound, error) {
	if out := m.outbound[roomID]; out != nil {
		return out, nil
	}
	row, err := m.Env.Store.OutboundSession(ctx, m.acct.Row, m.RowID, roomID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load outbound session: %w", err)
	}
	out := &outbound{
		row: row, sess: &session.MegolmOutboundSession{},
		shares: make(map[store.DeviceRef]store.Share), begun: make(map[store.DeviceRef]int),
	}
	if err := out.sess.UnpickleLibOlm(row.Pickle.Reveal()); err != nil {
		return nil, fmt.Errorf("unpickle outbound session: %w", err)
	}
	if err := json.Unmarshal(row.Settings, &out.settings); err != nil {
		return nil, fmt.Errorf("read outbound session: %w", err)
	}
	shares, err := m.Env.Store.Shares(ctx, m.acct.Row, m.RowID, row.SessionID)
	if err != nil {
		return nil, fmt.Errorf("load shares: %w", err)
	}
	for _, s := range shares {
		out.shares[store.DeviceRef{UserID: s.UserID, DeviceID: s.DeviceID}] = s
	}
	m.outbound[roomID] = out
	return out, nil
}

// liveSession returns the session for the next message, a new one if the old one must not
// be used. A new one is stored with our own copy for reading before anybody is given the
// key. The caller holds mu.
func (m *megolmState) liveSession(ctx context.Context, r store.Room, visibility string, who *eligible) (*outbound, error) {
	out, err := m.loadOutbound(ctx, r.RoomID)
	if err != nil {
		return nil, err
	}
	if out != nil && !out.mustRotate(r, m.Env.Now(), visibility, who) {
		return out, nil
	}
	sess, err := session.NewMegolmOutboundSession()
	if err != nil {
		return nil, fmt.Errorf("make outbound session: %w", err)
	}
	made := &outbound{
		sess: sess, settings: settingsOf(r, visibility),
		shares: make(map[store.DeviceRef]store.Share), begun: make(map[store.DeviceRef]int),
		row: store.OutboundSession{
			RoomID: r.RoomID, SessionID: sess.ID(), Pickle: sess.PickleLibOlm(), CreatedAt: m.Env.Now(),
		},
	}
	if made.row.Settings, err = json.Marshal(made.settings); err != nil {
		return nil, fmt.Errorf("encode session settings: %w", err)
	}
	copyRow, err := m.ownCopy(made)
	if err != nil {
		return nil, err
	}
	s := m.Begin()
	s.Changes.OutboundSessions, s.Changes.InboundSessions = []store.OutboundSession{made.row}, []store.InboundSession{copyRow}
	s.After(func() {
		m.outbound[r.RoomID] = made
		m.host.kickLocked() // its copy goes into the backup
	})
	if err := s.Commit(ctx, "a new outbound session"); err != nil {
		return nil, err
	}
	return made, nil
}

// ownCopy returns the inbound half of our own session, owned by this device (attack N1: our
// own events are judged like all others).
func (m *megolmState) ownCopy(o *outbound) (store.InboundSession, error) {
	key, err := o.sess.SessionSharingMessage()
	if err != nil {
		return store.InboundSession{}, fmt.Errorf("export outbound session: %w", err)
	}
	in, err := session.NewMegolmInboundSession(key)
	if err != nil {
		return store.InboundSession{}, fmt.Errorf("import own session: %w", err)
	}
	own, err := megolm.WriteOwner(trustcache.Owner{
		UserID: m.acct.User, DeviceID: m.ID, Curve25519: m.Curve25519, Ed25519: m.Ed25519,
		DeviceKeys: m.host.ShownKeys(),
	})
	if err != nil {
		return store.InboundSession{}, err
	}
	return store.InboundSession{
		SessionRef: store.SessionRef{RoomID: o.row.RoomID, SessionID: o.row.SessionID},
		Pickle:     in.PickleLibOlm(), Owner: own, Source: store.SourceDirect,
		SharedHistory: o.settings.Shareable, ReceivedAt: m.Env.Now(),
	}, nil
}

// Departed stages that the live session of a room is not used again after a user left, if
// any of the user's devices may have its key (requirements 9.3, 9.4).
func (m *megolmState) Departed(s *core.Step, room id.RoomID, user id.UserID, member bool) {
	if out := m.outbound[room]; member || out != nil && out.gaveTo(user) {
		m.DiscardOutbound(s, room)
	}
}

// DiscardOutbound stages that the room's outbound session is not used again.
func (m *megolmState) DiscardOutbound(s *core.Step, room id.RoomID) {
	if slices.Contains(s.Changes.DiscardOutbound, room) {
		return
	}
	s.Changes.DiscardOutbound = append(s.Changes.DiscardOutbound, room)
	s.After(func() {
		if out := m.outbound[room]; out != nil {
			out.row.Discard = true
		}
	})
}

// channel.GivenSince returns the keys of the devices that were given every room key since they began
// their last Olm session; begun counts those. The caller holds mu.
func (m *megolmState) givenSince(begun map[id.Curve25519]int) map[id.Curve25519]bool {
	given, old := make(map[id.Curve25519]bool), make(map[id.Curve25519]bool)
	for _, out := range m.outbound {
		for ref, share := range out.shares {
			key := id.Curve25519(share.Curve25519)
			switch {
			case share.Withheld != "" || begun[key] == 0:
			case out.begun[ref] == begun[key]:
				given[key] = true
			default:
				old[key] = true
			}
		}
	}
	for key := range old {
		delete(given, key)
	}
	return given
}
