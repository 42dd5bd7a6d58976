package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// eligible computes, for every send anew, which devices may have the room's key. A user
// whose identity changed blocks the send. An unsigned device never does: it gets no key,
// but a withheld code.
func (d *Device) eligible(ctx context.Context, roomID id.RoomID, users []id.UserID) (*eligible, error) {
	version := d.acct.Tracker.Version()
	known, err := d.acct.Tracker.Lookup(ctx, d.core.Query(), users)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	mode := d.core.Env.Policy().Send
	decision := trustcache.Gate(byUser(known), mode)
	if late := d.unanswered(&decision); len(late) > 0 {
		if err := d.askAgain(ctx, known, late); err != nil {
			return nil, err
		}
		decision = trustcache.Gate(byUser(known), mode)
	}
	d.countGate(roomID, &decision)
	if err := gateError(&decision); err != nil {
		return nil, err
	}
	who := d.decide(known, mode)
	who.version = version
	d.recordUnenforced(roomID, who)
	return who, nil
}

// decide decides for every device of some users whether it may have a room's key.
func (d *Device) decide(known map[id.UserID]*trustcache.User, mode trustcache.Mode) *eligible {
	who := &eligible{
		give: make(map[store.DeviceRef]*trustcache.Device), withhold: make(map[store.DeviceRef]withhold),
		against: make(map[store.DeviceRef]bool), known: known, mode: mode,
	}
	for _, user := range known {
		for i := range user.Devices {
			dev := &user.Devices[i]
			ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
			decision := trustcache.Share(trustcache.ShareInput{
				User: user, Device: dev, SenderUser: d.acct.User, SenderDevice: d.core.ID, Mode: mode,
			})
			switch decision.Outcome {
			case trustcache.ShareGive:
				who.give[ref] = dev
				if decision.Enforced != trustcache.ShareGive {
					who.against[ref] = true
				}
			case trustcache.ShareWithhold:
				who.withhold[ref] = withhold{dev, string(decision.Code)}
			case trustcache.ShareRefuse:
			}
		}
	}
	return who
}

// byUser returns users ordered by ID, so that errors name them in a fixed order.
func byUser(known map[id.UserID]*trustcache.User) []*trustcache.User {
	users := make([]*trustcache.User, 0, len(known))
	for _, user := range slices.Sorted(maps.Keys(known)) {
		users = append(users, known[user])
	}
	return users
}

// unanswered returns the users whose change would be acknowledged automatically if it were
// seen now, but was seen before the account was set so.
func (d *Device) unanswered(decision *trustcache.GateDecision) []id.UserID {
	if decision.Outcome != trustcache.GateBlocked || !d.acct.Settings().AcknowledgeUnverified {
		return nil
	}
	var users []id.UserID
	for _, b := range decision.Blocked {
		if !b.Own && b.State == trustcache.PinChanged {
			users = append(users, b.UserID)
		}
	}
	return users
}

// askAgain queries users again and updates known.
func (d *Device) askAgain(ctx context.Context, known map[id.UserID]*trustcache.User, users []id.UserID) error {
	again, err := d.acct.Tracker.Query(ctx, d.core.Query(), users)
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
	}
	maps.Copy(known, again)
	return nil
}

// gateError returns why a send must wait, nil when it need not.
func gateError(decision *trustcache.GateDecision) error {
	switch decision.Outcome {
	case trustcache.GateAllow:
		return nil
	case trustcache.GateBlocked:
		blocked := &core.IdentityChangedError{}
		for _, b := range decision.Blocked {
			if b.Own { // the own identity was replaced elsewhere: see checkMaySend
				return core.ErrDeviceNotSigned
			}
			if b.State == trustcache.PinVerificationLost {
				blocked.Lost = append(blocked.Lost, b.UserID)
			} else {
				blocked.Users = append(blocked.Users, b.UserID)
			}
		}
		return blocked
	case trustcache.GateCannotTell:
	}
	return fmt.Errorf("%w: the own identity is not known", core.ErrCannotEncrypt)
}

