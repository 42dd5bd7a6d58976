package e2ee

import (
	"context"
	"fmt"
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
}

// usedIndex is the event that used an index; stored says that the store knows too.
type usedIndex struct {
	event  id.EventID
	ts     int64
	stored bool
}

// maxRemembered bounds the indices a cached session remembers; the store knows all.
const maxRemembered = 512

// decrypt opens a ciphertext. Concurrent calls work on copies, so that the costly
// signature check runs in parallel.
func (s *inboundSession) decrypt(cipher string) (plain []byte, index uint32, err error) {
	s.mu.Lock()
	work := s.sess
	s.mu.Unlock()
	plain, n, err := work.Decrypt([]byte(cipher))
	if err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	if work.Ratchet.Counter > s.sess.Ratchet.Counter {
		s.sess.Ratchet = work.Ratchet
	}
	s.mu.Unlock()
	return plain, uint32(n), nil
}

// claim takes an index for an event. It is replayed when another event has it, and
// known when the store has already recorded that this one does.
func (s *inboundSession) claim(index uint32, event id.EventID, ts int64) (replayed, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.used[index]; ok {
		return u.event != event || u.ts != ts, u.stored
	}
	if s.used == nil || len(s.used) >= maxRemembered {
		s.used = make(map[uint32]usedIndex)
	}
	s.used[index] = usedIndex{event: event, ts: ts}
	return false, false
}

// settle records who has an index according to the store.
func (s *inboundSession) settle(index uint32, event id.EventID, ts int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[index] = usedIndex{event: event, ts: ts, stored: true}
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

// findSessions gives every job its session, from the cache or with one query.
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
	loaded := make(map[store.SessionRef]*inboundSession, len(rows))
	for ref, row := range rows {
		s := &inboundSession{row: row, owner: decodeOwner(row.Owner)}
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
