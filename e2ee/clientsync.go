package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/late"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/todevice"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// maxKept bounds the to-device messages in one response that were kept for the client.
const maxKept = 200

// ClientSync is one sync of the device's client in flight.
type ClientSync struct {
	d       *Device
	since   string
	token   string // that the client came with: since, or that with a mark of an earlier version
	began   int    // see ingest
	waiting bool
	leaving bool
	arrived context.Context           //nolint:containedctx // as a channel would be
	wake    *time.Timer               // fires when the hold of an event ends; nil when none is held
	unread  map[id.RoomID]*UnreadRoom // what the response says
	end     sync.Once
}

// BeginSync is called before the client's sync goes to the homeserver. It stops the proxy's
// own sync. If the client does not continue where processing stopped, it closes the gap
// first. The token is the client's, with a mark if it has one.
func (d *Device) BeginSync(ctx context.Context, token string) (*ClientSync, error) {
	if d.core.Mode != core.ModeProxied {
		return nil, core.ErrNotProxied
	}
	d.schedule.Live.ClientBegins(d.core.Env.Now())
	since := PlainToken(token)
	s := &ClientSync{d: d, since: since, token: token, arrived: d.clientState.arrivals()}
	if since == "" {
		d.publication.FirstSyncBegins()
	} else {
		d.publication.NextSyncBegins()
	}
	continues, err := d.continues(ctx, since)
	if err != nil {
		s.End()
		return nil, err
	}
	if !continues {
		if err := d.catchUp(ctx); err != nil {
			s.End()
			return nil, fmt.Errorf("close the gap before the client's sync: %w", err)
		}
	}
	if err := s.dropDelivered(ctx); err != nil {
		s.End()
		return nil, err
	}
	if err := s.wakeWhenDue(ctx); err != nil {
		s.End()
		return nil, err
	}
	s.began = d.core.NewsNow()
	s.leaving = d.acct.tenure.IsLeaving() // said before those are woken who wait
	return s, nil
}

// continues reports whether a client that syncs from since continues where processing
// stopped. An own sync that already has its response is finished first; otherwise its
// events would reach the client twice.
func (d *Device) continues(ctx context.Context, since string) (bool, error) {
	give, err := d.schedule.SyncTurn.Take(ctx, struct{}{})
	if err != nil {
		return false, err
	}
	defer give()
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	// Before the keys are published nobody can have sent anything encrypted, and everything
	// else is the client's.
	return since != "" && since == d.core.Record.Row.SyncPosition || !d.publication.Allowed(), nil
}

// dropDelivered deletes what the client has certainly received: what a response carried
// whose next_batch the client now syncs from.
func (s *ClientSync) dropDelivered(ctx context.Context) error {
	k, err := s.load(ctx)
	if err != nil {
		return err
	}
	ch := &store.Changes{}
	for _, p := range k.ready {
		if p.DeliveredAt != "" && p.DeliveredAt == s.since {
			ch.DeletePending = append(ch.DeletePending, p.EventID)
		}
	}
	for _, item := range k.inbox {
		if item.DeliveredAt != "" && item.DeliveredAt == s.since {
			ch.DeleteInbox = append(ch.DeleteInbox, item.Seq)
		}
	}
	for _, p := range k.due {
		if p.PlacedAt != "" && p.PlacedAt == s.since {
			ch.ShownPending = append(ch.ShownPending, p.EventID)
		}
	}
	if s.waiting, err = s.news(ctx, &k); err != nil {
		return err
	}
	if len(ch.DeletePending)+len(ch.DeleteInbox)+len(ch.ShownPending) == 0 {
		return nil
	}
	defer s.d.late.Recount()
	if err := s.d.core.Save(ctx, ch); err != nil {
		return fmt.Errorf("store what the client has got: %w", err)
	}
	return nil
}

// wakeWhenDue ends the client's waiting sync when the hold of an event ends.
func (s *ClientSync) wakeWhenDue(ctx context.Context) error {
	first, err := s.d.late.FirstHold(ctx)
	if err != nil || first.IsZero() {
		return err
	}
	s.wake = time.AfterFunc(max(first.Sub(s.d.core.Env.Now()), 0), func() {
		s.d.core.Mu.Lock()
		defer s.d.core.Mu.Unlock()
		s.d.clientState.wakeWaiting()
	})
	return nil
}

// Waiting reports whether something is ready for the client, so that its sync must not wait
// at the homeserver.
func (s *ClientSync) Waiting() bool { return s.waiting || s.leaving }

// Leaving reports whether the account goes to another process: the sync must end in any case.
func (s *ClientSync) Leaving() bool { return s.leaving || s.d.acct.tenure.IsLeaving() }

// Arrived returns a context that is done when something for the client arrives while its
// sync waits.
func (s *ClientSync) Arrived() context.Context { return s.arrived }

