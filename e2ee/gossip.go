package e2ee

import (
	"time"

	"e2ee-proxy/store"
)

// gossip is what devices of one user ask each other for: secrets and room keys, in both
// directions.
type gossip struct {
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
