package searchindex

import (
	"context"
	"maps"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
)

// An index that was lost is filled again from the rooms' histories, the newest messages
// first, page by page. How far that is, is stored with the index.

// refill is what is left to read.
type refill struct {
	// Rooms are those that are still to be read, each with where its history goes on; nil
	// before they are known.
	Rooms map[id.RoomID]string `json:"rooms"`
}

// Refilling reports whether the index was lost and is being filled again, as far as it is in
// memory.
func (a *Account) Refilling() bool {
	x := a.loaded.Load()
	return x != nil && x.head.Refill != nil
}

// ToRefill returns the rooms that are still to be read, each with where its history goes on;
// known is false as long as nobody has said which ones.
func (a *Account) ToRefill() (rooms map[id.RoomID]string, known bool) {
	x := a.loaded.Load()
	if x == nil || x.head.Refill == nil {
		return nil, true
	}
	return maps.Clone(x.head.Refill.Rooms), x.head.Refill.Rooms != nil
}

// Refill stores what is left to read. When that is nothing, or there is no room for more, the
// index is whole again.
func (a *Account) Refill(ctx context.Context, dev *core.Device, rooms map[id.RoomID]string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	x, err := a.load(ctx, dev.RowID)
	if err != nil || x.head.Refill == nil {
		return err
	}
	next := &index{head: x.head, segments: x.segments}
	next.head.Refill = &refill{Rooms: rooms}
	if len(rooms) == 0 || x.entries() >= a.shared.options.Messages {
		next.head.Refill = nil
		a.acct.Env.Log.Info().Int("messages", x.entries()).Msg("A search index was filled again")
	}
	if err := a.save(ctx, dev.RowID, next, &store.Changes{}); err != nil {
		a.forget()
		return err
	}
	return nil
}