// shareSession shares the room's key with every device that may have it and lacks it, and
// sends the others a withheld code, before the next message is encrypted (requirement 7.5).
func (d *Device) shareSession(ctx context.Context, roomID id.RoomID, visibility string, who *eligible) error {
	if err := d.channel.FlushOutbox(ctx); err != nil {
		return fmt.Errorf("deliver earlier keys: %w", err)
	}
	missing, untold, err := d.unshared(ctx, roomID, visibility, who)
	if err != nil || len(missing)+len(untold) == 0 {
		return err
	}
	if err := d.awaitSpread(ctx); err != nil {
		return err
	}
	claimed, err := d.channel.ClaimFor(ctx, missing)
	if err != nil {
		return fmt.Errorf("claim one-time keys: %w", err)
	}
	if err := d.encryptShares(ctx, roomID, who, missing, untold, claimed); err != nil {
		return err
	}
	if err := d.channel.FlushOutbox(ctx); err != nil {
		return fmt.Errorf("deliver the room key: %w", err)
	}
	return nil
}

// awaitSpread waits until other devices had time to learn that this device was confirmed,
// see Options.Spread.
func (d *Device) awaitSpread(ctx context.Context) error {
	d.core.Mu.Lock()
	wait := d.core.Env.Spread - d.core.Env.Now().Sub(d.ownIdentity.SignedAtLocked())
	d.core.Mu.Unlock()
	if wait <= 0 {
		return nil
	}
	return backoff.Wait(ctx, min(wait, d.core.Env.Spread))
}

// unshared returns the devices that lack the current session's key, and those that were not
// sent a withheld code yet.
func (d *Device) unshared(ctx context.Context, roomID id.RoomID, visibility string, who *eligible) (missing []*trustcache.Device, untold []withhold, err error) {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	r, err := d.rooms.Row(ctx, roomID)
	if err != nil {
		return nil, nil, err
	}
	out, err := d.megolmState.liveSession(ctx, r, visibility, who)
	if err != nil {
		return nil, nil, err
	}
	for _, dev := range who.give {
		if out.has(dev, d.channel.Begun(dev.Curve25519)) {
			continue
		}
		if d.channel.HasNoKeys(dev) {
			continue
		}
		missing = append(missing, dev)
	}
	for ref, w := range who.withhold {
		if share, ok := out.shares[ref]; !ok || (share.Withheld != w.code && share.Withheld != "") {
			untold = append(untold, w)
		}
	}
	return missing, untold, nil
}

// encryptShares encrypts the room key with Olm for the devices that lack it, makes the
// withheld messages for the others, and stores all of that, with the messages, in one
// write. The outbox sends them, so that a crash loses none and repeats none with other
// content (requirement 5.5).
func (d *Device) encryptShares(ctx context.Context, roomID id.RoomID, who *eligible, missing []*trustcache.Device, untold []withhold, claimed map[store.DeviceRef]id.Curve25519) error {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	if err := d.stillEligible(ctx, who); err != nil {
		return err
	}
	out, err := d.megolmState.loadOutbound(ctx, roomID)
	if err != nil {
		return err
	}
	if out == nil || out.row.Discard {
		return core.ErrRoomChanged
	}
	key, err := roomKeyContent(out)
	if err != nil {
		return err
	}
	s := d.core.Begin()
	sealed, without, err := d.channel.EncryptAll(ctx, s, "m.room_key", key, missing, claimed)
	if err != nil {
		return err
	}
	shares := make([]store.Share, 0, len(missing)+len(untold))
	for _, m := range sealed {
		shares = append(shares, store.Share{
			SessionID: out.row.SessionID, UserID: m.To.UserID, DeviceID: m.To.DeviceID,
			Curve25519: m.To.Curve25519.String(),
			Index:      uint32(out.sess.MessageIndex()),
		})
	}
	told, notes := d.withheldNotes(out, untold)
	shares = append(shares, told...)
	told, noOlm := d.noOlmNotes(s, out, without)
	shares = append(shares, told...)
	s.Changes.Shares = shares
	s.Changes.Outbox = append(olm.OutboxItems("m.room.encrypted", sealed, d.core.Env.Now()), olm.OutboxItems("m.room_key.withheld", append(notes, noOlm...), d.core.Env.Now())...)
	s.After(func() {
		d.countShares(who, shares)
		for _, share := range shares {
			ref := store.DeviceRef{UserID: share.UserID, DeviceID: share.DeviceID}
			out.shares[ref], out.begun[ref] = share, d.channel.Begun(id.Curve25519(share.Curve25519))
		}
		if len(s.Changes.Outbox) > 0 {
			d.channel.OutboxFilled()
		}
	})
	return s.Commit(ctx, "the shared room key")
}

