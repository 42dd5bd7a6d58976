package e2ee

import (
	"context"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// waitingRequests are the requests of the user's other devices that wait for an answer.
type waitingRequests struct {
	Secrets []secretRequest `json:"secrets,omitempty"`
	Keys    []keyRequest    `json:"keys,omitempty"`
}

// store adds the waiting requests to ch. The caller holds the Device's mu.
func (w *waitingRequests) store(p *core.Device, ch *store.Changes) error {
	return p.StoreRecord(identity.SecretRequests, w, len(w.Secrets)+len(w.Keys) == 0, ch)
}

// readRequests loads the requests that waited before a restart. The caller holds mu.
func (g *gossip) readRequests(ctx context.Context) error {
	if g.requestsRead {
		return nil
	}
	read, err := core.ReadRecord[waitingRequests](ctx, g.Device, identity.SecretRequests)
	if err != nil {
		return err
	}
	g.requests, g.requestsRead = read, true // what could not be read is asked for again
	return nil
}

// waiting returns a copy of the requests, nil when none of a kind waits.
func (g *gossip) waiting(ctx context.Context, count func(*waitingRequests) int) (*waitingRequests, error) {
	g.Mu.Lock()
	defer g.Mu.Unlock()
	if err := g.readRequests(ctx); err != nil || count(&g.requests) == 0 {
		return nil, err
	}
	return g.requests.clone(), nil
}

// dropRequests removes requests that were answered or are useless.
func (g *gossip) dropRequests(ctx context.Context, drop func(*waitingRequests)) error {
	g.Mu.Lock()
	defer g.Mu.Unlock()
	rest := g.requests.clone()
	drop(rest)
	s := g.Begin()
	if err := rest.store(g.Device, s.Changes); err != nil {
		return err
	}
	s.After(func() { g.requests = *rest })
	return s.Commit(ctx, "what was answered")
}

// clone returns a copy.
func (w *waitingRequests) clone() *waitingRequests {
	return &waitingRequests{slices.Clone(w.Secrets), slices.Clone(w.Keys)}
}

// changeRequests returns the step's own copy of the requests, to be changed.
func (b *toDeviceStep) changeRequests() *waitingRequests {
	if b.requests == nil {
		b.requests = b.d.gossip.requests.clone()
	}
	return b.requests
}

// dropKeys removes requests for room keys.
func (w *waitingRequests) dropKeys(done ...keyRequest) {
	w.Keys = slices.DeleteFunc(w.Keys, func(r keyRequest) bool { return slices.Contains(done, r) })
}

// dropSecret removes a request for a secret.
func (w *waitingRequests) dropSecret(done secretRequest) {
	w.Secrets = slices.DeleteFunc(w.Secrets, func(r secretRequest) bool { return r == done })
}

// answer is the result of answering a request.
type answer int

const (
	// answerLater means that it could not be answered now: the request waits until it
	// expires.
	answerLater answer = iota
	// answerRefused means that nothing is sent.
	answerRefused
	// answerGiven means that the answer is in the outbox and the request is removed.
	answerGiven
)

// expired reports whether a request is so old that nobody waits for its answer.
func (g *gossip) expired(at int64) bool { return g.Env.Now().Sub(time.Unix(at, 0)) >= askFor }

// hasNoKeys reports whether a device had no one-time keys a short while ago and is not
// asked yet again. The caller holds mu.
func (o *olmState) hasNoKeys(dev *trustcache.Device) bool {
	again, ok := o.noKeys[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}]
	return ok && o.Env.Now().Before(again.at)
}

// rememberNoKeys remembers that a device had no one-time keys. The caller holds mu.
func (o *olmState) rememberNoKeys(dev *trustcache.Device) {
	ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
	again := o.noKeys[ref]
	again.at = o.Env.Now().Add(again.failures.Next(keylessPauses()))
	if len(o.noKeys) >= maxNoKeys {
		clear(o.noKeys)
	}
	o.noKeys[ref] = again
}

// answeringUser returns the own user for deciding about requests. It has no confirmed
// devices when this device may not answer.
func (g *gossip) answeringUser(ctx context.Context) (*trustcache.User, error) {
	users, err := g.acct.Tracker.Lookup(ctx, g.Query(), []id.UserID{g.acct.User})
	if err != nil {
		return nil, fmt.Errorf("look up who asks: %w", err)
	}
	own := users[g.acct.User]
	g.host.updateOwnState(own)
	switch {
	case own.Knowledge != trustcache.KnowledgeFresh:
		return nil, errOwnUnknown
	case !own.Verified || g.host.ownNow() != ownSigned:
		return &trustcache.User{UserID: own.UserID, Own: true}, nil
	default:
		return own, nil
	}
}

// answerTo lets give answer a request of a device that may have secrets, and refuses all
// others. It reports whether the request is over without an answer: refused, or expired.
func (g *gossip) answerTo(own *trustcache.User, device id.DeviceID, at int64, give func(*trustcache.Device) (answer, error)) (over bool, err error) {
	became := answerRefused
	if dev := own.Device(device); trustcache.MayHoldSecrets(own, dev) {
		if became, err = give(dev); err != nil {
			return false, err
		}
	}
	return became == answerRefused || (became == answerLater && g.expired(at)), nil
}
