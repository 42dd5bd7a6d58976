package e2ee

import (
	"context"
	"encoding/json"
	"net/http"

	"maunium.net/go/mautrix"

	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// A homeserver keeps the better of two room keys of one session, and the one it has where
// they are equal (requirement 16.5). So the entry of a key that somebody has sent on as
// theirs, and that was uploaded before its owner sent it, would attest the wrong owner
// alone for ever, and silence the right one on the device that restores it. It is taken
// out of the backup before the key is uploaded again, which attests nobody any more.

// removeContested takes the entries of contested keys that attest an owner out of the backup. What
// such an entry knows better is kept first; then there is more to do.
func (b *backups) removeContested(ctx context.Context, target *keybackup.Target, rows []store.InboundSession) error {
	if target.Private == nil {
		return nil // then we have attested nothing
	}
	for i := range rows {
		row := &rows[i]
		if !megolm.ReadOwner(row.Owner).Contested {
			continue
		}
		path := mautrix.ClientURLPath{"v3", "room_keys", "keys", row.RoomID, row.SessionID}
		query := map[string]string{"version": target.Version}
		var found json.RawMessage
		err := b.call(ctx, wire.Request{
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
			continue // it proves nothing
		}
		if old.FirstIndex < row.FirstIndex {
			kept, err := b.host.keepKept(ctx, []store.InboundSession{old})
			if err != nil {
				return err
			}
			if kept > 0 {
				return errMoreToDo
			}
			continue // another ratchet, which is not ours to throw away
		}
		err = b.call(ctx, wire.Request{
			Op: "take a room key out of the backup", Method: http.MethodDelete, Path: path, Query: query,
		})
		if err != nil && wire.Status(err) != http.StatusNotFound {
			return err
		}
	}
	return nil
}
