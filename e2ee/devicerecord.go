package e2ee

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

// storeRecord adds a record to ch; an empty one is deleted. kind ends with a colon.
func (p *part) storeRecord(kind string, value any, empty bool, ch *store.Changes) error {
	name := identity.OfDevice(kind, p.ed25519)
	if empty {
		ch.DeleteSecrets = append(ch.DeleteSecrets, name)
		return nil
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s %w", kind, err)
	}
	ch.Secrets = append(ch.Secrets, store.Secret{Name: name, Value: raw, CreatedAt: p.eng.now()})
	return nil
}

// readRecord returns a record. One that is missing or unreadable is empty.
func readRecord[T any](ctx context.Context, p *part, kind string) (T, error) {
	var value, none T
	stored, err := p.eng.store.Secret(ctx, p.acct.row, identity.OfDevice(kind, p.ed25519))
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
