package roomkeys

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/channel"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Recipients are the devices that may have a room's key, as it was decided for one send,
// and those that get a withheld code instead.
type Recipients struct {
	Give     map[store.DeviceRef]*trustcache.Device
	Withhold map[store.DeviceRef]Withheld
	// Refused are the devices that get nothing, and are told nothing. It is nil when nobody
	// writes that down.
	Refused map[store.DeviceRef]*trustcache.Device
	// Still decides again, after requests to the homeserver: [core.ErrRoomChanged] means that
	// the send must begin again. The caller holds the device's lock.
	Still func(ctx context.Context) error
	// Shared is told who was given the key or a withheld code, once that is stored. The
	// caller holds the device's lock.
	Shared func(given []store.Share)
	// Decided returns what the audit log is to be told of a share, nil if it is told nothing.
	Decided func(given []store.Share, refused []*trustcache.Device) *auditing.Decision
}

// Withheld is a device that gets no key, and the code for the reason.
type Withheld struct {
	Device *trustcache.Device
	Code   string
	// Reason is the text for people; empty is the code's. Rule names, for the audit log, the rule
	// of the organisation that withholds the key, if one does.
	Reason, Rule string
}

// Share shares the room's key with every device that may have it and lacks it, and
// sends the others a withheld code, before the next message is encrypted (requirement 7.5).
func (o *Outbound) Share(ctx context.Context, roomID id.RoomID, visibility string, who *Recipients) error {
	if err := o.channel.FlushBefore(ctx); err != nil {
		return fmt.Errorf("deliver earlier keys: %w", err)
	}
	defer o.dropFresh(roomID)
	left, err := o.unshared(ctx, roomID, visibility, who)
	if err != nil || left.isEmpty() {
		return err
	}
	if err := o.awaitSpread(ctx); err != nil {
		return err
	}
	claimed, err := o.channel.ClaimFor(ctx, left.missing)
	if err != nil {
		return fmt.Errorf("claim one-time keys: %w", err)
	}
	queued, err := o.encryptShares(ctx, roomID, who, left, claimed)
	if queued != nil {
		defer queued.Wait()
	}
	if err != nil {
		return err
	}
	if err := o.channel.FlushBefore(ctx); err != nil {
		return fmt.Errorf("deliver the room key: %w", err)
	}
	return nil
}

// awaitSpread waits until other devices had time to learn that this device was confirmed,
// see core.Env.Spread.
func (o *Outbound) awaitSpread(ctx context.Context) error {
	o.Mu.Lock()
	wait := o.Env.Spread - o.Env.Now().Sub(o.own.SignedAtLocked())
	o.Mu.Unlock()
	if wait <= 0 {
		return nil
	}
	return backoff.Wait(ctx, min(wait, o.Env.Spread))
}

// leftOver are the devices that a share is for.
type leftOver struct {
	missing []*trustcache.Device // those that lack the session's key
	untold  []Withheld           // those that were not sent a withheld code yet
	refused []*trustcache.Device // those that get nothing, where it was not written down yet
}

func (l *leftOver) isEmpty() bool { return len(l.missing)+len(l.untold)+len(l.refused) == 0 }

// unshared returns the devices for which there is something left to do with the room's
// current session.
func (o *Outbound) unshared(ctx context.Context, roomID id.RoomID, visibility string, who *Recipients) (*leftOver, error) {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	r, err := o.rooms.Row(ctx, roomID)
	if err != nil {
		return nil, err
	}
	out, err := o.live(ctx, r, visibility, who)
	if err != nil {
		return nil, err
	}
	left := &leftOver{}
	if len(out.shares) == 0 {
		left.missing = make([]*trustcache.Device, 0, len(who.Give))
	}
	for _, dev := range who.Give {
		if out.has(dev, o.channel.Begun(dev.Curve25519)) {
			continue
		}
		if o.channel.HasNoKeys(dev) {
			continue
		}
		left.missing = append(left.missing, dev)
	}
	slices.SortFunc(left.missing, func(a, b *trustcache.Device) int {
		return cmp.Or(strings.Compare(a.UserID.String(), b.UserID.String()), strings.Compare(a.DeviceID.String(), b.DeviceID.String()))
	})
	for ref, w := range who.Withhold {
		if share, ok := out.shares[ref]; !ok || (share.Withheld != w.Code && share.Withheld != "") {
			left.untold = append(left.untold, w)
		}
	}
	for ref, dev := range who.Refused {
		if !out.refused[ref] {
			left.refused = append(left.refused, dev)
		}
	}
	if !left.isEmpty() || o.fresh[roomID] == nil {
		return left, nil
	}
	s := o.Begin()
	if err := o.stageFresh(s, roomID); err != nil {
		return nil, err
	}
	return left, s.Commit(ctx, "a new outbound session")
}

// shared returns the session that a share is of.
func (o *Outbound) shared(ctx context.Context, roomID id.RoomID) (*outboundSession, error) {
	out, err := o.load(ctx, roomID)
	if made := o.fresh[roomID]; made != nil {
		out = made
	}
	if err == nil && (out == nil || out.row.Discard) {
		err = core.ErrRoomChanged
	}
	return out, err
}

