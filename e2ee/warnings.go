package e2ee

import (
	"context"
	"fmt"

	"e2ee-proxy/store"
)

// warnings gives what the user must be told and has not dismissed, oldest first.
func (d *Device) warnings(ctx context.Context) ([]Warning, error) {
	rows, err := d.acct.pendingWarnings(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Warning, 0, len(rows))
	for _, w := range rows {
		if !w.Dismissed && !w.Resolved {
			out = append(out, Warning{ID: w.ID, Code: w.Code, UserID: w.UserID, RoomIDs: w.RoomIDs, Message: w.Message, Since: w.Since})
		}
	}
	return out, nil
}

// pendingWarnings gives the account's warnings, from memory once they were read.
func (a *account) pendingWarnings(ctx context.Context) ([]store.Warning, error) {
	a.mu.Lock()
	rows, read := a.warned, a.warnedRead
	a.mu.Unlock()
	if read {
		return rows, nil
	}
	rows, err := a.eng.store.Warnings(ctx, a.row)
	if err != nil {
		return nil, fmt.Errorf("load warnings: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.warned, a.warnedRead = rows, true
	return rows, nil
}