// roomKeyContent returns the m.room_key content at the session's current index: a device
// that joins later gets no earlier index.
func roomKeyContent(o *outbound) (json.RawMessage, error) {
	key, err := o.sess.SessionSharingMessage()
	if err != nil {
		return nil, fmt.Errorf("export the room key: %w", err)
	}
	raw, err := json.Marshal(map[string]any{
		"algorithm": wire.AlgorithmMegolm, "room_id": o.row.RoomID, "session_id": o.row.SessionID,
		"session_key": string(key), "shared_history": o.settings.Shareable, // requirement 17.1
		"org.matrix.msc3061.shared_history": o.settings.Shareable,
	})
	if err != nil {
		return nil, fmt.Errorf("encode the room key: %w", err)
	}
	return raw, nil
}

// withheldNotes returns m.room_key.withheld messages for devices that do not get the key,
// once per device and session (requirements 10.1 to 10.6).
func (d *Device) withheldNotes(o *outbound, untold []withhold) (shares []store.Share, notes []olm.Message) {
	for _, w := range untold {
		shares = append(shares, store.Share{
			SessionID: o.row.SessionID, UserID: w.device.UserID, DeviceID: w.device.DeviceID,
			Curve25519: w.device.Curve25519.String(), Withheld: w.code,
		})
		notes = append(notes, olm.Message{To: w.device, Content: strictjson.Object{
			{Name: "algorithm", Value: strictjson.Quote(wire.AlgorithmMegolm)},
			{Name: "code", Value: strictjson.Quote(w.code)},
			{Name: "reason", Value: strictjson.Quote(withheldReason(w.code))},
			{Name: "room_id", Value: strictjson.Quote(o.row.RoomID.String())},
			{Name: "sender_key", Value: strictjson.Quote(d.core.Curve25519.String())},
			{Name: "session_id", Value: strictjson.Quote(o.row.SessionID.String())},
		}.Encode()})
	}
	return shares, notes
}

// noOlmNotes returns m.no_olm messages for devices that had no one-time key, once until an
// Olm session exists (requirement 10.2), and sets when to try them again: no device is
// skipped for the whole life of a session.
func (d *Device) noOlmNotes(s *core.Step, o *outbound, without []*trustcache.Device) (shares []store.Share, notes []olm.Message) {
	for _, dev := range without {
		if d.channel.StageNoKeys(s, dev) {
			continue
		}
		shares = append(shares, store.Share{
			SessionID: o.row.SessionID, UserID: dev.UserID, DeviceID: dev.DeviceID,
			Curve25519: dev.Curve25519.String(), Withheld: "m.no_olm",
		})
		notes = append(notes, olm.Message{To: dev, Content: strictjson.Object{
			{Name: "algorithm", Value: strictjson.Quote(wire.AlgorithmMegolm)},
			{Name: "code", Value: strictjson.Quote("m.no_olm")},
			{Name: "reason", Value: strictjson.Quote(withheldReason("m.no_olm"))},
			{Name: "sender_key", Value: strictjson.Quote(d.core.Curve25519.String())},
			{Name: "from_device", Value: strictjson.Quote(d.core.ID.String())},
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
