package e2ee

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/gossip"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// A device is the host of its gossip.Exchange.
var _ gossip.Host = host{}

// ReadOwn implements gossip.Host.
func (h host) ReadOwn(ctx context.Context) (*trustcache.User, error) {
	return h.Identity.ReadOwn(ctx, false)
}

// IsSigned implements gossip.Host.
func (h host) IsSigned() bool { return h.State() == ownidentity.Signed }

// StillMayHold implements gossip.Host.
func (h host) StillMayHold(ctx context.Context, dev *trustcache.Device) (*trustcache.User, error) {
	return h.stillMayHold(ctx, dev)
}

// MissingSecrets implements gossip.Host.
func (h host) MissingSecrets(ctx context.Context, own *trustcache.User) ([]string, error) {
	return h.missingSecrets(ctx, own)
}

// SecretsCame implements gossip.Host.
func (h host) SecretsCame() { h.RecheckLocked() }

// ClaimFor implements gossip.Host.
func (h host) ClaimFor(ctx context.Context, devices []*trustcache.Device) (map[store.DeviceRef]id.Curve25519, error) {
	return h.claimFor(ctx, devices)
}

// OlmEncryptAll implements gossip.Host.
func (h host) OlmEncryptAll(ctx context.Context, s *core.Step, eventType string, content json.RawMessage, devices []*trustcache.Device, claimed map[store.DeviceRef]id.Curve25519) (sealed []olm.Message, without []*trustcache.Device, err error) {
	return h.olmEncryptAll(ctx, s, eventType, content, devices, claimed)
}

// HasNoKeys implements gossip.Host.
func (h host) HasNoKeys(dev *trustcache.Device) bool { return h.hasNoKeys(dev) }

// RememberNoKeys implements gossip.Host.
func (h host) RememberNoKeys(dev *trustcache.Device) { h.rememberNoKeys(dev) }

// OutboxFilled implements gossip.Host.
func (h host) OutboxFilled() { h.outboxFilled() }

// FlushOutbox implements gossip.Host.
func (h host) FlushOutbox(ctx context.Context) error { return h.flushOutbox(ctx) }

// KickLocked implements gossip.Host.
func (h host) KickLocked() { h.kickLocked() }

// missedKeys records whether keys are missing, and returns how often keys were stored.
func (h host) missedKeys(missing bool) int {
	h.core.Mu.Lock()
	defer h.core.Mu.Unlock()
	if missing {
		h.gossip.AskKeysLater()
	}
	return h.keysStored()
}
