package e2ee

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// gossip is what devices of one user ask each other for: secrets and room keys, in both
// directions.
type gossip struct {
	*part
	host gossipHost

	// What others were asked for: secrets by their name, and room keys.
	secretAsks map[string]*secretAsk
	keyAsks    map[store.SessionRef]*keyAsk
	askKeys    bool // some room keys may have to be asked for
	askTimer   *time.Timer

	// What others ask for, and what they were given.
	requests     waitingRequests
	requestsRead bool // those that were stored are among them
	secretsGiven map[givenSecret]time.Time
	keysGiven    map[givenKey]time.Time
}

// gossipHost is what the others do for it.
type gossipHost interface {
	begin() *step
	claimFor(ctx context.Context, devices []*trustcache.Device) (map[store.DeviceRef]id.Curve25519, error)
	currentBackup(ctx context.Context) (*keybackup.Version, error)
	flushOutbox(ctx context.Context) error
	hasNoKeys(dev *trustcache.Device) bool
	keysStored() int
	kickLocked()
	rememberNoKeys(dev *trustcache.Device)
	updateOwnState(own *trustcache.User)
	outboxFilled()
	ownNow() ownState
	stillMayHold(ctx context.Context, dev *trustcache.Device) (*trustcache.User, error)
}
