package e2ee

import (
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// loadMoreOwners loads owners with one query. Damaged rows have none.
func (m *megolmState) loadMoreOwners(ctx context.Context, want []store.OwnersRef) (*megolm.MoreOwners, error) {
	if len(want) == 0 {
		return megolm.NewMoreOwners(nil), nil
	}
	rows, err := m.Env.Store.MoreOwners(ctx, m.acct.Row, m.RowID, want)
	if err != nil {
		return nil, err
	}
	return megolm.NewMoreOwners(rows), nil
}

// possibleOwner is a device that may own a session, and the source of that claim.
type possibleOwner struct {
	trustcache.Owner
	source store.Source
}

// possibleOwners returns those who may have encrypted an event of the session: the sender's
// devices, those of bridges that may speak for others, and the session's first owner, in
// this order.
func (s *inboundSession) possibleOwners(sender id.UserID, bridges map[id.UserID]bool) []possibleOwner {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := possibleOwner{s.owner, s.row.Source}
	out := make([]possibleOwner, 0, 4)
	add := func(user id.UserID) {
		if s.owner.UserID == user {
			out = append(out, first)
		}
		for _, o := range s.more[user] {
			source := store.SourceDirect
			if o.Attested {
				source = store.SourceBackup
			}
			out = append(out, possibleOwner{o, source})
		}
	}
	add(sender)
	for _, user := range bridgesOf(bridges) {
		if user != sender {
			add(user)
		}
	}
	if s.owner.UserID != sender && !bridges[s.owner.UserID] {
		out = append(out, first)
	}
	return out
}

// bridgesOf returns the users that may speak for others, in order.
func bridgesOf(bridges map[id.UserID]bool) []id.UserID {
	out := make([]id.UserID, 0, len(bridges))
	for user, is := range bridges {
		if is {
			out = append(out, user)
		}
	}
	slices.Sort(out)
	return out
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

// findMoreOwners loads the further owners that may have sent the events of contested
// sessions.
func (m *megolmState) findMoreOwners(ctx context.Context, jobs []*eventJob) error {
	var want []store.OwnersRef
	var whose []*inboundSession
	var bridges []id.UserID
	for _, job := range jobs {
		s := job.session
		if s == nil || !s.contested {
			continue
		}
		if bridges == nil {
			bridges = bridgesOf(m.Env.Policy().Bridges)
		}
		s.mu.Lock()
		for _, user := range append([]id.UserID{job.sender}, bridges...) {
			if _, known := s.more[user]; !known && len(user) <= wire.MaxIDLength {
				want, whose = append(want, store.OwnersRef{SessionRef: job.ref, UserID: user}), append(whose, s)
			}
		}
		s.mu.Unlock()
	}
	if len(want) == 0 {
		return nil
	}
	found, err := m.loadMoreOwners(ctx, want)
	if err != nil {
		return err
	}
	for i, ref := range want {
		s := whose[i]
		s.mu.Lock()
		if list := found.Of(ref); len(list) > 0 {
			if s.more == nil {
				s.more = make(map[id.UserID][]trustcache.Owner)
			}
			s.more[ref.UserID] = list
		}
		s.mu.Unlock()
	}
	return nil
}
