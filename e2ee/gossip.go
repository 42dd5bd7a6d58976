package e2ee

import (
	"context"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// gossip handles requests for secrets and room keys between the devices of one user, in
// both directions.
type gossip struct {
	*part
	host gossipHost

	// Requests of this device: secrets by name, and room keys.
	secretAsks map[string]*secretAsk
	keyAsks    map[store.SessionRef]*keyAsk
	askKeys    bool // some room keys may be missing
	askTimer   *time.Timer

	// Requests of other devices, and what they were given.
	requests     waitingRequests
	requestsRead bool // the stored ones were loaded
	secretsGiven map[givenSecret]time.Time
	keysGiven    map[givenKey]time.Time
}

// gossipHost is what gossip needs of the other parts.
type gossipHost interface {
	claimFor(ctx context.Context, devices []*trustcache.Device) (map[store.DeviceRef]id.Curve25519, error)
	currentBackup(ctx context.Context) (*keybackup.Version, error)
	flushOutbox(ctx context.Context) error
	hasNoKeys(dev *trustcache.Device) bool
	keysStored() int
	kickLocked()
	rememberNoKeys(dev *trustcache.Device)
	updateOwnState(own *trustcache.User)
	olmEncryptAll(ctx context.Context, s *core.Step, eventType string, content json.RawMessage, devices []*trustcache.Device, claimed map[store.DeviceRef]id.Curve25519) (sealed []olm.Message, without []*trustcache.Device, err error)
	outboxFilled()
	ownNow() ownState
	stillMayHold(ctx context.Context, dev *trustcache.Device) (*trustcache.User, error)
}
