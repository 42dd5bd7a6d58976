package late

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// Redacted deletes what waits of events that were redacted, each in its room. They wait as they
// came, so that they would be shown with what was redacted when their key comes, to a client
// that was told of the redaction before.
func (l *Events) Redacted(ctx context.Context, gone map[id.EventID]id.RoomID) error {
	if len(gone) == 0 {
		return nil
	}
	waiting, err := l.Env.Store.PendingOf(ctx, l.Account.Row, l.RowID, slices.Collect(maps.Keys(gone)))
	if err != nil {
		return fmt.Errorf("look up redacted events: %w", err)
	}
	ch := &store.Changes{}
	for event, row := range waiting {
		if row.RoomID == gone[event] {
			ch.DeletePending = append(ch.DeletePending, event)
		}
	}
	if len(ch.DeletePending) == 0 {
		return nil
	}
	if err := l.Save(ctx, ch); err != nil {
		return fmt.Errorf("delete redacted events: %w", err)
	}
	l.Recount()
	return nil
}
