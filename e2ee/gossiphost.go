package e2ee

import (
	"context"

	"e2ee-proxy/e2ee/internal/gossip"
	"e2ee-proxy/e2ee/internal/ownidentity"
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

// SecretsCame implements gossip.Host.
func (h host) SecretsCame() { h.RecheckLocked() }

// KickLocked implements gossip.Host.
func (h host) KickLocked() { h.kickLocked() }
