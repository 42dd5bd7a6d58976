package e2ee

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// inboundKey is a room key's name in the engine's cache. Devices do not share entries: no
// device reaches another's keys.
type inboundKey struct {
	device int64
	store.SessionRef
}

// inboundSession is a room key in memory. It keeps the ratchet of the last message, so that
// messages in order cost one step each.
type inboundSession struct {
	row       store.InboundSession
	owner     trustcache.Owner
	contested bool // several owners claim it

	mu   locks.Mutex
	sess session.MegolmInboundSession
	used map[usedKey]usedIndex
	// more are the owners beside the first, by user, for the users that were looked up.
	more map[id.UserID][]trustcache.Owner
	// last is the highest index that is stored as used under the first owner's name, -1
	// when there is none.
	last int64
}

// usedKey is an index under the name of an owner, see indexName.
type usedKey struct {
	name  id.UserID
	index uint32
}

// usedIndex is the event that used an index; stored says whether that is in the store.
type usedIndex struct {
	event  id.EventID
	ts     int64
	stored bool
}

// maxRemembered bounds the used indices in a cached session, without those of the batch
// that is being decrypted; the store has all.
const maxRemembered = 512

// ratchets are one worker's copies of the room keys it uses, so that the costly signature
// checks run in parallel and messages in order cost one step each.
type ratchets map[*inboundSession]*session.MegolmInboundSession

// of returns the worker's copy.
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

// keep stores the copies in the sessions, so that the next batch starts where this one
// ended.
func (w ratchets) keep() {
	for s, own := range w {
		s.mu.Lock()
		if own.Ratchet.Counter > s.sess.Ratchet.Counter {
			s.sess.Ratchet = own.Ratchet
		}
		s.mu.Unlock()
	}
}

// reservation is the result of reserving an index.
type reservation int

const (
	// indexReplayed means that another event has the index.
	indexReplayed reservation = iota
	// indexUnsure means that the store must be asked.
	indexUnsure
	// indexNew means that the index is higher than all stored ones: nobody has it.
	indexNew
	// indexKnown means that this very event has the index.
	indexKnown
)

// reserveIndex reserves an index for an event.
func (s *inboundSession) reserveIndex(key usedKey, event id.EventID, ts int64) reservation {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch u, ok := s.used[key]; {
	case ok && (u.event != event || u.ts != ts):
		return indexReplayed
	case ok && u.stored:
		return indexKnown
	case ok:
		return indexUnsure
	}
	if s.used == nil {
		s.used = make(map[usedKey]usedIndex)
	}
	if len(s.used) >= maxRemembered { // the store does not know the others yet
		maps.DeleteFunc(s.used, func(_ usedKey, u usedIndex) bool { return u.stored })
	}
	s.used[key] = usedIndex{event: event, ts: ts}
	if key.name == "" && int64(key.index) > s.last {
		return indexNew
	}
	return indexUnsure
}

// releaseIndex releases an index whose use could not be stored: the event was not shown.
func (s *inboundSession) releaseIndex(key usedKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.used[key].stored {
		delete(s.used, key)
	}
}

// recordUsed records which event has an index according to the store.
func (s *inboundSession) recordUsed(key usedKey, event id.EventID, ts int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[key] = usedIndex{event: event, ts: ts, stored: true}
	if key.name == "" {
		s.last = max(s.last, int64(key.index))
	}
}

// firstOwner returns the session's first owner as known now, and its source.
func (s *inboundSession) firstOwner() possibleOwner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return possibleOwner{s.owner, s.row.Source}
}

// users returns the users whose devices own the session, as far as they were looked up. An
// owner without a user may be the sender's device, see Owner.Named.
func (s *inboundSession) users(sender id.UserID) iter.Seq[id.UserID] {
	return func(yield func(id.UserID) bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		user := s.owner.UserID
		if user == "" && s.owner.Attested {
			user = sender
		}
		if user != "" && !yield(user) {
			return
		}
		for user := range s.more {
			if !yield(user) {
				return
			}
		}
	}
}

