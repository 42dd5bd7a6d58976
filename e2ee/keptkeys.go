package e2ee

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/store"
)

// keepKept stores room keys that came from a backup or an import, except those that add
// nothing to what is stored or contradict it, and tells how many it kept.
func (m *megolmState) keepKept(ctx context.Context, rows []store.InboundSession) (kept int, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	refs := make([]store.SessionRef, len(rows))
	for i := range rows {
		refs[i] = rows[i].SessionRef
	}
	m.mu.Lock()
	defer m.mu.Unlock() // room keys that come over Olm are merged under it too
	known, err := m.eng.store.InboundSessions(ctx, m.acct.row, m.rowID, refs)
	if err != nil {
		return 0, fmt.Errorf("load room keys: %w", err)
	}
	more, err := m.loadMoreOwners(ctx, attestedAgain(rows, known))
	if err != nil {
		return 0, err
	}
	ch := &store.Changes{}
	for i := range rows {
		row, news, err := mergeKept(&rows[i], known, more)
		if err != nil {
			return 0, err
		}
		if !news {
			continue
		}
		row.ReceivedAt = m.eng.now()
		known[row.SessionRef] = row
		ch.InboundSessions = append(ch.InboundSessions, row)
		ch.ReadyPending = append(ch.ReadyPending, row.SessionRef)
		if row.FirstIndex == 0 {
			ch.DeleteWithheld = append(ch.DeleteWithheld, row.SessionRef)
		}
	}
	if len(ch.InboundSessions) == 0 {
		return 0, nil
	}
	if err := more.collect(ch); err != nil {
		return 0, err
	}
	cancelled, err := m.host.cancelKeyAsks(ctx, ch, nil)
	if err != nil {
		return 0, err
	}
	if err := m.save(ctx, ch); err != nil {
		return 0, fmt.Errorf("store room keys: %w", err)
	}
	cancelled()
	for i := range ch.InboundSessions {
		m.eng.inbound.Remove(inboundKey{m.rowID, ch.InboundSessions[i].SessionRef})
	}
	m.keySeq++
	m.host.wakeWaiting()
	return len(ch.InboundSessions), nil
}

// attestedAgain names the owners that are attested of sessions which are known.
func attestedAgain(rows []store.InboundSession, known map[store.SessionRef]store.InboundSession) (named []store.OwnersRef) {
	for i := range rows {
		ref := rows[i].SessionRef
		if o := decodeOwner(rows[i].Owner); o.Attested && o.UserID != "" && known[ref].SessionID != "" {
			named = append(named, store.OwnersRef{SessionRef: ref, UserID: o.UserID})
		}
	}
	return named
}

// mergeKept decides what to keep of a room key that did not come over Olm and of what is
// stored for the same session. An earlier ratchet is taken if it leads to the one that is
// there; the owner and the source of a key that proves its owner are never given up for
// one that does not (requirement 8.3, attacks A12 and N2). One that proves another owner
// is added to it.
func mergeKept(fresh *store.InboundSession, known map[store.SessionRef]store.InboundSession, more *moreOwners) (store.InboundSession, bool, error) {
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
	first, owner := decodeOwner(old.Owner), decodeOwner(fresh.Owner)
	proven, proves := provesOwner(old.Source, first), provesOwner(fresh.Source, owner)
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
