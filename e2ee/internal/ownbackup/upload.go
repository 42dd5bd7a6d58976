package ownbackup

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

const (
	// uploadBatch is how many room keys one backup request carries at most.
	uploadBatch = 200
	// uploadRound is the number of requests before other maintenance goes on.
	uploadRound = 25
	// uploadLooks is how often one round reads the backup version again.
	uploadLooks = 3
)

// target returns the account's backup, checked since the last change; nil when there
// is none that may be used.
func (b *Backup) target(ctx context.Context) (*keybackup.Target, error) {
	for range uploadLooks {
		target, looked := b.acct.known()
		if target == nil {
			var err error
			if target, err = b.find(ctx); err != nil {
				return nil, err
			}
			if target == nil {
				target = &keybackup.Target{} // there is none, and that is known
			}
			if !b.acct.keep(target, looked) {
				continue // its owner must be checked again
			}
		}
		if target.Version == "" {
			return nil, nil
		}
		return target, nil
	}
	return nil, core.ErrMoreToDo
}

// find reads the newest version and decides whether to trust it (requirement 16.1).
func (b *Backup) find(ctx context.Context) (*keybackup.Target, error) {
	wanted, _, err := b.wanted(ctx)
	if err != nil || !wanted {
		return nil, err
	}
	current, err := b.current(ctx)
	if err != nil || current == nil {
		return nil, err
	}
	key, known, err := b.acct.key(ctx)
	if err != nil {
		return nil, err
	}
	target := &keybackup.Target{Version: current.Version, Count: current.Count, Public: current.PublicKey()}
	if current.Trusts(key) {
		target.Private = key
		target.MACKey, err = keybackup.MACKey(key)
		return target, err
	}
	own, err := b.acct.Tracker.Own(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at the own identity: %w", err)
	}
	if !isOwn(current, own, known) {
		return nil, nil
	}
	return target, nil
}

// BackUp uploads room keys that are not in the backup, in batches. Each uploaded batch is
// recorded, so that a restart continues there. When there is a newer version, everything is
// uploaded to that one (requirement 16.6).
func (b *Backup) BackUp(ctx context.Context) error {
	if b.own.State() != ownidentity.Signed || b.backedUp(ctx) {
		return nil
	}
	size := uploadBatch
	looks := 0
	for range uploadRound {
		target, err := b.target(ctx)
		if err != nil || target == nil {
			return err
		}
		rows, err := b.Env.Store.ToBackUp(ctx, b.acct.Row, b.RowID, target.Version, size)
		if err != nil {
			return fmt.Errorf("load room keys to back up: %w", err)
		}
		if len(rows) == 0 {
			return nil
		}
		err = b.backUpBatch(ctx, target, rows)
		var up *wire.UpstreamError
		switch {
		case err == nil:
		case errors.As(err, &up) && b.outdated(ctx, up, target):
			b.own.Recheck()
			if looks++; looks > uploadLooks {
				return err
			}
			if err := b.own.SetUp(ctx); err != nil {
				return err
			}
		case errors.As(err, &up) && up.Status == http.StatusRequestEntityTooLarge && size > 1:
			size = max(1, size/2)
		default:
			return err
		}
	}
	return core.ErrMoreToDo
}

// outdated reports whether keys were refused because the version is not the newest any more.
// Dendrite (0.15.2) answers 500 when it was deleted.
func (b *Backup) outdated(ctx context.Context, refused *wire.UpstreamError, target *keybackup.Target) bool {
	if refused.Status != http.StatusInternalServerError {
		return refused.ErrCode == "M_WRONG_ROOM_KEYS_VERSION" || refused.Status == http.StatusNotFound
	}
	current, err := b.current(ctx)
	return err == nil && (current == nil || current.Version != target.Version)
}

// backedUp reports whether no room key waits for the backup that was found last.
func (b *Backup) backedUp(ctx context.Context) bool {
	target, _ := b.acct.known()
	if target == nil || target.Version == "" {
		return target != nil
	}
	n, err := b.Env.Store.CountToBackUp(ctx, b.acct.Row, b.RowID, target.Version)
	return err == nil && n == 0
}

func (b *Backup) backUpBatch(ctx context.Context, target *keybackup.Target, rows []store.InboundSession) error {
	if err := b.removeContested(ctx, target, rows); err != nil {
		return err
	}
	rooms := make(map[id.RoomID]map[string]map[id.SessionID]keybackup.Entry)
	ch := &store.Changes{}
	users, err := b.ownersOf(ctx, rows)
	if err != nil {
		return err
	}
	switch ok, err := b.stillBacksUp(ctx, target); {
	case err != nil:
		return err
	case !ok:
		return core.ErrMoreToDo
	}
	for i := range rows {
		row := &rows[i]
		data, err := keybackup.Seal(row, target, users)
		if err != nil {
			return err
		}
		if rooms[row.RoomID] == nil {
			rooms[row.RoomID] = map[string]map[id.SessionID]keybackup.Entry{"sessions": {}}
		}
		rooms[row.RoomID]["sessions"][row.SessionID] = data
		ch.Backed = append(ch.Backed, store.BackedSession{
			SessionRef: row.SessionRef, FirstIndex: row.FirstIndex, ReceivedAt: row.ReceivedAt, Version: target.Version,
		})
	}
	err = b.Call(ctx, wire.Request{
		Op: "back up room keys", Method: http.MethodPut,
		Path:  mautrix.ClientURLPath{"v3", "room_keys", "keys"},
		Query: map[string]string{"version": target.Version}, Body: map[string]any{"rooms": rooms},
	})
	if err != nil {
		return err
	}
	if err := b.Save(ctx, ch); err != nil {
		return fmt.Errorf("store what is backed up: %w", err)
	}
	b.Env.Counts.Uploads.Add(float64(len(rows)))
	return nil
}

// ownersOf returns what is known of the users who own these room keys.
func (b *Backup) ownersOf(ctx context.Context, rows []store.InboundSession) (map[id.UserID]*trustcache.User, error) {
	var users []id.UserID
	for i := range rows {
		if user := megolm.WhoseOwner(rows[i].Owner).UserID; user != "" {
			users = append(users, user)
		}
	}
	slices.Sort(users)
	known, err := b.acct.Tracker.Cached(ctx, slices.Compact(users))
	if err != nil {
		return nil, fmt.Errorf("look up the owners of room keys: %w", err)
	}
	return known, nil
}

// stillBacksUp decides again whether room keys may be encrypted for a backup: it must still
// be trusted, and this device still be confirmed as far as is known.
func (b *Backup) stillBacksUp(ctx context.Context, target *keybackup.Target) (bool, error) {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	own, err := b.acct.Tracker.Own(ctx)
	if err != nil {
		return false, fmt.Errorf("look again at the own identity: %w", err)
	}
	known, _ := b.acct.known()
	return b.own.StateLocked() == ownidentity.Signed && own.Knowledge == trustcache.KnowledgeFresh && known == target, nil
}
