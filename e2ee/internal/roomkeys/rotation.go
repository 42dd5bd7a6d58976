package roomkeys

import (
	"context"
	"encoding/json"
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

// mustRotate reports whether the session may not be used for the next message (requirements
// 9.1 to 9.6). Devices that only got a withheld code never cause a rotation.
func (s *outboundSession) mustRotate(r store.Room, now time.Time, visibility string, who *Recipients) bool {
	switch {
	case s.row.Discard,
		s.settings != settingsOf(r, visibility),
		now.Sub(s.row.CreatedAt) >= s.settings.Period, now.Before(s.row.CreatedAt.Add(-time.Hour)),
		int64(s.row.Messages) >= s.settings.Messages:
		return true
	}
	for ref, share := range s.shares {
		if share.Withheld != "" {
			continue
		}
		dev := who.Give[ref]
		if dev == nil || dev.Curve25519.String() != share.Curve25519 {
			return true
		}
	}
	return false
}

// live returns the session for the next message, a new one if the old one must not be used. A new
// one is not stored yet, see [Outbound.stageFresh]. The caller holds the device's lock.
func (o *Outbound) live(ctx context.Context, r store.Room, visibility string, who *Recipients) (*outboundSession, error) {
	out, err := o.load(ctx, r.RoomID)
	if err != nil {
		return nil, err
	}
	if out != nil && !out.mustRotate(r, o.Env.Now(), visibility, who) {
		return out, nil
	}
	sess, err := session.NewMegolmOutboundSession()
	if err != nil {
		return nil, fmt.Errorf("make outbound session: %w", err)
	}
	writer, err := megolm.NewWriter(sess)
	if err != nil {
		return nil, fmt.Errorf("make outbound session: %w", err)
	}
	made := &outboundSession{
		sess: sess, writer: writer, settings: settingsOf(r, visibility),
		shares: make(map[store.DeviceRef]store.Share), begun: make(map[store.DeviceRef]int),
		row: store.OutboundSession{
			RoomID: r.RoomID, SessionID: sess.ID(), Pickle: sess.PickleLibOlm(), CreatedAt: o.Env.Now(),
		},
	}
	if made.row.Settings, err = json.Marshal(made.settings); err != nil {
		return nil, fmt.Errorf("encode session settings: %w", err)
	}
	o.fresh[r.RoomID] = made
	return made, nil
}

// stageFresh stages the room's new session, with our own copy for reading, if there is one that is
// not stored: with what is stored of those who are given its key, or by itself if that is nobody.
// The caller holds the device's lock.
func (o *Outbound) stageFresh(s *core.Step, room id.RoomID) error {
	made := o.fresh[room]
	if made == nil {
		return nil
	}
	copyRow, err := o.ownCopy(made)
	if err != nil {
		return err
	}
	s.Changes.OutboundSessions = append(s.Changes.OutboundSessions, made.row)
	s.Changes.InboundSessions = append(s.Changes.InboundSessions, copyRow)
	s.After(func() {
		delete(o.fresh, room)
		o.sessions[room] = made
		o.host.KickLocked() // its copy goes into the backup
	})
	return nil
}

// dropFresh drops the room's new session if it was not stored.
func (o *Outbound) dropFresh(room id.RoomID) {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	delete(o.fresh, room)
}

// ownCopy returns the inbound half of our own session, owned by this device (attack N1: our
// own events are judged like all others).
func (o *Outbound) ownCopy(of *outboundSession) (store.InboundSession, error) {
	key, err := of.sess.SessionSharingMessage()
	if err != nil {
		return store.InboundSession{}, fmt.Errorf("export outbound session: %w", err)
	}
	in, err := session.NewMegolmInboundSession(key)
	if err != nil {
		return store.InboundSession{}, fmt.Errorf("import own session: %w", err)
	}
	own, err := megolm.WriteOwner(trustcache.Owner{
		UserID: o.Account.User, DeviceID: o.ID, Curve25519: o.Curve25519, Ed25519: o.Ed25519,
		DeviceKeys: o.own.ShownKeysLocked(),
	})
	if err != nil {
		return store.InboundSession{}, err
	}
	return store.InboundSession{
		SessionRef: store.SessionRef{RoomID: of.row.RoomID, SessionID: of.row.SessionID},
		Pickle:     in.PickleLibOlm(), Owner: own, Source: store.SourceDirect,
		SharedHistory: of.settings.Shareable, ReceivedAt: o.Env.Now(),
	}, nil
}

// Departed stages that the live session of a room is not used again after a user left, if
// any of the user's devices may have its key (requirements 9.3, 9.4).
func (o *Outbound) Departed(s *core.Step, room id.RoomID, user id.UserID, member bool) {
	if out := o.sessions[room]; member || out != nil && out.gaveTo(user) {
		o.DiscardOutbound(s, room)
	}
}

// DiscardOutbound stages that the room's outbound session is not used again.
func (o *Outbound) DiscardOutbound(s *core.Step, room id.RoomID) {
	if slices.Contains(s.Changes.DiscardOutbound, room) {
		return
	}
	s.Changes.DiscardOutbound = append(s.Changes.DiscardOutbound, room)
	s.After(func() {
		for _, out := range []*outboundSession{o.sessions[room], o.fresh[room]} {
			if out != nil {
				out.row.Discard = true
			}
		}
	})
}
