package megolm

import (
	"errors"
	"fmt"

	"maunium.net/go/mautrix/crypto/goolm/megolm"
	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Arrived is a room key that came over Olm in this batch.
type Arrived struct {
	Ref           store.SessionRef
	Session       *session.MegolmInboundSession
	Owner         trustcache.Owner
	SharedHistory bool
	Refused       bool // its sender may send nothing
}

// Merge decides what to keep of a key that came over Olm and what was stored
// for the same session, if anything (requirement 8.3, attacks A12 and N2).
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
	// What a backup, a forward or an import claims of the owner proves nothing unless it is
	// attested: the direct key's owner stands alone. An earlier ratchet is kept only if it
	// leads to the direct one.
	if joined && old.FirstIndex < fresh.FirstIndex {
		fresh.Pickle, fresh.FirstIndex = old.Pickle, old.FirstIndex
		fresh.SharedHistory = fresh.SharedHistory && old.SharedHistory
		fresh.BackupVersion = old.BackupVersion
	}
	return fresh, nil
}

// AddOwner adds the sender of a room key to the owners of a session that somebody else has
// shown to be theirs. Its ratchet must be the one that is stored: it is taken where it
// begins earlier, and never takes the place of another (attack N2). What was known of the
// first owner stays as it was.
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

// contest notes that a session has more owners than the one in its row. What it says of
// its history holds only as far as all of them say so.
func contest(row store.InboundSession, sharedHistory bool) (store.InboundSession, error) {
	row.SharedHistory = row.SharedHistory && sharedHistory
	owner := ReadOwner(row.Owner)
	if !owner.Contested {
		row.BackupVersion = "" // where it may say that it is the first owner's alone
	}
	owner.Contested = true
	var err error
	row.Owner, err = owner.Encode()
	return row, err
}

// leadsTo reports whether the key's ratchet and the one that is stored are one.
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
	// ErrAnothersKey means that somebody else has shown the session to be theirs.
	ErrAnothersKey = errors.New("the room key is somebody else's")
)

// connected reports whether two ratchets are the same one at different indices. Work
// is bounded: at most about 1,000 HMACs (attack 65).
func connected(a, b *megolm.Ratchet) bool {
	early, late := *a, *b
	if early.Counter > late.Counter {
		early, late = late, early
	}
	early.AdvanceTo(late.Counter)
	return early.Data == late.Data
}

// AttestedAgain names the owners that are attested of sessions which are known.
func AttestedAgain(rows []store.InboundSession, known map[store.SessionRef]store.InboundSession) (named []store.OwnersRef) {
	for i := range rows {
		ref := rows[i].SessionRef
		if o := WhoseOwner(rows[i].Owner); o.Attested && o.UserID != "" && known[ref].SessionID != "" {
			named = append(named, store.OwnersRef{SessionRef: ref, UserID: o.UserID})
		}
	}
	return named
}

// MergeKept decides what to keep of a room key that did not come over Olm and of what is
// stored for the same session. An earlier ratchet is taken if it leads to the one that is
// there; the owner and the source of a key that proves its owner are never given up for
// one that does not (requirement 8.3, attacks A12 and N2). One that proves another owner
// is added to it.
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
