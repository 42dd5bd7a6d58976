package gossip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/store"
)

// keyAsk is our request for a room key.
type keyAsk struct {
	id    string
	to    map[id.DeviceID]bool
	until time.Time
}

// storedKeyAsk is a keyAsk in the database. All of them fit into one row.
type storedKeyAsk struct {
	Ref   store.SessionRef `json:"ref"`
	ID    string           `json:"id"`
	To    []id.DeviceID    `json:"to"`
	Until time.Time        `json:"until"`
}

// keepKeyAsks adds our requests to ch.
func (x *Exchange) keepKeyAsks(ch *store.Changes, asks map[store.SessionRef]*keyAsk) error {
	name := identity.OfDevice(identity.SecretKeysAsked, x.Ed25519)
	if len(asks) == 0 {
		ch.DeleteSecrets = append(ch.DeleteSecrets, name)
		return nil
	}
	all := make([]storedKeyAsk, 0, len(asks))
	for ref, ask := range asks {
		all = append(all, storedKeyAsk{ref, ask.id, slices.Sorted(maps.Keys(ask.to)), ask.until})
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encode requests for room keys: %w", err)
	}
	ch.Secrets = append(ch.Secrets, store.Secret{Name: name, Value: raw, CreatedAt: x.Env.Now()})
	return nil
}

// loadKeyAsks reads the requests made before a restart. The caller holds the device's lock.
func (x *Exchange) loadKeyAsks(ctx context.Context) error {
	if x.keyAsks != nil {
		return nil
	}
	stored, err := x.Env.Store.Secret(ctx, x.Account.Row, identity.OfDevice(identity.SecretKeysAsked, x.Ed25519))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("load requests for room keys: %w", err)
	}
	var all []storedKeyAsk
	if err == nil && json.Unmarshal(stored.Value.Reveal(), &all) != nil {
		all = nil // the requests are made again
	}
	x.keyAsks = make(map[store.SessionRef]*keyAsk, len(all))
	for _, s := range all {
		ask := &keyAsk{id: s.ID, to: make(map[id.DeviceID]bool, len(s.To)), until: s.Until}
		for _, dev := range s.To {
			ask.to[dev] = true
		}
		x.keyAsks[s.Ref] = ask
	}
	return nil
}
