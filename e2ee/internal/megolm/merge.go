package megolm

import (
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/megolm"
	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Arrived is a room key that came over Olm.
type Arrived struct {
	Ref           store.SessionRef
	Session       *session.MegolmInboundSession
	Owner         trustcache.Owner
	SharedHistory bool
	Refused       bool // its sender may send no keys
}

// Merge merges a key that came over Olm with the stored one of the same session, if there
// is one (requirement 8.3, attacks A12 and N2).
func Merge(k Arrived, old store.InboundSession) (store.InboundSession, error) {
	was := ReadOwner(old.Owner)
	proven := old.SessionID != "" && ProvesOwner(old.Source, was.Owner)
	if proven && !sameDevice(was.Owner, k.Owner) {
		return store.InboundSession{}, ErrAnothersKey
	}
	if proven {
		k.Owner = k.Owner.Keep(was.Owner)
	}
	ownerJSON, err := Owner{Owner: k.Owner, Contested: proven && was.Contested}.Encode()
	if err != nil {
		return store.InboundSession{}, err
	}
	fresh := store.InboundSession{
		SessionRef: k.Ref, Pickle: k.Session.PickleLibOlm(), Owner: ownerJSON, Source: store.SourceDirect,
		FirstIndex: k.Session.FirstKnownIndex(), SharedHistory: k.SharedHistory,
	}
	if old.SessionID == "" {
		return fresh, nil
	}
	joined, err := k.leadsTo(old)
	if err != nil {
		return store.InboundSession{}, err
	}
	if old.Source == store.SourceDirect {
		if !joined || old.FirstIndex <= fresh.FirstIndex {
			return store.InboundSession{}, errKeyKnown
		}
		return fresh, nil
	}
	// Without an attestation the owner from a backup, a forward or an import proves
	// nothing, so the direct key's owner replaces it. An earlier ratchet is kept only if it
	// leads to the direct one.
	if joined && old.FirstIndex < fresh.FirstIndex {
		fresh.Pickle, fresh.FirstIndex = old.Pickle, old.FirstIndex
		fresh.SharedHistory = fresh.SharedHistory && old.SharedHistory
		fresh.BackupVersion = old.BackupVersion
	}
	return fresh, nil
}

// AddOwner adds the sender of a room key to the owners of a session that has another proven
// owner. The ratchet must be the stored one, possibly at an earlier index, and never
// replaces another (attack N2). The first owner stays.
func AddOwner(k Arrived, old store.InboundSession, more *MoreOwners, sender *trustcache.User) (store.InboundSession, error) {
	joined, err := k.leadsTo(old)
	if err != nil {
		return store.InboundSession{}, err
	}
	if !joined {
		return store.InboundSession{}, errKeyKnown
	}
	news := more.add(k.Ref, k.Owner, sender)
	if first := k.Session.FirstKnownIndex(); first < old.FirstIndex {
		old.Pickle, old.FirstIndex, old.BackupVersion, news = k.Session.PickleLibOlm(), first, "", true
	}
	if !news {
		return store.InboundSession{}, errKeyKnown
	}
	return contest(old, k.SharedHistory)
}

// contest marks that a session has more owners than the one in its row. Its history is
// shared only if all of them say so.
func contest(row store.InboundSession, sharedHistory bool) (store.InboundSession, error) {
	row.SharedHistory = row.SharedHistory && sharedHistory
	owner := ReadOwner(row.Owner)
	if !owner.Contested {
		row.BackupVersion = "" // its backup entry may attest only the first owner
	}
	owner.Contested = true
	var err error
	row.Owner, err = owner.Encode()
	return row, err
}

// leadsTo reports whether the key's ratchet and the stored one are the same.
func (k *Arrived) leadsTo(old store.InboundSession) (bool, error) {
	sess := &session.MegolmInboundSession{}
	if err := sess.UnpickleLibOlm(old.Pickle.Reveal()); err != nil {
		return false, fmt.Errorf("unpickle room key: %w", err)
	}
	return connected(&sess.InitialRatchet, &k.Session.InitialRatchet), nil
}

var (
	// errKeyKnown means that a room key adds nothing to what is stored, or contradicts it.
	errKeyKnown = errors.New("the room key is known")
)

var (
	// ErrAnothersKey means that the session has another proven owner.
	ErrAnothersKey = errors.New("the room key is somebody else's")
)

// connected reports whether two ratchets are the same at different indices. Its cost is
// bounded: about 1,000 HMACs (attack 65).
func connected(a, b *megolm.Ratchet) bool {
	early, late := *a, *b
	if early.Counter > late.Counter {
		early, late = late, early
	}
	early.AdvanceTo(late.Counter)
	return early.Data == late.Data
}

// AttestedAgain returns the attested owners of rows whose sessions are known already.
func AttestedAgain(rows []store.InboundSession, known map[store.SessionRef]store.InboundSession) (named []store.OwnersRef) {
	for i := range rows {
		ref := rows[i].SessionRef
		if o := WhoseOwner(rows[i].Owner); o.Attested && o.UserID != "" && known[ref].SessionID != "" {
			named = append(named, store.OwnersRef{SessionRef: ref, UserID: o.UserID})
		}
	}
	return named
}

// MergeKept merges a room key that did not come over Olm with the stored one of the same
// session. An earlier ratchet is used if it leads to the stored one. A proven owner and its
// source are never replaced by unproven ones (requirement 8.3, attacks A12 and N2); another
// proven owner is added. It reports false if nothing changes.
func MergeKept(fresh *store.InboundSession, known map[store.SessionRef]store.InboundSession, more *MoreOwners) (store.InboundSession, bool, error) {
	old, there := known[fresh.SessionRef]
	if !there {
		return *fresh, true, nil
	}
	var was, now session.MegolmInboundSession
	if err := was.UnpickleLibOlm(old.Pickle.Reveal()); err != nil {
		return store.InboundSession{}, false, fmt.Errorf("unpickle room key: %w", err)
	}
	if err := now.UnpickleLibOlm(fresh.Pickle.Reveal()); err != nil {
		return store.InboundSession{}, false, fmt.Errorf("unpickle room key: %w", err)
	}
	joined := connected(&was.InitialRatchet, &now.InitialRatchet)
	earlier := fresh.FirstIndex < old.FirstIndex
	first, owner := WhoseOwner(old.Owner), WhoseOwner(fresh.Owner)
	proven, proves := ProvesOwner(old.Source, first), ProvesOwner(fresh.Source, owner)
	if !proven && proves {
		out := *fresh
		if joined && !earlier {
			out.Pickle, out.FirstIndex, out.BackupVersion = old.Pickle, old.FirstIndex, old.BackupVersion
		}
		return out, true, nil
	}
	out := old
	if joined && earlier {
		out.Pickle, out.FirstIndex, out.BackupVersion = fresh.Pickle, fresh.FirstIndex, fresh.BackupVersion
		out.SharedHistory = old.SharedHistory && fresh.SharedHistory
	}
	if joined && proven && proves && !sameDevice(first, owner) && more.add(fresh.SessionRef, owner, nil) {
		contested, err := contest(out, fresh.SharedHistory)
		return contested, err == nil, err
	}
	return out, joined && earlier, nil
}

// ReceivedAfter returns when a session counts as received that is stored in place of old,
// which may be none: now, or the first time that can be stored after old's. It is never the
// same, because a backup that is being made of old at this moment must not count for it.
func ReceivedAfter(old store.InboundSession, now time.Time) time.Time {
	if first := old.ReceivedAt.Add(time.Millisecond); now.Before(first) {
		return first
	}
	return now
}
