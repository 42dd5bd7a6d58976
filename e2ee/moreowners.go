package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// A room key says whose it is by the Olm channel over which it comes, and by nothing else:
// any member of the room who was given it can send it on as their own, word for word. Who
// does so first must not silence its owner. So everybody who sends a key keeps their claim
// to it, and an event is its sender's if its sender has one. That gives nobody anything:
// who has the key can say what the event says in their own name, and nobody can claim a
// key in another's.
//
// The first owner stands in the session's row. Those who come later have rows of their
// own, by user, which are read for the sender of an event only: however many claim a
// session, it costs the same, and nobody's claim takes the place of another user's. Only
// the devices of one user share room, and one that its owner has confirmed is never given
// up for one that is not.

// maxOwnersOfUser bounds the devices of one user that claim a session beside its first owner.
const maxOwnersOfUser = 4

// moreOwners are owners of some sessions beside those in the sessions' rows, as stored and
// as they will be.
type moreOwners struct {
	lists map[store.OwnersRef][]trustcache.Owner
	moved map[store.OwnersRef]bool
}

// loadMoreOwners reads owners in one go. Where the rows are damaged there are none.
func (m *megolmState) loadMoreOwners(ctx context.Context, want []store.OwnersRef) (*moreOwners, error) {
	out := &moreOwners{lists: make(map[store.OwnersRef][]trustcache.Owner), moved: make(map[store.OwnersRef]bool)}
	if len(want) == 0 {
		return out, nil
	}
	rows, err := m.eng.store.MoreOwners(ctx, m.acct.row, m.rowID, want)
	if err != nil {
		return nil, err
	}
	for ref, raw := range rows {
		out.lists[ref] = decodeOwners(raw)
	}
	return out, nil
}

func decodeOwners(raw secret.Bytes) []trustcache.Owner {
	var all []trustcache.Owner
	if json.Unmarshal(raw.Reveal(), &all) != nil {
		return nil
	}
	return all
}

func encodeOwners(all []trustcache.Owner) (secret.Bytes, error) {
	raw, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode key owners: %w", err)
	}
	return raw, nil
}

// add adds an owner of a session, and tells whether that is news. user is what is known of
// the owner's user, nil when nothing is.
func (m *moreOwners) add(ref store.SessionRef, owner trustcache.Owner, user *trustcache.User) bool {
	if owner.UserID == "" {
		return false
	}
	at := store.OwnersRef{SessionRef: ref, UserID: owner.UserID}
	list := slices.Clone(m.lists[at])
	for i := range list {
		list[i], _ = list[i].Upgrade(user)
	}
	if i := slices.IndexFunc(list, func(o trustcache.Owner) bool { return sameDevice(o, owner) }); i >= 0 {
		if list[i].Signed || !owner.Signed {
			return false
		}
		owner.Attested = owner.Attested && list[i].Attested // what came over Olm needs nobody's word
		list = slices.Delete(list, i, i+1)
	}
	if len(list) >= maxOwnersOfUser {
		i := slices.IndexFunc(list, func(o trustcache.Owner) bool { return !o.Signed })
		if i < 0 || !owner.Signed {
			return false
		}
		list = slices.Delete(list, i, i+1)
	}
	m.lists[at], m.moved[at] = append(list, owner), true
	return true
}

// collect adds what changed to ch.
func (m *moreOwners) collect(ch *store.Changes) error {
	for ref := range m.moved {
		raw, err := encodeOwners(m.lists[ref])
		if err != nil {
			return err
		}
		ch.MoreOwners = append(ch.MoreOwners, store.MoreOwners{OwnersRef: ref, Owners: raw})
	}
	return nil
}

// sameDevice reports whether two owners are one device, as far as both are named.
func sameDevice(a, b trustcache.Owner) bool {
	return a.Curve25519 == b.Curve25519 && a.Ed25519 == b.Ed25519 && (a.UserID == b.UserID || a.UserID == "" || b.UserID == "")
}

// claimant is an owner of a session, and how it is known to be one.
type claimant struct {
	trustcache.Owner
	source store.Source
}

// claimants are those who may have encrypted an event of a session, the sender's own
// devices first: those of its sender, of the bridges that may speak for others, and the
// session's first owner.
func (s *inboundSession) claimants(sender id.UserID, bridges map[id.UserID]bool) []claimant {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := claimant{s.owner, s.row.Source}
	out := make([]claimant, 0, 4)
	add := func(user id.UserID) {
		if s.owner.UserID == user {
			out = append(out, first)
		}
		for _, o := range s.more[user] {
			source := store.SourceDirect
			if o.Attested {
				source = store.SourceBackup
			}
			out = append(out, claimant{o, source})
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

// bridgesOf gives the users that may speak for others, in order.
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

// countsAs says in whose name an event takes its index: in that of whose claim makes it
// readable. Everybody's indices are their own, or who repeats another's ciphertext as
// their own would have the original refused as the copy. The empty name is the session's
// first owner. An event of somebody who has no claim is not shown, and takes no index.
func (s *inboundSession) countsAs(sender id.UserID, bridges map[id.UserID]bool) (name id.UserID, counts bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.owner.UserID
	switch {
	case first == "", first == sender, !provesOwner(s.row.Source, s.owner):
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

// provesOwner reports whether a key's source proves whose it is.
func provesOwner(source store.Source, owner trustcache.Owner) bool {
	return source == store.SourceDirect || owner.Attested
}

// indexOf names an index of a session in somebody's name.
func indexOf(ref store.SessionRef, name id.UserID, index uint32) store.IndexRef {
	if name != "" { // no session has a "|" in its ID, which is a key in base64
		ref.SessionID += id.SessionID("|" + name)
	}
	return store.IndexRef{SessionRef: ref, Index: index}
}

// findMoreOwners reads the further owners that events of contested sessions may be of.
func (m *megolmState) findMoreOwners(ctx context.Context, jobs []*sealedEvent) error {
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
		if list := found.lists[ref]; len(list) > 0 {
			if s.more == nil {
				s.more = make(map[id.UserID][]trustcache.Owner)
			}
			s.more[ref.UserID] = list
		}
		s.mu.Unlock()
	}
	return nil
}
