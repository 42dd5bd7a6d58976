package ownbackup

import (
	"context"
	"encoding/json"
	"net/http"

	"maunium.net/go/mautrix"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// A homeserver keeps the better of two backup entries of one session, and the old one if
// they are equal (requirement 16.5). Suppose somebody sends another's room key as their
// own, and it is uploaded before the owner sends it: that entry would attest only the wrong
// owner for ever, and a device that restores it would refuse the right one. So the entry is
// deleted from the backup before the key is uploaded again without an attested owner.

// removeContested deletes the entries of contested keys that attest an owner from the
// backup. If such an entry has a better key, that one is kept first, and there is more to
// do.
func (b *Backup) removeContested(ctx context.Context, target *keybackup.Target, rows []store.InboundSession) error {
	if target.Private == nil {
		return nil // without the key nothing was attested
	}
	for i := range rows {
		row := &rows[i]
		if !megolm.ReadOwner(row.Owner).Contested {
			continue
		}
		path := mautrix.ClientURLPath{"v3", "room_keys", "keys", row.RoomID, row.SessionID}
		query := map[string]string{"version": target.Version}
		var found json.RawMessage
		err := b.Call(ctx, wire.Request{
			Op: "look for a room key in the backup", Method: http.MethodGet, Path: path, Query: query, Result: &found,
		})
		if wire.Status(err) == http.StatusNotFound {
			continue
		}
		if err != nil {
			return err
		}
		old, bad := keybackup.Open(row.SessionRef, found, target.Private, target.MACKey)
		if bad != nil || !megolm.WhoseOwner(old.Owner).Attested {
			continue // it attests no owner
		}
		if old.FirstIndex < row.FirstIndex {
			kept, err := b.host.KeepKept(ctx, []store.InboundSession{old})
			if err != nil {
				return err
			}
			if kept > 0 {
				return core.ErrMoreToDo
			}
			continue // another ratchet: not ours to delete
		}
		err = b.Call(ctx, wire.Request{
			Op: "take a room key out of the backup", Method: http.MethodDelete, Path: path, Query: query,
		})
		if err != nil && wire.Status(err) != http.StatusNotFound {
			return err
		}
	}
	return nil
}
