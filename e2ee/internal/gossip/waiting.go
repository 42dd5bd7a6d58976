package gossip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/rules"
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

// ReadRequests loads the requests that waited before a restart. The caller holds the
// device's lock.
func (x *Exchange) ReadRequests(ctx context.Context) error {
	if x.requestsRead {
		return nil
	}
	read, err := core.ReadRecord[waitingRequests](ctx, x.Device, identity.SecretRequests)
	if err != nil {
		return err
	}
	x.requests, x.requestsRead = read, true // what could not be read is asked for again
	return nil
}

// waiting returns a copy of the requests, nil when none of a kind waits.
func (x *Exchange) waiting(ctx context.Context, count func(*waitingRequests) int) (*waitingRequests, error) {
	x.Mu.Lock()
	defer x.Mu.Unlock()
	if err := x.ReadRequests(ctx); err != nil || count(&x.requests) == 0 {
		return nil, err
	}
	return x.requests.clone(), nil
}

// dropRequests removes requests that were answered or are useless. drop does that, and returns
// what is to be written down.
func (x *Exchange) dropRequests(ctx context.Context, drop func(*waitingRequests) []*auditing.Decision) error {
	x.Mu.Lock()
	defer x.Mu.Unlock()
	rest := x.requests.clone()
	decided := drop(rest)
	s := x.Begin()
	if err := rest.store(x.Device, s.Changes); err != nil {
		return err
	}
	for _, d := range decided {
		s.Changes.Audit = append(s.Changes.Audit, d.Records()...)
	}
	s.After(func() { x.requests = *rest })
	return s.Commit(ctx, "what was answered")
}

// stageWithout stages the requests without some, and returns them.
func (x *Exchange) stageWithout(s *core.Step, drop func(*waitingRequests)) (*waitingRequests, error) {
	rest := x.requests.clone()
	drop(rest)
	return rest, rest.store(x.Device, s.Changes)
}

// clone returns a copy.
func (w *waitingRequests) clone() *waitingRequests {
	return &waitingRequests{slices.Clone(w.Secrets), slices.Clone(w.Keys)}
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
	// answerRefused means that nothing is sent: there is nothing to send, or it was sent.
	answerRefused
	// answerDenied means that nothing is sent because the device may not have it.
	answerDenied
	// answerRuled means that nothing is sent because a rule of the organisation denies it.
	answerRuled
	// answerGiven means that the answer is in the outbox and the request is removed.
	answerGiven
)

// expired reports whether a request is so old that nobody waits for its answer.
func (x *Exchange) expired(at int64) bool { return x.Env.Now().Sub(time.Unix(at, 0)) >= answerWithin }

// errWhoAsks means that the own keys could not be read, so that it is not known which devices
// are confirmed.
var errWhoAsks = errors.New("the own keys could not be read from the homeserver")

// answeringUser returns the own user for deciding about requests. It has no confirmed
// devices when this device may not answer.
func (x *Exchange) answeringUser(ctx context.Context) (*trustcache.User, error) {
	own, err := x.host.ReadOwn(ctx)
	if err != nil {
		return nil, fmt.Errorf("look up who asks: %w", err)
	}
	switch {
	case own.Knowledge != trustcache.KnowledgeFresh:
		return nil, errWhoAsks
	case !own.Verified || !x.host.IsSigned():
		return &trustcache.User{UserID: own.UserID, Own: true}, nil
	default:
		return own, nil
	}
}

// audited adds to the audit log's decision that a device is denied what it asked for, and why.
// It reports whether it was denied.
func audited(d *auditing.Decision, own *trustcache.User, device id.DeviceID, became answer, why rules.Answer) bool {
	switch became {
	case answerDenied:
		d.Asked(own, device)
		return true
	case answerRuled:
		d.Add(own, own.Device(device), audit.Refused, "", orgrules.Reason(why))
		return true
	case answerLater, answerRefused, answerGiven:
	}
	return false
}

// answerTo decides about a request: it calls give for a device that may have secrets, and
// denies any other. It reports whether the request is over without an answer: refused, denied, or
// expired.
func (x *Exchange) answerTo(own *trustcache.User, device id.DeviceID, at int64, give func(*trustcache.Device) (answer, error)) (became answer, over bool, err error) {
	became = answerDenied
	if dev := own.Device(device); trustcache.MayHoldSecrets(own, dev) {
		if became, err = give(dev); err != nil {
			return became, false, err
		}
	}
	return became, became == answerRefused || became == answerDenied || became == answerRuled || (became == answerLater && x.expired(at)), nil
}