// upgraded adds to ch what is known now of the owners of the session and was not before.
// apply changes the session in memory; it is nil when nothing changed. An owner without a
// user is the sender's device if the keys match.
func (s *inboundSession) upgraded(users map[id.UserID]*trustcache.User, sender id.UserID, ch *store.Changes) (apply func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, named := s.owner.Named(users[sender])
	first, better := first.Upgrade(users[first.UserID])
	raw := s.row.Owner
	if better || named {
		kept := megolm.ReadOwner(s.row.Owner) // with its other stored members
		kept.Owner = first
		if raw, err = kept.Encode(); err != nil {
			return nil, err
		}
		ch.Owners = append(ch.Owners, store.SessionOwner{SessionRef: s.row.SessionRef, Owner: raw})
	}
	more := make(map[id.UserID][]trustcache.Owner)
	for user, list := range s.more {
		all, changed := slices.Clone(list), false
		for i := range all {
			var one bool
			all[i], one = all[i].Upgrade(users[user])
			changed = changed || one
		}
		if !changed {
			continue
		}
		encoded, err := megolm.WriteOwners(all)
		if err != nil {
			return nil, err
		}
		more[user] = all
		ch.MoreOwners = append(ch.MoreOwners, store.MoreOwners{OwnersRef: store.OwnersRef{SessionRef: s.row.SessionRef, UserID: user}, Owners: encoded})
	}
	if !better && !named && len(more) == 0 {
		return nil, nil
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.owner, s.row.Owner = first, raw
		maps.Copy(s.more, more)
	}, nil
}

// findSessions sets the session of every job, from the cache or with two queries, and a
// third if several owners claim one.
func (m *megolmState) findSessions(ctx context.Context, jobs []*eventJob) error {
	var missing []store.SessionRef
	asked := make(map[store.SessionRef]bool)
	for _, job := range jobs {
		if s, ok := m.eng.inbound.Get(inboundKey{m.RowID, job.ref}); ok {
			job.session = s
		} else if !asked[job.ref] {
			asked[job.ref] = true
			missing = append(missing, job.ref)
		}
	}
	if len(missing) > 0 {
		if err := m.loadSessions(ctx, jobs, missing); err != nil {
			return err
		}
	}
	return m.findMoreOwners(ctx, jobs)
}

// loadSessions loads the sessions of jobs from the store. A session that was read while
// better keys were stored serves these jobs only: it must not replace the better ones in
// the cache.
func (m *megolmState) loadSessions(ctx context.Context, jobs []*eventJob, missing []store.SessionRef) error {
	before := m.keysTaken()
	rows, err := m.Env.Store.InboundSessions(ctx, m.acct.Row, m.RowID, missing)
	if err != nil {
		return fmt.Errorf("load room keys: %w", err)
	}
	last, err := m.Env.Store.LastIndices(ctx, m.acct.Row, m.RowID, missing)
	if err != nil {
		return err
	}
	loaded := make(map[store.SessionRef]*inboundSession, len(rows))
	for ref, row := range rows {
		kept := megolm.ReadOwner(row.Owner)
		s := &inboundSession{row: row, owner: kept.Owner, contested: kept.Contested, last: -1, mu: locks.Mutex{Order: m.Env.Order, Rank: locks.RankSession}}
		if index, ok := last[ref]; ok {
			s.last = int64(index)
		}
		if err := s.sess.UnpickleLibOlm(row.Pickle.Reveal()); err != nil {
			return fmt.Errorf("unpickle room key: %w", err)
		}
		s.row.Pickle = nil // the unpickled one is enough
		loaded[ref] = s
	}
	m.keepLoaded(loaded, before)
	for _, job := range jobs {
		if job.session == nil {
			job.session = loaded[job.ref]
		}
	}
	return nil
}

// keepLoaded caches sessions, unless room keys were stored since they were read (before is
// keySeq at that time). Storing keys first clears cache entries and then counts, under
// d.mu.
func (m *megolmState) keepLoaded(loaded map[store.SessionRef]*inboundSession, before int) {
	m.Mu.Lock()
	defer m.Mu.Unlock()
	if m.keySeq != before {
		return
	}
	for ref, s := range loaded {
		m.eng.inbound.Add(inboundKey{m.RowID, ref}, s)
	}
}

// inCache reports whether a session is the cached one: its row has not changed since it was
// read. The caller holds mu.
func (m *megolmState) inCache(s *inboundSession) bool {
	now, ok := m.eng.inbound.Peek(inboundKey{m.RowID, s.row.SessionRef})
	return ok && now == s
}