// encryptShares encrypts the room key with Olm for the devices that lack it, makes the
// withheld messages for the others, and stores all of that, with the messages and a session that
// is new, in one write. The outbox sends them, so that a crash loses none and repeats none with other
// content (requirement 5.5). What it returns, if anything, must be waited for.
func (o *Outbound) encryptShares(ctx context.Context, roomID id.RoomID, who *Recipients, left *leftOver, claimed map[store.DeviceRef]id.Curve25519) (*channel.Queued, error) {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	if err := who.Still(ctx); err != nil {
		return nil, err
	}
	out, err := o.shared(ctx, roomID)
	if err != nil {
		return nil, err
	}
	key, err := roomKeyContent(out)
	if err != nil {
		return nil, err
	}
	s := o.Begin()
	if err := o.stageFresh(s, roomID); err != nil {
		return nil, err
	}
	sealed, queued, without, err := o.channel.EncryptRequests(ctx, s, "m.room_key", key, left.missing, claimed)
	if err != nil {
		return queued, err
	}
	shares := make([]store.Share, 0, len(left.missing)+len(left.untold))
	for _, m := range sealed {
		shares = append(shares, store.Share{
			SessionID: out.row.SessionID, UserID: m.To.UserID, DeviceID: m.To.DeviceID,
			Curve25519: m.To.Curve25519.String(),
			Index:      uint32(out.sess.MessageIndex()),
		})
	}
	told, notes := o.withheldNotes(out, left.untold)
	shares = append(shares, told...)
	told, noOlm := o.noOlmNotes(s, out, without)
	shares = append(shares, told...)
	s.Changes.Shares = shares
	decided := who.Decided(shares, left.refused)
	decided.InRoom(roomID, out.row.SessionID, uint32(out.sess.MessageIndex()))
	s.Changes.Audit = decided.Records()
	queued.Add(olm.OutboxItems("m.room_key.withheld", append(notes, noOlm...), o.Env.Now()))
	s.Changes.Outbox = queued.Items()
	o.channel.Delivered(s)
	s.After(func() {
		who.Shared(shares)
		out.expect(len(shares))
		for _, share := range shares {
			ref := store.DeviceRef{UserID: share.UserID, DeviceID: share.DeviceID}
			out.shares[ref], out.begun[ref] = share, o.channel.Begun(id.Curve25519(share.Curve25519))
		}
		out.noteRefused(left.refused)
		if len(s.Changes.Outbox) > 0 {
			o.channel.OutboxQueued(queued)
		}
	})
	return queued, s.Commit(ctx, "the shared room key")
}

// roomKeyContent returns the m.room_key content at the session's current index: a device
// that joins later gets no earlier index.
func roomKeyContent(of *outboundSession) (json.RawMessage, error) {
	key, err := of.sess.SessionSharingMessage()
	if err != nil {
		return nil, fmt.Errorf("export the room key: %w", err)
	}
	raw, err := json.Marshal(map[string]any{
		"algorithm": wire.AlgorithmMegolm, "room_id": of.row.RoomID, "session_id": of.row.SessionID,
		"session_key": string(key), "shared_history": of.settings.Shareable, // requirement 17.1
		"org.matrix.msc3061.shared_history": of.settings.Shareable,
	})
	if err != nil {
		return nil, fmt.Errorf("encode the room key: %w", err)
	}
	return raw, nil
}

// withheldNotes returns m.room_key.withheld messages for devices that do not get the key,
// once per device and session (requirements 10.1 to 10.6).
func (o *Outbound) withheldNotes(of *outboundSession, untold []Withheld) (shares []store.Share, notes []olm.Message) {
	for _, w := range untold {
		shares = append(shares, store.Share{
			SessionID: of.row.SessionID, UserID: w.Device.UserID, DeviceID: w.Device.DeviceID,
			Curve25519: w.Device.Curve25519.String(), Withheld: w.Code,
		})
		notes = append(notes, olm.Message{To: w.Device, Content: strictjson.Object{
			{Name: "algorithm", Value: strictjson.Quote(wire.AlgorithmMegolm)},
			{Name: "code", Value: strictjson.Quote(w.Code)},
			{Name: "reason", Value: strictjson.Quote(cmp.Or(w.Reason, withheldReason(w.Code)))},
			{Name: "room_id", Value: strictjson.Quote(of.row.RoomID.String())},
			{Name: "sender_key", Value: strictjson.Quote(o.Curve25519.String())},
			{Name: "session_id", Value: strictjson.Quote(of.row.SessionID.String())},
		}.Encode()})
	}
	return shares, notes
}

// noOlmNotes returns m.no_olm messages for devices that had no one-time key, once until an
// Olm session exists (requirement 10.2), and sets when to try them again: no device is
// skipped for the whole life of a session.
func (o *Outbound) noOlmNotes(s *core.Step, of *outboundSession, without []*trustcache.Device) (shares []store.Share, notes []olm.Message) {
	for _, dev := range without {
		if o.channel.StageNoKeys(s, dev) {
			continue
		}
		shares = append(shares, store.Share{
			SessionID: of.row.SessionID, UserID: dev.UserID, DeviceID: dev.DeviceID,
			Curve25519: dev.Curve25519.String(), Withheld: "m.no_olm",
		})
		notes = append(notes, olm.Message{To: dev, Content: strictjson.Object{
			{Name: "algorithm", Value: strictjson.Quote(wire.AlgorithmMegolm)},
			{Name: "code", Value: strictjson.Quote("m.no_olm")},
			{Name: "reason", Value: strictjson.Quote(withheldReason("m.no_olm"))},
			{Name: "sender_key", Value: strictjson.Quote(o.Curve25519.String())},
			{Name: "from_device", Value: strictjson.Quote(o.ID.String())},
		}.Encode()})
	}
	return shares, notes
}

// withheldReason returns the text for a code; clients show it only for codes that they do
// not know.
func withheldReason(code string) string {
	switch code {
	case "m.unverified":
		return "The device has not been confirmed by its owner."
	case "m.blacklisted":
		return "The sender does not trust this device."
	case "m.no_olm":
		return "No secure channel to the device could be made."
	default:
		return "The key was not shared with this device."
	}
}
