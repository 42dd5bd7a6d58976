package gossip

import (
	"context"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Exchange is what a device asks of the other devices of its user and what it gives them.
// The device's lock guards it.
type Exchange struct {
	*core.Device
	host Host

	// Requests of this device: secrets by name, and room keys.
	secretAsks map[string]*secretAsk
	keyAsks    map[store.SessionRef]*keyAsk
	askTimer   *time.Timer
	came       int  // how many secrets were received
	askKeys    bool // some room keys may be missing

	// Requests of other devices, and what they were given.
	requestsRead bool // the stored ones were loaded
	requests     waitingRequests
	secretsGiven given[givenSecret]
	keysGiven    given[givenKey]
}

// New returns the exchange of a device. Room keys may be missing from before a restart.
func New(dev *core.Device, host Host) Exchange {
	return Exchange{Device: dev, host: host, askKeys: true}
}

// Host is what an Exchange needs of the other parts of a device.
type Host interface {
	// ReadOwn reads the own user's keys, if something may have changed, and updates whether
	// the device is signed.
	ReadOwn(ctx context.Context) (*trustcache.User, error)
	// IsSigned reports whether the device is signed by its owner's current identity.
	IsSigned() bool
	// StillMayHold decides again whether a device of the user may get a secret or a room
	// key. It returns the own user as known now, nil when the device may not. The caller
	// holds the device's lock.
	StillMayHold(ctx context.Context, dev *trustcache.Device) (*trustcache.User, error)
	// MissingSecrets returns the names of the secrets that are not here.
	MissingSecrets(ctx context.Context, own *trustcache.User) ([]string, error)
	// SecretsCame makes the next maintenance check the identity again. The caller holds the
	// device's lock.
	SecretsCame()

	// ClaimFor claims one-time keys of devices without an Olm session.
	ClaimFor(ctx context.Context, devices []*trustcache.Device) (map[store.DeviceRef]id.Curve25519, error)
	// EncryptAll encrypts a message for devices, and returns those for which it cannot.
	// The caller holds the device's lock.
	EncryptAll(ctx context.Context, s *core.Step, eventType string, content json.RawMessage, devices []*trustcache.Device, claimed map[store.DeviceRef]id.Curve25519) (sealed []olm.Message, without []*trustcache.Device, err error)
	// HasNoKeys reports whether a device had no one-time keys a short while ago, and
	// RememberNoKeys remembers it. The caller holds the device's lock.
	HasNoKeys(dev *trustcache.Device) bool
	RememberNoKeys(dev *trustcache.Device)
	// OutboxFilled records that something is in the outbox, and FlushOutbox sends it. The
	// caller of the former holds the device's lock.
	OutboxFilled()
	FlushOutbox(ctx context.Context) error

	// Facts returns what the organisation's rules ask of a room, and FactsLocked does so from
	// memory. The caller of the latter holds the device's lock.
	Facts(ctx context.Context, by *orgrules.Version, room id.RoomID, d rules.Direction) (*rules.Room, error)
	FactsLocked(by *orgrules.Version, room id.RoomID, d rules.Direction) *rules.Room

	// KickLocked requests maintenance. The caller holds the device's lock.
	KickLocked()
}
