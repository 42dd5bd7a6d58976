package gossip

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/store"
)

// secretAsk is our request for a secret.
type secretAsk struct {
	name  string
	id    string
	to    map[id.DeviceID]bool
	until time.Time
}

// storedAsk is a secretAsk in the database.
type storedAsk struct {
	ID    string        `json:"id"`
	To    []id.DeviceID `json:"to"`
	Until time.Time     `json:"until"`
}

// stored returns a request as a row.
func (a *secretAsk) stored(device id.Ed25519, now time.Time) (store.Secret, error) {
	raw, err := json.Marshal(storedAsk{a.id, slices.Sorted(maps.Keys(a.to)), a.until})
	if err != nil {
		return store.Secret{}, fmt.Errorf("encode a request for a secret: %w", err)
	}
	return store.Secret{Name: identity.AskedName(device, a.name), Value: raw, CreatedAt: now}, nil
}

// loadAsks loads the requests made before a restart. The caller holds the device's lock.
func (x *Exchange) loadAsks(ctx context.Context) error {
	if x.secretAsks != nil {
		return nil
	}
	all, err := x.Env.Store.Secrets(ctx, x.Account.Row)
	if err != nil {
		return fmt.Errorf("load requests for secrets: %w", err)
	}
	asks := make(map[string]*secretAsk)
	for _, row := range all {
		name, ours := strings.CutPrefix(row.Name, identity.AskedName(x.Ed25519, ""))
		var s storedAsk
		if !ours || !sharedSecret(name) || json.Unmarshal(row.Value.Reveal(), &s) != nil {
			continue
		}
		ask := &secretAsk{name: name, id: s.ID, to: make(map[id.DeviceID]bool, len(s.To)), until: s.Until}
		for _, dev := range s.To {
			ask.to[dev] = true
		}
		asks[name] = ask
	}
	x.secretAsks = asks
	return nil
}

// askOf returns the request with an ID, nil if its answer is not awaited any more. The
// caller holds the device's lock.
func (x *Exchange) askOf(requestID string) *secretAsk {
	for _, ask := range x.secretAsks {
		if ask.id == requestID && x.Env.Now().Before(ask.until) {
			return ask
		}
	}
	return nil
}
