package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// ingest processes a sync response and stores its effects together with the new position,
// or nothing (requirement 5.3). Processing a response twice is harmless. own says whether
// it is the proxy's own sync, and began is the result of newsNow when the sync was
// requested.
func (d *Device) ingest(ctx context.Context, u SyncUpdate, own bool, began int) (*toDeviceStep, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	overtaken := d.roomTable.news != began
	s := d.begin()
	b, err := d.processToDevice(ctx, u.ToDevice, s)
	if err != nil {
		return nil, err
	}
	// Also rooms without changes: plain events in an encrypted room must be recognised when
	// the response is shown.
	if err := d.loadRooms(ctx, u.Rooms); err != nil {
		return nil, err
	}
	for _, r := range u.Rooms {
		// An initial sync has no gap in which somebody could have left.
		r.Limited = r.Limited && u.Since != ""
		if u.Since == "" {
			r = s.dropStale(r)
		}
		if err := d.applyRoomUpdate(ctx, r, own, s); err != nil {
			return nil, err
		}
		if overtaken {
			s.refetchOutdated(r)
		}
	}
	if err := d.keepForClient(ctx, b, own); err != nil {
		return nil, err
	}
	if !overtaken && slices.Contains(u.UnusedFallback, wire.AlgorithmSigned) {
		if err := s.recordServedFallback(); err != nil {
			return nil, err
		}
	}
	row := s.row() // always: storing it fails if the device was deleted
	if position, moves := nextPosition(u, own); moves {
		row.SyncPosition = position
	}
	s.after(d.acct.tracker.Changed(s.ch, validUserIDs(u.Changed)))
	s.after(d.acct.tracker.Left(s.ch, validUserIDs(u.Left)))
	s.after(func() {
		d.updateKeyCounts(u, overtaken)
		d.roomTable.news++
		d.afterIngest(b, u)
	})
	if err := s.commit(ctx, "the effects of a sync"); err != nil {
		return nil, err
	}
	return b, nil
}

// newsNow returns a counter of changes to rooms and key counts that a sync in flight may
// not know of.
func (rt *roomTable) newsNow() int {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return rt.news
}

// refetchOutdated makes the next use fetch again what an outdated response says of a room:
// a later response, or a change by the client, is newer than it. It may list somebody as a
// member who has left.
func (s *step) refetchOutdated(u RoomUpdate) {
	r := s.known(u.RoomID)
	if r == nil {
		return
	}
	for _, c := range u.Changes {
		switch c.Type {
		case wire.TypeMember:
			r.forgetMembers()
		case wire.TypeVisibility:
			r.refetchVisibility()
		}
	}
}

// validUserIDs removes users whose ID is too long.
func validUserIDs(users []id.UserID) []id.UserID {
	return slices.DeleteFunc(slices.Clone(users), func(u id.UserID) bool { return len(u) > wire.MaxIDLength })
}

// nextPosition returns the new position, if it moves. A client's initial sync does not move
// it: it carries no device-list changes, so the gap before it must still be closed
// (requirement 4.4).
func nextPosition(u SyncUpdate, own bool) (string, bool) {
	if u.NextBatch == "" || (u.Since == "" && !own) {
		return "", false
	}
	return u.NextBatch, true
}

// updateKeyCounts applies the homeserver's counts of our keys (requirements 3.3, 3.4). The
// counts of an overtaken response may be older than the last upload, so the homeserver is
// asked instead of uploading the same keys again. The caller holds mu.
func (d *Device) updateKeyCounts(u SyncUpdate, overtaken bool) {
	if overtaken {
		d.keySupply.uncounted = d.record.row.KeysUploaded
		return
	}
	if d.keySupply.uncounted = u.OneTimeKeys == nil && d.record.row.KeysUploaded; u.OneTimeKeys != nil {
		d.setKeyCounts(u.OneTimeKeys)
	}
	if u.UnusedFallback != nil {
		d.keySupply.newFallback = !slices.Contains(u.UnusedFallback, wire.AlgorithmSigned)
	}
}

