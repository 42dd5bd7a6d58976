package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/store"
)

// Records are small values that a device keeps among its account's secrets, as JSON, under
// the names of package identity.

// StoreRecord adds a record to ch; an empty one is deleted. kind ends with a colon.
func (p *Device) StoreRecord(kind string, value any, empty bool, ch *store.Changes) error {
	name := identity.OfDevice(kind, p.Ed25519)
	if empty {
		ch.DeleteSecrets = append(ch.DeleteSecrets, name)
		return nil
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s %w", kind, err)
	}
	ch.Secrets = append(ch.Secrets, store.Secret{Name: name, Value: raw, CreatedAt: p.Env.Now()})
	return nil
}

// ReadRecord returns a record. One that is missing or unreadable is empty.
func ReadRecord[T any](ctx context.Context, p *Device, kind string) (T, error) {
	var value, none T
	stored, err := p.Env.Store.Secret(ctx, p.Account.Row, identity.OfDevice(kind, p.Ed25519))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return none, nil
	case err != nil:
		return none, fmt.Errorf("load %s %w", kind, err)
	case json.Unmarshal(stored.Value.Reveal(), &value) != nil:
		return none, nil
	}
	return value, nil
}