// Commit processes the response, stores its effects and returns what is added to it.
func (s *ClientSync) Commit(ctx context.Context, u SyncUpdate) (SyncExtras, error) {
	u, err := s.d.withEarlierChanges(ctx, u, false)
	if err != nil {
		return SyncExtras{}, err
	}
	b, err := s.d.ingest(ctx, u, false, s.began)
	if err != nil {
		return SyncExtras{}, err
	}
	if err := s.takeUnread(ctx, u.Unread, u.Rooms); err != nil {
		return SyncExtras{}, err
	}
	if err := s.d.reader().Redacted(ctx, u.Unread.Redacted()); err != nil {
		return SyncExtras{}, err
	}
	k, told, err := s.give(ctx, u.NextBatch)
	if err != nil {
		return SyncExtras{}, err
	}
	out := SyncExtras{}
	if out.Late, err = s.d.late.OpenReady(ctx, k.ready, u.NextBatch); err != nil {
		return SyncExtras{}, err
	}
	if err := s.d.late.OpenDue(ctx, k.due, k.ready, u.NextBatch, out.Late); err != nil {
		return SyncExtras{}, err
	}
	s.d.hear(u.Verifying)
	s.d.hearLate(out.Late)
	if err := s.d.countLate(ctx, out.Late); err != nil {
		return SyncExtras{}, err
	}
	if u.NextBatch != s.since {
		if out.Notices, err = s.d.shown.For(ctx, u.Since, u.NextBatch, told); err != nil {
			return SyncExtras{}, err
		}
	}
	if out.ToDevice, err = s.toDevice(ctx, k.inbox, u.NextBatch); err != nil {
		return SyncExtras{}, err
	}
	out.ToDevice = append(out.ToDevice, b.ForClient...)
	if out.Warnings, err = s.d.acct.warnings.Pending(ctx); err != nil {
		return SyncExtras{}, err
	}
	out.Control, err = s.d.acct.control.Sync(ctx, s.d.core, s.token, u.NextBatch)
	return out, err
}

// toDevice returns the to-device events that were kept for the client, and stores that an answer
// with the token next has them.
func (s *ClientSync) toDevice(ctx context.Context, inbox []store.InboxItem, next string) (events []json.RawMessage, err error) {
	ch := &store.Changes{MarkDelivered: next}
	for _, item := range inbox {
		events = append(events, json.RawMessage(item.Event.Reveal()))
		ch.MarkInbox = append(ch.MarkInbox, item.Seq)
	}
	if len(ch.MarkInbox) == 0 {
		return nil, nil
	}
	if err := s.d.core.Save(ctx, ch); err != nil {
		return nil, fmt.Errorf("store what the client gets: %w", err)
	}
	return events, nil
}

// End ends the client's sync. It must be called in every case.
func (s *ClientSync) End() {
	s.end.Do(func() {
		if s.wake != nil {
			s.wake.Stop()
		}
		s.d.schedule.Live.ClientEnds(s.d.core.Env.Now())
		s.d.schedule.ResumeLoop()
		if s.since == "" {
			s.d.publication.FirstSyncEnds()
		}
	})
}

// ingest processes a sync response and stores its effects together with the new position,
// or nothing (requirement 5.3). Processing a response twice is harmless. own says whether
// it is the proxy's own sync, and began is the result of newsNow when the sync was
// requested.
func (d *Device) ingest(ctx context.Context, u SyncUpdate, own bool, began int) (*todevice.Incoming, error) {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	overtaken := d.core.News != began
	u.Changed = d.changedDevices(u)
	s := d.core.Begin()
	b, err := d.receiver.Process(ctx, u.ToDevice, s)
	if err != nil {
		return nil, err
	}
	if err := d.rooms.Apply(ctx, s, u.Rooms, u.Since == "", own, overtaken); err != nil {
		return nil, err
	}
	if err := d.history.Apply(ctx, s, u.Rooms); err != nil {
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
	d.acct.unread.Stage(s)
	row := s.Row() // always: storing it fails if the device was deleted
	if position, moves := nextPosition(u, own); moves {
		d.acct.Tracker.Synced(row.SyncPosition == "")
		row.SyncPosition = position
	}
	s.After(d.acct.Tracker.Changed(s.Changes, u.Changed))
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

// changedDevices returns whose devices count as changed after a sync: those whom the
// homeserver names, and those who joined where it may name nobody.
func (d *Device) changedDevices(u SyncUpdate) []id.UserID {
	users := validUserIDs(u.Changed)
	if u.Since == "" {
		return users // there is no gap
	}
	named := len(users)
	for i := range u.Rooms {
		users = append(users, validUserIDs(u.Rooms[i].JoinedInGap(d.acct.User))...)
	}
	if len(users) > named {
		slices.Sort(users)
		users = slices.Compact(users)
	}
	return users
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
	d.schedule.Live.Stored(d.core.Env.Now())
	d.inbound.RecordStored(keys)
	for _, w := range b.Wedged {
		d.channel.MayHaveKeys(w.User, w.Device)
	}
	if b.Moved {
		d.clientState.moves.Came()
	}
	d.channel.CountBegun(b.Begun())
	if b.Withheld {
		d.clientState.wakeWaiting()
	}
	if len(b.Verifying) > 0 {
		d.flows.Receive(b.Verifying)
	}
	if d.keySupply.Due() || len(keys) > 0 || len(b.Wedged) > 0 || len(u.Changed) > 0 || (!d.ownIdentity.IsCheckedLocked() && !d.schedule.Visiting()) {
		d.schedule.KickLocked()
	}
	if slices.Contains(u.Changed, d.acct.User) || ownidentity.ChangesOwnSide(u.AccountData) {
		d.ownIdentity.RecheckLocked()
	}
}

// metaFullState is the Meta of a foreign device whose client needs the full state once.
const metaFullState = `{"full_state":true}`

// NeedsFullState reports whether the next sync of a foreign device's client must carry the
// full state.
func (d *Device) NeedsFullState() bool {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	return d.core.Mode == core.ModeForeign && string(d.core.Record.Row.Meta) == metaFullState
}

// GaveFullState records that it did.
func (d *Device) GaveFullState(ctx context.Context) error {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	s := d.core.Begin()
	s.Row().Meta = nil
	return s.Commit(ctx, "what the client was given")
}

// A device is the host of its late events.
var _ late.Host = host{}

// OpenAgain implements late.Host.
func (h host) OpenAgain(ctx context.Context, rows []store.PendingEvent) ([]late.Event, late.Basis) {
	return h.reader().OpenAgain(ctx, rows)
}
