package roomkeys

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/internal/signkey"
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
	// key is the one by which its messages are signed; nil if it is none.
	key *signkey.Key
	// checked is how many signatures were checked by it since its table was made, or at all.
	checked int
	used    map[usedKey]usedIndex
	// unstored counts those of used that the store does not know yet.
	unstored int
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
type ratchets map[*inboundSession]*megolm.Reader

// of returns the worker's copy, for a message that claims to be at an index. If that is behind
// the copy's, as on a page of history, the copy begins anew, so that the messages after this
// one cost one step each again.
func (w ratchets) of(s *inboundSession, index uint32) *megolm.Reader {
	own := w[s]
	if own == nil {
		s.mu.Lock()
		reader := megolm.NewReader(&s.sess)
		s.mu.Unlock()
		own = &reader
		w[s] = own
	}
	if index < own.Latest.Counter {
		own.Latest = own.First
	}
	return own
}

// verifiers check the signatures of a batch's sessions.
type verifiers map[*inboundSession]signkey.Verifier

// A table pays for itself with tableForBatch messages. Over several batches more are waited for,
// since it may be dropped between them.
const (
	tableForBatch = 6
	tableForMany  = 16
)

// verifiersOf returns what checks the signatures of events, and makes the tables that pay.
func (c *Cache) verifiersOf(events []*Event, now time.Time) verifiers {
	counts := make(map[*inboundSession]int)
	for _, ev := range events {
		if s := ev.session; s != nil && s.key != nil {
			counts[s]++
		}
	}
	by := make(verifiers, len(counts))
	for s, n := range counts {
		table := c.tables.Of(s.key, now)
		s.mu.Lock()
		s.checked += n
		worth := table == nil && (n >= tableForBatch || s.checked >= tableForMany)
		if worth {
			s.checked = 0
		}
		s.mu.Unlock()
		switch {
		case worth:
			by[s] = c.tables.Make(s.key, now)
		case table != nil:
			by[s] = table
		default:
			by[s] = s.key
		}
	}
	return by
}

// byIndex returns the events in the order in which it costs least to decrypt them: those of a
// session together, with increasing indices.
func byIndex(events []*Event) []*Event {
	sessions := make(map[*inboundSession]int)
	for _, ev := range events {
		ev.hint = claimedIndex(ev.Ciphertext)
		if _, known := sessions[ev.session]; !known {
			sessions[ev.session] = len(sessions)
		}
	}
	inOrder := slices.Clone(events)
	slices.SortStableFunc(inOrder, func(a, b *Event) int {
		if c := cmp.Compare(sessions[a.session], sessions[b.session]); c != 0 {
			return c
		}
		return cmp.Compare(a.hint, b.hint)
	})
	return inOrder
}

// claimedIndex returns the index that stands at the beginning of a Megolm message (Olm
// specification, Megolm, Message format); 0 when none can be read. Nothing depends on it but
// the time that decryption takes.
func claimedIndex(ciphertext string) uint32 {
	const version, tag = 3, 0x08
	var head [9]byte
	n, err := base64.RawStdEncoding.Decode(head[:], []byte(ciphertext[:min(len(ciphertext), 12)]))
	if err != nil || n < 3 || head[0] != version || head[1] != tag {
		return 0
	}
	index, size := binary.Uvarint(head[2:n])
	if size <= 0 || index > math.MaxUint32 {
		return 0
	}
	return uint32(index)
}

// keep stores the copies in the sessions, so that the next batch starts where this one
// ended.
func (w ratchets) keep() {
	for s, own := range w {
		s.mu.Lock()
		if own.Latest.Counter > s.sess.Ratchet.Counter {
			s.sess.Ratchet = own.Latest
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
