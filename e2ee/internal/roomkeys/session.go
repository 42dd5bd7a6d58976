package roomkeys

import (
	"maps"
	"slices"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// inboundSession is a room key in memory. It keeps the ratchet of the last message, so that
// messages in order cost one step each.
type inboundSession struct {
	row       store.InboundSession
	owner     trustcache.Owner
	contested bool // several owners claim it
	sharedBy  id.UserID

	mu   locks.Mutex
	sess session.MegolmInboundSession
	used map[usedKey]usedIndex
	// more are the owners beside the first, by user, for the users that were looked up.
	more map[id.UserID][]trustcache.Owner
	// last is the highest index that is stored as used under the first owner's name, -1
	// when there is none.
	last int64
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

// firstOwner returns the session's first owner as known now, and its source.
func (s *inboundSession) firstOwner() Claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Claim{s.owner, s.row.Source, s.sharedBy}
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
