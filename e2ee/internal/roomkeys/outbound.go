package roomkeys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/channel"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Outbound has the sessions that a device has made for its own messages, with those that
// were given their keys. The device's lock guards it.
type Outbound struct {
	*core.Device
	own     *ownidentity.Identity
	channel *channel.Olm
	rooms   *rooms.Table
	host    OutboundHost

	sends    locks.Turns[id.RoomID]    // has its own lock
	retries  locks.Turns[store.TxnRef] // has its own lock
	sessions map[id.RoomID]*outboundSession
	fresh    map[id.RoomID]*outboundSession // made for a share under way, and not stored yet
	sent     map[store.TxnRef]sent
	logins   int // as in core.Meta
}

// OutboundHost is what an Outbound needs of the other parts of a device.
type OutboundHost interface {
	// KickLocked requests maintenance. The caller holds the device's lock.
	KickLocked()
}

// NewOutbound returns the sessions of a device; they are loaded when they are needed.
func NewOutbound(dev *core.Device, own *ownidentity.Identity, olm *channel.Olm, table *rooms.Table, host OutboundHost) Outbound {
	return Outbound{
		Device: dev, own: own, channel: olm, rooms: table, host: host,
		sends:    locks.Turns[id.RoomID]{Place: dev.Env.Order.At(locks.RankSends)},
		retries:  locks.Turns[store.TxnRef]{Place: dev.Env.Order.At(locks.RankRetries)},
		sessions: make(map[id.RoomID]*outboundSession), fresh: make(map[id.RoomID]*outboundSession), sent: make(map[store.TxnRef]sent),
	}
}

// outboundSession is a room's current Megolm session for sending, with the devices that
// were given its key or a withheld code.
type outboundSession struct {
	row      store.OutboundSession
	sess     *session.MegolmOutboundSession
	writer   megolm.Writer
	settings sessionSettings
	shares   map[store.DeviceRef]store.Share
	// begun is how many Olm sessions a device had begun when it was given the key.
	begun map[store.DeviceRef]int
	// refused are those of which was written down that they get nothing. It begins anew with
	// the process: better twice than never.
	refused map[store.DeviceRef]bool
}

func (s *outboundSession) noteRefused(devices []*trustcache.Device) {
	if s.refused == nil && len(devices) > 0 {
		s.refused = make(map[store.DeviceRef]bool)
	}
	for _, dev := range devices {
		s.refused[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}] = true
	}
}

// expect makes room for so many shares, where there are none yet.
func (s *outboundSession) expect(n int) {
	if len(s.shares) == 0 {
		s.shares, s.begun = make(map[store.DeviceRef]store.Share, n), make(map[store.DeviceRef]int, n)
	}
}

// gaveTo reports whether any device of the user was given the key.
func (s *outboundSession) gaveTo(user id.UserID) bool {
	for ref, share := range s.shares {
		if ref.UserID == user && share.Withheld == "" {
			return true
		}
	}
	return false
}

// has reports whether a device was given the key over an Olm session that, as far as we
// know, it can read. begun is how many sessions it has begun with us.
func (s *outboundSession) has(dev *trustcache.Device, begun int) bool {
	ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
	share, ok := s.shares[ref]
	return ok && share.Withheld == "" && share.Curve25519 == dev.Curve25519.String() && s.begun[ref] == begun
}

// load returns the room's current session, nil when there is none. The caller holds
// the device's lock.
func (o *Outbound) load(ctx context.Context, roomID id.RoomID) (*outboundSession, error) {
	if out := o.sessions[roomID]; out != nil {
		return out, nil
	}
	row, err := o.Env.Store.OutboundSession(ctx, o.Account.Row, o.RowID, roomID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load outbound session: %w", err)
	}
	out := &outboundSession{
		row: row, sess: &session.MegolmOutboundSession{},
		shares: make(map[store.DeviceRef]store.Share), begun: make(map[store.DeviceRef]int),
	}
	if err := out.sess.UnpickleLibOlm(row.Pickle.Reveal()); err != nil {
		return nil, fmt.Errorf("unpickle outbound session: %w", err)
	}
	if out.writer, err = megolm.NewWriter(out.sess); err != nil {
		return nil, fmt.Errorf("load outbound session: %w", err)
	}
	if err := json.Unmarshal(row.Settings, &out.settings); err != nil {
		return nil, fmt.Errorf("read outbound session: %w", err)
	}
	shares, err := o.Env.Store.Shares(ctx, o.Account.Row, o.RowID, row.SessionID)
	if err != nil {
		return nil, fmt.Errorf("load shares: %w", err)
	}
	for _, s := range shares {
		out.shares[store.DeviceRef{UserID: s.UserID, DeviceID: s.DeviceID}] = s
	}
	o.sessions[roomID] = out
	return out, nil
}

// GivenSince returns the keys of the devices that were given every room key since they began
// their last Olm session; begun counts those. The caller holds the device's lock.
func (o *Outbound) GivenSince(begun map[id.Curve25519]int) map[id.Curve25519]bool {
	given, old := make(map[id.Curve25519]bool), make(map[id.Curve25519]bool)
	for _, out := range o.sessions {
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

// BegunAt returns when the room's current session was made, or one that is about to be shared; zero
// when none is in memory. The caller holds the device's lock.
func (o *Outbound) BegunAt(room id.RoomID) time.Time {
	if made := o.fresh[room]; made != nil {
		return made.row.CreatedAt
	}
	if out := o.sessions[room]; out != nil {
		return out.row.CreatedAt
	}
	return time.Time{}
}
