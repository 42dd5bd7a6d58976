package roomkeys

import (
	"context"
	"fmt"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/store"
)

// KeepKept stores room keys from a backup or an import, without those that add nothing to
// what is stored or contradict it. It returns how many it stored.
func (in *Inbound) KeepKept(ctx context.Context, rows []store.InboundSession) (kept int, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	refs := make([]store.SessionRef, len(rows))
	for i := range rows {
		refs[i] = rows[i].SessionRef
	}
	in.Mu.Lock()
	defer in.Mu.Unlock() // room keys that arrive over Olm are merged under the lock, too
	known, err := in.Env.Store.InboundSessions(ctx, in.Account.Row, in.RowID, refs)
	if err != nil {
		return 0, fmt.Errorf("load room keys: %w", err)
	}
	more, err := in.MoreOwners(ctx, megolm.AttestedAgain(rows, known))
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
		row.ReceivedAt = megolm.ReceivedAfter(known[row.SessionRef], in.Env.Now())
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
	cancelled, err := in.host.CancelKeyRequests(ctx, ch, nil)
	if err != nil {
		return 0, err
	}
	if err := in.Save(ctx, ch); err != nil {
		return 0, fmt.Errorf("store room keys: %w", err)
	}
	cancelled()
	in.RecordStored(ch.InboundSessions)
	return len(ch.InboundSessions), nil
}
