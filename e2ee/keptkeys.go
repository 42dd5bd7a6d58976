package e2ee

import (
	"context"
	"fmt"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/store"
)

// keepKept stores room keys from a backup or an import, without those that add nothing to
// what is stored or contradict it. It returns how many it stored.
func (m *megolmState) keepKept(ctx context.Context, rows []store.InboundSession) (kept int, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	refs := make([]store.SessionRef, len(rows))
	for i := range rows {
		refs[i] = rows[i].SessionRef
	}
	m.Mu.Lock()
	defer m.Mu.Unlock() // room keys that arrive over Olm are merged under mu, too
	known, err := m.Env.Store.InboundSessions(ctx, m.acct.Row, m.RowID, refs)
	if err != nil {
		return 0, fmt.Errorf("load room keys: %w", err)
	}
	more, err := m.loadMoreOwners(ctx, megolm.AttestedAgain(rows, known))
	if err != nil {
		return 0, err
	}
	ch := &store.Changes{}
	for i := range rows {
		row, news, err := megolm.MergeKept(&rows[i], known, more)
		if err != nil {
			return 0, err
		}
		if !news {
			continue
		}
		row.ReceivedAt = m.Env.Now()
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
	if err := more.Collect(ch); err != nil {
		return 0, err
	}
	cancelled, err := m.host.CancelKeyRequests(ctx, ch, nil)
	if err != nil {
		return 0, err
	}
	if err := m.Save(ctx, ch); err != nil {
		return 0, fmt.Errorf("store room keys: %w", err)
	}
	cancelled()
	for i := range ch.InboundSessions {
		m.eng.inbound.Remove(inboundKey{m.RowID, ch.InboundSessions[i].SessionRef})
	}
	m.keySeq++
	m.host.wakeWaiting()
	return len(ch.InboundSessions), nil
}
