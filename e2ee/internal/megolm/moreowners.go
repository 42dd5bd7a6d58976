package megolm

import (
	"encoding/json"
	"fmt"
	"slices"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Only the Olm channel shows whose a room key is: any member of the room who has it can
// send it on, unchanged, as their own. Doing so before the owner must not silence the
// owner. So everybody who sends a key has a claim to it, and an event is accepted if its
// sender has a claim to its key. Nobody gains by that: with the key one can repeat what the
// event says, but only in one's own name.
//
// The first owner is in the session's row. Later ones have rows of their own, by user, and
// only those of an event's sender are read: however many claim a session, the cost is the
// same, and no claim replaces another user's. Only the devices of one user share a bound,
// and a device confirmed by its user is never dropped for one that is not.

// maxOwnersOfUser bounds the devices of one user that claim a session, beside its first
// owner.
const maxOwnersOfUser = 4

// MoreOwners are the further owners of some sessions, as stored and with staged changes.
type MoreOwners struct {
	lists map[store.OwnersRef][]trustcache.Owner
	moved map[store.OwnersRef]bool
}

// NewMoreOwners parses rows. A damaged row has no owners.
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

// WriteOwners encodes further owners for the store.
func WriteOwners(all []trustcache.Owner) (secret.Bytes, error) {
	raw, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode key owners: %w", err)
	}
	return raw, nil
}

// add adds an owner of a session, and reports whether that changes anything. user is what
// is known of the owner's user, nil when nothing is.
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
		owner.Attested = owner.Attested && list[i].Attested // an owner proven over Olm needs no attestation
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

// Collect adds the changes to ch.
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
