package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"e2ee-proxy/store"
)

// maxLate bounds the events and to-device messages that one response carries again.
const maxLate = 200

// ClientSync is one sync of the device's client in flight.
type ClientSync struct {
	d       *Device
	since   string
	began   int // see ingest
	waiting bool
	arrived <-chan struct{}
	wake    *time.Timer // when an event was held long enough; nil when none is
	end     sync.Once
}

// BeginSync is called before the client's sync goes to the homeserver. The proxy's own
// sync stops; if the client does not continue where processing stopped, the gap is
// closed first.
func (d *Device) BeginSync(ctx context.Context, since string) (*ClientSync, error) {
	if d.mode != ModeProxied {
		return nil, ErrNotProxied
	}
	d.schedule.live.clientBegins(d.eng.now())
	s := &ClientSync{d: d, since: since, arrived: d.arrivals()}
	if since == "" {
		d.firstSyncBegins()
	} else {
		d.PublishWithin(publishAfterSync)
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
	s.began = d.newsNow()
	return s, nil
}

// continues reports whether a client that syncs from since goes on where processing
// stopped. A sync of the proxy's own that has its answer already is finished first: what
// it brought would reach the client twice.
func (d *Device) continues(ctx context.Context, since string) (bool, error) {
	give, err := d.schedule.syncTurn.Take(ctx, struct{}{})
	if err != nil {
		return false, err
	}
	defer give()
	d.mu.Lock()
	defer d.mu.Unlock()
	// Before our keys are published nobody can have sent us anything, and what else came
	// is the client's.
	return since != "" && since == d.record.row.SyncPosition || !d.publication.allowed, nil
}

// dropDelivered removes what the client has got for certain: what a response carried whose
// next_batch the client now continues from.
func (s *ClientSync) dropDelivered(ctx context.Context) error {
	pending, inbox, err := s.load(ctx)
	if err != nil {
		return err
	}
	if s.waiting, err = s.d.noticesWait(ctx, s.since); err != nil {
		return err
	}
	ch := &store.Changes{}
	for _, p := range pending {
		if p.DeliveredAt != "" && p.DeliveredAt == s.since {
			ch.DeletePending = append(ch.DeletePending, p.EventID)
		} else {
			s.waiting = true
		}
	}
	for _, item := range inbox {
		if item.DeliveredAt != "" && item.DeliveredAt == s.since {
			ch.DeleteInbox = append(ch.DeleteInbox, item.Seq)
		} else {
			s.waiting = true
		}
	}
	due, err := s.d.due(ctx)
	if err != nil {
		return err
	}
	for _, p := range due {
		if p.PlacedAt != "" && p.PlacedAt == s.since {
			ch.ShownPending = append(ch.ShownPending, p.EventID)
		} else {
			s.waiting = true
		}
	}
	if len(ch.DeletePending)+len(ch.DeleteInbox)+len(ch.ShownPending) == 0 {
		return nil
	}
	defer s.d.recountHeld()
	if err := s.d.save(ctx, ch); err != nil {
		return fmt.Errorf("store what the client has got: %w", err)
	}
	return nil
}

func (s *ClientSync) load(ctx context.Context) ([]store.PendingEvent, []store.InboxItem, error) {
	pending, err := s.d.eng.store.Pending(ctx, s.d.acct.row, s.d.rowID, maxLate)
	if err != nil {
		return nil, nil, fmt.Errorf("load late events: %w", err)
	}
	inbox, err := s.d.eng.store.Inbox(ctx, s.d.acct.row, s.d.rowID, maxLate)
	if err != nil {
		return nil, nil, fmt.Errorf("load to-device events for the client: %w", err)
	}
	return pending, inbox, nil
}

// Waiting reports whether there is something for the client now, so that its sync
// must not wait at the homeserver.
func (s *ClientSync) Waiting() bool { return s.waiting }

// Arrived is closed when something for the client arrives while its sync waits.
func (s *ClientSync) Arrived() <-chan struct{} { return s.arrived }

// arrivals returns the channel that the next arrival closes. It is taken before it is
// looked at what waits, so that nothing falls in between.
func (c *clientState) arrivals() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.arrived == nil {
		c.arrived = make(chan struct{})
	}
	return c.arrived
}

// wakeWaiting tells parked client syncs that a key arrived. The caller holds mu.
func (c *clientState) wakeWaiting() {
	if c.arrived != nil {
		close(c.arrived)
		c.arrived = nil
	}
}

// Commit processes and stores the effects of the response, and returns what is added to it.
func (s *ClientSync) Commit(ctx context.Context, u SyncUpdate) (SyncExtras, error) {
	u, err := s.d.withEarlierChanges(ctx, u, false)
	if err != nil {
		return SyncExtras{}, err
	}
	b, err := s.d.ingest(ctx, u, false, s.began)
	if err != nil {
		return SyncExtras{}, err
	}
	pending, inbox, err := s.load(ctx)
	if err != nil {
		return SyncExtras{}, err
	}
	out := SyncExtras{}
	if out.Late, err = s.d.openLate(ctx, pending, u.NextBatch); err != nil {
		return SyncExtras{}, err
	}
	due, err := s.d.due(ctx)
	if err != nil {
		return SyncExtras{}, err
	}
	if err := s.d.openDue(ctx, due, pending, u.NextBatch, out.Late); err != nil {
		return SyncExtras{}, err
	}
	if out.Notices, err = s.d.noticesFor(ctx, u.Since, u.NextBatch); err != nil {
		return SyncExtras{}, err
	}
	ch := &store.Changes{MarkDelivered: u.NextBatch}
	for _, item := range inbox {
		out.ToDevice = append(out.ToDevice, json.RawMessage(item.Event.Reveal()))
		ch.MarkInbox = append(ch.MarkInbox, item.Seq)
	}
	out.ToDevice = append(out.ToDevice, b.forward...)
	if len(ch.MarkInbox) > 0 {
		if err := s.d.save(ctx, ch); err != nil {
			return SyncExtras{}, fmt.Errorf("store what the client gets: %w", err)
		}
	}
	if out.Warnings, err = s.d.warnings(ctx); err != nil {
		return SyncExtras{}, err
	}
	return out, nil
}

// End must be called in every case.
func (s *ClientSync) End() {
	s.end.Do(func() {
		if s.wake != nil {
			s.wake.Stop()
		}
		s.d.schedule.live.clientEnds(s.d.eng.now())
		s.d.resumeLoop()
		if s.since == "" {
			s.d.firstSyncEnds()
		}
	})
}
