package e2ee

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// Intent is a request that must not be done twice, as it is stored before it goes to the homeserver.
type Intent = store.Intent

// Intents returns those of a user, the oldest first.
func (e *Engine) Intents(ctx context.Context, user id.UserID) ([]Intent, error) {
	row, err := e.env.Store.Claim(ctx, user)
	if err != nil {
		return nil, err
	}
	return e.env.Store.Intents(ctx, row)
}

// PutIntent stores one, or what became of it.
func (e *Engine) PutIntent(ctx context.Context, user id.UserID, in Intent) error {
	row, err := e.env.Store.Claim(ctx, user)
	if err != nil {
		return err
	}
	return e.env.Store.PutIntent(ctx, row, in)
}

// DropIntent deletes one of which nothing came.
func (e *Engine) DropIntent(ctx context.Context, user id.UserID, request string) error {
	row, err := e.env.Store.Claim(ctx, user)
	if err != nil {
		return err
	}
	return e.env.Store.DropIntent(ctx, row, request)
}

// HashIntent and HashJoined are those of the database.
func (e *Engine) HashIntent(device id.DeviceID, content []byte) [32]byte {
	return e.env.Store.HashIntent(device, content)
}

// HashJoined is described at HashIntent.
func (e *Engine) HashJoined(room id.RoomID) uint64 { return e.env.Store.HashJoined(room) }
