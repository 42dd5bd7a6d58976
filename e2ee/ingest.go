package e2ee

import (
	"context"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/todevice"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// ingest processes a sync response and stores its effects together with the new position,
// or nothing (requirement 5.3). Processing a response twice is harmless. own says whether
// it is the proxy's own sync, and began is the result of newsNow when the sync was
// requested.
func (d *Device) ingest(ctx context.Context, u SyncUpdate, own bool, began int) (*todevice.Incoming, error) {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	overtaken := d.core.News != began
	s := d.core.Begin()
	b, err := d.receiver.Process(ctx, u.ToDevice, s)
	if err != nil {
		return nil, err
	}
	if err := d.rooms.Apply(ctx, s, u.Rooms, u.Since == "", own, overtaken); err != nil {
		return nil, err
	}
	if err := d.keepForClient(ctx, b, s, own); err != nil {
		return nil, err
	}
	if !overtaken && slices.Contains(u.UnusedFallback, wire.AlgorithmSigned) {
		if err := d.keySupply.RecordServedFallback(s); err != nil {
			return nil, err
		}
	}
	row := s.Row() // always: storing it fails if the device was deleted
	if position, moves := nextPosition(u, own); moves {
		row.SyncPosition = position
	}
	s.After(d.acct.Tracker.Changed(s.Changes, validUserIDs(u.Changed)))
	s.After(d.acct.Tracker.Left(s.Changes, validUserIDs(u.Left)))
	s.After(func() {
		d.keySupply.UpdateCounts(u.OneTimeKeys, u.UnusedFallback, overtaken)
		d.core.News++
		d.afterIngest(b, s.Changes.InboundSessions, u)
	})
	if err := s.Commit(ctx, "the effects of a sync"); err != nil {
		return nil, err
	}
	return b, nil
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

// maxInbox bounds the to-device events kept for a client, which may never sync: anybody can
// send them (attack N5). Later ones are dropped.
const maxInbox = 500

// keepForClient stores the to-device events for the client's next sync.
func (d *Device) keepForClient(ctx context.Context, b *todevice.Incoming, s *core.Step, own bool) error {
	if !own || len(b.ForClient) == 0 {
		return nil
	}
	kept, err := d.core.Env.Store.Inbox(ctx, d.acct.Row, d.core.RowID, maxInbox)
	if err != nil {
		return fmt.Errorf("load to-device events for the client: %w", err)
	}
	for _, ev := range b.ForClient[:min(len(b.ForClient), max(0, maxInbox-len(kept)))] {
		s.Changes.Inbox = append(s.Changes.Inbox, store.InboxItem{Event: []byte(ev)})
	}
	return nil
}

// afterIngest drops from memory what the stored changes outdated, and requests the
// maintenance that follows. The caller holds mu.
func (d *Device) afterIngest(b *todevice.Incoming, keys []store.InboundSession, u SyncUpdate) {
	d.schedule.live.Stored(d.core.Env.Now())
	d.inbound.RecordStored(keys)
	for _, w := range b.Wedged {
		d.channel.MayHaveKeys(w.User, w.Device)
	}
	d.channel.CountBegun(b.Begun())
	if d.keySupply.Due() || len(keys) > 0 || len(b.Wedged) > 0 || len(u.Changed) > 0 || (!d.ownIdentity.IsCheckedLocked() && !d.schedule.visiting) {
		d.kickLocked()
	}
	if slices.Contains(u.Changed, d.acct.User) || ownidentity.ChangesOwnSide(u.AccountData) {
		d.ownIdentity.RecheckLocked()
	}
}
