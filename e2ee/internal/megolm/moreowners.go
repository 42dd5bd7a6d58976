package megolm

import (
	"encoding/json"
	"fmt"
	"slices"

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

// MoreOwners are owners of some sessions beside those in the sessions' rows, as stored and
// as they will be.
type MoreOwners struct {
	lists map[store.OwnersRef][]trustcache.Owner
	moved map[store.OwnersRef]bool
}

// NewMoreOwners reads rows. Where they are damaged there are no owners.
func NewMoreOwners(rows map[store.OwnersRef]secret.Bytes) *MoreOwners {
	out := &MoreOwners{lists: make(map[store.OwnersRef][]trustcache.Owner), moved: make(map[store.OwnersRef]bool)}
	for ref, raw := range rows {
		out.lists[ref] = readOwners(raw)
	}
	return out
}

// Of returns the owners of a session among one user's devices.
func (m *MoreOwners) Of(ref store.OwnersRef) []trustcache.Owner { return m.lists[ref] }

func readOwners(raw secret.Bytes) []trustcache.Owner {
	var all []trustcache.Owner
	if json.Unmarshal(raw.Reveal(), &all) != nil {
		return nil
	}
	return all
}

// WriteOwners returns further owners as they are stored.
func WriteOwners(all []trustcache.Owner) (secret.Bytes, error) {
	raw, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode key owners: %w", err)
	}
	return raw, nil
}

// add adds an owner of a session, and tells whether that is news. user is what is known of
// the owner's user, nil when nothing is.
func (m *MoreOwners) add(ref store.SessionRef, owner trustcache.Owner, user *trustcache.User) bool {
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

// Collect adds what changed to ch.
func (m *MoreOwners) Collect(ch *store.Changes) error {
	for ref := range m.moved {
		raw, err := WriteOwners(m.lists[ref])
		if err != nil {
			return err
		}
		ch.MoreOwners = append(ch.MoreOwners, store.MoreOwners{OwnersRef: ref, Owners: raw})
	}
	return nil
}
