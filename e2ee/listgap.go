package e2ee

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
)

// What is known of users belongs to the account; the sync position belongs to a device. A
// device that syncs from its position gets all later device-list changes. An initial sync
// has none: the changes since the position of another device of the account are fetched
// with /keys/changes, and if there is no other device, every user counts as changed
// (requirement 4.4).

// withEarlierChanges adds the earlier device-list changes to an update that gives the
// device its first position.
func (d *Device) withEarlierChanges(ctx context.Context, u SyncUpdate, own bool) (SyncUpdate, error) {
	d.core.Mu.Lock()
	first := d.core.Record.Row.SyncPosition == ""
	d.core.Mu.Unlock()
	if _, moves := nextPosition(u, own); !first || !moves {
		return u, nil
	}
	tracked, err := d.core.Env.Store.TrackedUsers(ctx, d.acct.Row)
	if err != nil {
		return u, fmt.Errorf("load tracked users: %w", err)
	}
	if len(tracked) == 0 {
		return u, nil
	}
	changed, left, err := d.changesUntil(ctx, u.NextBatch)
	if err != nil {
		d.core.Env.Log.Info().Err(err).Msg("All device lists are asked for again")
		changed, left = tracked, nil
	}
	u.Changed = slices.Concat(u.Changed, changed)
	u.Left = slices.Concat(u.Left, left)
	return u, nil
}

// changesUntil asks the homeserver for the device-list changes between the position of any
// other device of the account and a position of this one.
func (d *Device) changesUntil(ctx context.Context, to string) (changed, left []id.UserID, err error) {
	devices, err := d.core.Env.Store.Devices(ctx, d.acct.Row)
	if err != nil {
		return nil, nil, fmt.Errorf("load devices: %w", err)
	}
	var from string
	for i := range devices {
		if devices[i].ID != d.core.RowID && devices[i].SyncPosition != "" {
			from = devices[i].SyncPosition
		}
	}
	if from == "" {
		return nil, nil, errNoPosition
	}
	var resp struct {
		Changed []id.UserID `json:"changed"`
		Left    []id.UserID `json:"left"`
	}
	err = d.core.Call(ctx, wire.Request{
		Op: "read device list changes", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "keys", "changes"},
		Query: map[string]string{"from": from, "to": to}, Result: &resp, Large: true,
	})
	if err != nil {
		return nil, nil, err
	}
	return resp.Changed, resp.Left, nil
}

var errNoPosition = errors.New("no other device of the account has a position")