// applyRoomUpdate stages what a sync says of a room, in order. The caller holds mu.
func (d *Device) applyRoomUpdate(ctx context.Context, u RoomUpdate, own bool, s *step) error {
	if u.Section == SectionInvite || u.Section == SectionKnock || len(u.RoomID) > wire.MaxIDLength {
		return nil // stripped state proves nothing (requirement 20.4)
	}
	for _, c := range u.Changes {
		var err error
		switch c.Type {
		case wire.TypeEncryption:
			if c.StateKey == "" {
				err = s.applyEncryption(ctx, u.RoomID, c.Content)
			}
		case wire.TypeVisibility:
			if c.StateKey == "" {
				err = s.applyVisibility(ctx, u.RoomID, visibilityOf(c.Content))
			}
		case wire.TypeMember:
			err = s.applyMember(ctx, u.RoomID, id.UserID(c.StateKey), membershipOf(c.Content), u.Limited)
			if r := s.known(u.RoomID); r != nil && id.UserID(c.StateKey) == d.acct.user && u.Section == SectionLeave {
				r.forgetMembers()
			}
		}
		if err != nil {
			return err
		}
	}
	if r := s.known(u.RoomID); r != nil && u.Limited && !own {
		// With lazy loading a client does not see who joined and left in the gap: fetch the
		// members again, and rotate (requirement 9.4).
		r.forgetMembers()
		if r.encrypted {
			s.discard(u.RoomID)
		}
	}
	return nil
}

func membershipOf(content json.RawMessage) string {
	var c struct {
		Membership string `json:"membership"`
	}
	if json.Unmarshal(content, &c) != nil || c.Membership == "" {
		return "leave" // unreadable: counts as left, which costs a rotation at most
	}
	return c.Membership
}

// maxInbox bounds the to-device events kept for a client, which may never sync: anybody can
// send them (attack N5). Later ones are dropped.
const maxInbox = 500

// keepForClient stores the to-device events for the client's next sync.
func (d *Device) keepForClient(ctx context.Context, b *toDeviceStep, own bool) error {
	if !own || len(b.forward) == 0 {
		return nil
	}
	kept, err := d.eng.store.Inbox(ctx, d.acct.row, d.rowID, maxInbox)
	if err != nil {
		return fmt.Errorf("load to-device events for the client: %w", err)
	}
	for _, ev := range b.forward[:min(len(b.forward), max(0, maxInbox-len(kept)))] {
		b.ch.Inbox = append(b.ch.Inbox, store.InboxItem{Event: []byte(ev)})
	}
	return nil
}

// afterIngest drops from memory what the stored changes outdated, and requests the
// maintenance that follows. The caller holds mu.
func (d *Device) afterIngest(b *toDeviceStep, u SyncUpdate) {
	d.schedule.live.stored(d.eng.now())
	for _, s := range b.ch.InboundSessions {
		d.eng.inbound.Remove(inboundKey{d.rowID, s.SessionRef})
	}
	if b.requests != nil {
		d.gossip.requests = *b.requests
	}
	if len(b.ch.InboundSessions) > 0 {
		d.megolmState.keySeq++
		d.wakeWaiting()
	}
	for _, w := range b.wedged {
		delete(d.olmState.noKeys, store.DeviceRef{UserID: w.user, DeviceID: w.device})
	}
	d.countBegun(b.sessions.Begun)
	if d.keySupply.wanted || d.keySupply.uncounted || d.keySupply.newFallback || len(b.ch.InboundSessions) > 0 || len(b.wedged) > 0 || len(u.Changed) > 0 || (!d.ownIdentity.checked && !d.schedule.visiting) {
		d.kickLocked()
	}
	b.keysCancelled()
	b.dropAnsweredAsks()
	if slices.Contains(u.Changed, d.acct.user) || changesOwnSide(u.AccountData) {
		d.recheckIdentityLocked()
	}
	if len(d.gossip.requests.Secrets)+len(d.gossip.requests.Keys) > 0 {
		d.kickLocked()
	}
}
