package roomkeys

import (
	"context"
	"fmt"
	"maps"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/store"
)

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

// reserveIndex reserves an index for an event. current says that the session knows of all indices
// that are stored; if not, the store is asked.
func (s *inboundSession) reserveIndex(key usedKey, event id.EventID, ts int64, current bool) reservation {
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
	if len(s.used) >= maxRemembered && s.unstored < len(s.used) { // the store does not know the others yet
		maps.DeleteFunc(s.used, func(_ usedKey, u usedIndex) bool { return u.stored })
	}
	s.used[key] = usedIndex{event: event, ts: ts}
	s.unstored++
	if current && key.name == "" && int64(key.index) > s.last {
		return indexNew
	}
	return indexUnsure
}

// releaseIndex releases an index whose use could not be stored: the event was not shown.
func (s *inboundSession) releaseIndex(key usedKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.used[key]; ok && !u.stored {
		delete(s.used, key)
		s.unstored--
	}
}

// recordUsed records which event has an index according to the store.
func (s *inboundSession) recordUsed(key usedKey, event id.EventID, ts int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.used[key]; ok && !u.stored {
		s.unstored--
	}
	if s.used == nil {
		s.used = make(map[usedKey]usedIndex)
	}
	s.used[key] = usedIndex{event: event, ts: ts, stored: true}
	if key.name == "" {
		s.last = max(s.last, int64(key.index))
	}
}

// indexName returns under which owner's name an event's index counts: the owner whose claim
// makes the event readable. Each owner has indices of their own; otherwise somebody could
// resend another's ciphertext as their own, and the original would be refused as a replay.
// The empty name is the session's first owner. counts is false for an event of somebody
// without a claim: it is not shown and uses no index.
func (s *inboundSession) indexName(sender id.UserID, bridges map[id.UserID]bool) (name id.UserID, counts bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.owner.UserID
	switch {
	case first == "", first == sender, !megolm.ProvesOwner(s.row.Source, s.owner):
		return "", true
	case len(s.more[sender]) > 0:
		return sender, true
	case bridges[first]:
		return "", true
	}
	for _, user := range bridgesOf(bridges) {
		if len(s.more[user]) > 0 {
			return user, true
		}
	}
	return "", false
}

// indexOf returns the stored name of an index under an owner's name.
func indexOf(ref store.SessionRef, name id.UserID, index uint32) store.IndexRef {
	if name != "" { // no session has a "|" in its ID, which is a key in base64
		ref.SessionID += id.SessionID("|" + name)
	}
	return store.IndexRef{SessionRef: ref, Index: index}
}

// refuseReplays refuses indices that another event has used (requirement 8.4) and stores
// the new ones, with one write, and one query if any may have been used.
func (in *Inbound) refuseReplays(ctx context.Context, events []*Event) {
	fresh, refs := in.reserveIndices(events)
	if len(fresh) == 0 {
		return
	}
	fail := func(err error) {
		for _, ev := range fresh {
			ev.session.releaseIndex(ev.used())
		}
		in.Fail(events, fmt.Errorf("check message indices: %w", err))
	}
	var stored map[store.IndexRef]store.MessageIndex
	if len(refs) > 0 {
		var err error
		if stored, err = in.Env.Store.MessageIndices(ctx, in.Account.Row, in.RowID, refs); err != nil {
			fail(err)
			return
		}
	}
	ch := &store.Changes{}
	for _, ev := range fresh {
		ref := indexOf(ev.Ref, ev.name, ev.index)
		used, ok := stored[ref]
		if !ok {
			ch.MessageIndices = append(ch.MessageIndices, store.MessageIndex{IndexRef: ref, EventID: ev.ID, Timestamp: ev.Timestamp})
		} else if used.EventID != ev.ID || used.Timestamp != ev.Timestamp {
			ev.Err = ErrReplayed
			ev.session.recordUsed(ev.used(), used.EventID, used.Timestamp)
		}
	}
	if len(ch.MessageIndices) > 0 {
		if err := in.Save(ctx, ch); err != nil {
			fail(err)
			return
		}
	}
	for _, ev := range fresh {
		if ev.Err == nil {
			in.recordUsed(ev)
		}
	}
}

// recordUsed records that an event's index is stored as used by it, also in the session that has
// taken the place of the one that the event was decrypted with: that may have been loaded before.
// The caller holds opens.
func (in *Inbound) recordUsed(ev *Event) {
	ev.session.recordUsed(ev.used(), ev.ID, ev.Timestamp)
	if now, ok := in.cache.sessions.Peek(inboundKey{in.keys(), ev.Ref}); ok && now != ev.session {
		now.recordUsed(ev.used(), ev.ID, ev.Timestamp)
	}
}

// reserveIndices reserves the indices of events. fresh are the events whose index must be
// stored, and refs are the indices to look up in the store first. A session is loaded, and its
// indices are stored, while opens is held, so that the one in the cache knows of all; another, which
// better keys or others' have displaced since the event was decrypted, may not. The caller holds
// opens.
func (in *Inbound) reserveIndices(events []*Event) (fresh []*Event, refs []store.IndexRef) {
	bridges := in.Env.Policy().Bridges
	for _, ev := range events {
		if ev.Err != nil {
			continue
		}
		var counts bool
		if ev.name, counts = ev.session.indexName(ev.Sender, bridges); !counts {
			continue
		}
		switch ev.session.reserveIndex(ev.used(), ev.ID, ev.Timestamp, in.inCache(ev.session)) {
		case indexReplayed:
			ev.Err = ErrReplayed
		case indexUnsure:
			fresh = append(fresh, ev)
			refs = append(refs, indexOf(ev.Ref, ev.name, ev.index))
		case indexNew:
			fresh = append(fresh, ev)
		case indexKnown:
		}
	}
	return fresh, refs
}

// used returns the index that the event uses.
func (ev *Event) used() usedKey { return usedKey{ev.name, ev.index} }
