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

// loadMoreOwners reads owners in one go. Where the rows are damaged there are none.
func (m *megolmState) loadMoreOwners(ctx context.Context, want []store.OwnersRef) (*megolm.MoreOwners, error) {
	if len(want) == 0 {
		return megolm.NewMoreOwners(nil), nil
	}
	rows, err := m.eng.store.MoreOwners(ctx, m.acct.row, m.rowID, want)
	if err != nil {
		return nil, err
	}
	return megolm.NewMoreOwners(rows), nil
}

// possibleOwner is an owner of a session, and how it is known to be one.
type possibleOwner struct {
	trustcache.Owner
	source store.Source
}

// possibleOwners are those who may have encrypted an event of a session, the sender's own
// devices first: those of its sender, of the bridges that may speak for others, and the
// session's first owner.
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

// indexName says in whose name an event takes its index: in that of whose claim makes it
// readable. Everybody's indices are their own, or who repeats another's ciphertext as
// their own would have the original refused as the copy. The empty name is the session's
// first owner. An event of somebody who has no claim is not shown, and takes no index.
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

// indexOf names an index of a session in somebody's name.
func indexOf(ref store.SessionRef, name id.UserID, index uint32) store.IndexRef {
	if name != "" { // no session has a "|" in its ID, which is a key in base64
		ref.SessionID += id.SessionID("|" + name)
	}
	return store.IndexRef{SessionRef: ref, Index: index}
}

// findMoreOwners reads the further owners that events of contested sessions may be of.
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
			bridges = bridgesOf(m.eng.opts.Policy().Bridges)
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
