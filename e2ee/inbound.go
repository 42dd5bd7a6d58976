package e2ee

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// inboundKey names a room key in the engine's cache. Each device has its own: nothing
// of one device is reachable through another.
type inboundKey struct {
	device int64
	store.SessionRef
}

// inboundSession is a room key in memory. The ratchet of the last message is kept, so
// that messages in order cost one step each.
type inboundSession struct {
	row   store.InboundSession
	owner trustcache.Owner

	mu   sync.Mutex
	sess session.MegolmInboundSession
	used map[uint32]usedIndex
	// last is the highest index that the store knows to be used, -1 when there is none.
	last int64
}

// usedIndex is the event that used an index; stored says that the store knows too.
type usedIndex struct {
	event  id.EventID
	ts     int64
	stored bool
}

// maxRemembered bounds the indices a cached session remembers beside those of the batch
// that is being opened; the store knows all.
const maxRemembered = 512

// ratchets are one worker's own copies of the room keys it uses, so that the costly
// signature checks run in parallel and messages in order cost one step each.
type ratchets map[*inboundSession]*session.MegolmInboundSession

// of gives the worker's copy.
func (w ratchets) of(s *inboundSession) *session.MegolmInboundSession {
	if own := w[s]; own != nil {
		return own
	}
	s.mu.Lock()
	own := s.sess
	s.mu.Unlock()
	w[s] = &own
	return &own
}

// keep lets the next batch begin where this one ended.
func (w ratchets) keep() {
	for s, own := range w {
		s.mu.Lock()
		if own.Ratchet.Counter > s.sess.Ratchet.Counter {
			s.sess.Ratchet = own.Ratchet
		}
		s.mu.Unlock()
	}
}

// claimed is what became of a claim.
type claimed int

const (
	// claimReplayed is an index that another event has.
	claimReplayed claimed = iota
	// claimOpen must be compared with the store.
	claimOpen
	// claimNew is higher than all that the store knows: nobody has it.
	claimNew
	// claimKnown is recorded for this very event.
	claimKnown
)

// claim takes an index for an event.
func (s *inboundSession) claim(index uint32, event id.EventID, ts int64) claimed {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch u, ok := s.used[index]; {
	case ok && (u.event != event || u.ts != ts):
		return claimReplayed
	case ok && u.stored:
		return claimKnown
	case ok:
		return claimOpen
	}
	if s.used == nil {
		s.used = make(map[uint32]usedIndex)
	}
	if len(s.used) >= maxRemembered { // the store does not know the others yet
		maps.DeleteFunc(s.used, func(_ uint32, u usedIndex) bool { return u.stored })
	}
	s.used[index] = usedIndex{event: event, ts: ts}
	if int64(index) > s.last {
		return claimNew
	}
	return claimOpen
}

// release gives a claim back that could not be stored: the event was not shown.
func (s *inboundSession) release(index uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.used[index].stored {
		delete(s.used, index)
	}
}

// settle records who has an index according to the store.
func (s *inboundSession) settle(index uint32, event id.EventID, ts int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[index] = usedIndex{event: event, ts: ts, stored: true}
	s.last = max(s.last, int64(index))
}

// ownerNow gives the owner as known now.
func (s *inboundSession) ownerNow() trustcache.Owner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner
}

// upgrade adds to the owner what is known now; it gives the row to store when that is
// news. An owner without a name is sender's, if the keys say so.
func (s *inboundSession) upgrade(users map[id.UserID]*trustcache.User, sender id.UserID) (row store.SessionOwner, changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner, named := s.owner.Named(users[sender])
	owner, changed = owner.Upgrade(users[owner.UserID])
	if !changed && !named {
		return store.SessionOwner{}, false, nil
	}
	kept := decodeKeptOwner(s.row.Owner) // with what other clients wrote beside it
	kept.Owner = owner
	raw, err := kept.encode()
	if err != nil {
		return store.SessionOwner{}, false, err
	}
	s.owner, s.row.Owner = owner, raw
	return store.SessionOwner{SessionRef: s.row.SessionRef, Owner: raw}, true, nil
}

// findSessions gives every job its session, from the cache or with two queries.
func (d *Device) findSessions(ctx context.Context, jobs []*sealedEvent) error {
	var missing []store.SessionRef
	asked := make(map[store.SessionRef]bool)
	for _, job := range jobs {
		if s, ok := d.eng.inbound.Get(inboundKey{d.rowID, job.ref}); ok {
			job.session = s
		} else if !asked[job.ref] {
			asked[job.ref] = true
			missing = append(missing, job.ref)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	rows, err := d.eng.store.InboundSessions(ctx, d.acct.row, d.rowID, missing)
	if err != nil {
		return fmt.Errorf("load room keys: %w", err)
	}
	last, err := d.eng.store.LastIndices(ctx, d.acct.row, d.rowID, missing)
	if err != nil {
		return err
	}
	loaded := make(map[store.SessionRef]*inboundSession, len(rows))
	for ref, row := range rows {
		s := &inboundSession{row: row, owner: decodeOwner(row.Owner), last: -1}
		if index, ok := last[ref]; ok {
			s.last = int64(index)
		}
		if err := s.sess.UnpickleLibOlm(row.Pickle.Reveal()); err != nil {
			return fmt.Errorf("unpickle room key: %w", err)
		}
		s.row.Pickle = nil // the unpickled one is enough
		loaded[ref] = s
		d.eng.inbound.Add(inboundKey{d.rowID, ref}, s)
	}
	for _, job := range jobs {
		if job.session == nil {
			job.session = loaded[job.ref]
		}
	}
	return nil
}
