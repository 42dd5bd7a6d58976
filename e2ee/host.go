package e2ee

import (
	"context"
	"encoding/json"
	"time"

	"e2ee-proxy/e2ee/internal/channel"
	"e2ee-proxy/e2ee/internal/devicekeys"
	"e2ee-proxy/e2ee/internal/gossip"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/late"
	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// A device is the host of its Olm channels.
var _ channel.Host = host{}

// RetryWedges implements channel.Host.
func (h host) RetryWedges(pause time.Duration) { h.retryLocked(retryWedges, pause) }

// ShownKeys implements channel.Host.
func (h host) ShownKeys() json.RawMessage { return h.Identity.ShownKeysLocked() }

// A device is the host of its room keys.
var (
	_ roomkeys.OutboundHost = host{}
	_ roomkeys.InboundHost  = host{}
)

// WakeWaiting implements roomkeys.InboundHost.
func (h host) WakeWaiting() { h.wakeWaiting() }

// A device is the host of its ownidentity.Identity and of its ownbackup.Backup.
var (
	_ ownidentity.Host = host{}
	_ ownbackup.Host   = host{}
)

// SetBackupStanding implements ownidentity.Host.
func (h host) SetBackupStanding(s keybackup.Standing) { h.Device.acct.backup.SetStanding(s) }

// ForgetBackup implements ownidentity.Host.
func (h host) ForgetBackup() { h.Device.acct.backup.Forget() }

// TellRecoveredAlone implements ownidentity.Host.
func (h host) TellRecoveredAlone(ctx context.Context) error { return h.tellRecoveredAlone(ctx) }

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

// A device is the host of its late events.
var _ late.Host = host{}

// OpenAgain implements late.Host.
func (h host) OpenAgain(ctx context.Context, rows []store.PendingEvent) ([]late.Event, late.Basis) {
	return h.reader().OpenAgain(ctx, rows)
}

// host is a device as its parts see it: each takes, through an interface of its own, what
// it needs of the others.
type host struct {
	*Device
	*devicekeys.Publication
	*devicekeys.Supply
	*ownidentity.Identity
	*schedule
	*channel.Olm
	*roomkeys.Outbound
	*roomkeys.Inbound
	*ownbackup.Backup
	*rooms.Table
	*gossip.Exchange
	*clientState
}
