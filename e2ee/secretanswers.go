package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Answers to m.secret.request of the user's other devices. Requests come in clear, so
// anybody can forge them: a secret is sent over Olm, and only to a device that the identity
// has confirmed (requirements 1.14, 15.4).
const (
	// maxRequests bounds the waiting requests. requestEvery is the least time between two
	// answers with the same secret for one device.
	maxRequests  = 32
	requestEvery = time.Minute
)

// secretRequest is a request that waits for its answer.
type secretRequest struct {
	Device id.DeviceID `json:"device"`
	ID     string      `json:"id"`
	Name   string      `json:"name"`
	At     int64       `json:"at,omitempty"` // when it came, in seconds since 1970
}

// givenSecret is a secret that was sent to a device.
type givenSecret struct {
	device id.DeviceID
	name   string
}

// handleSecretRequest stages a request, or removes the one that it cancels. The caller
// holds mu.
func (b *toDeviceStep) handleSecretRequest(ev *toDevice) {
	var req struct {
		Action    string      `json:"action"`
		Name      string      `json:"name"`
		RequestID string      `json:"request_id"`
		Device    id.DeviceID `json:"requesting_device_id"`
	}
	d := b.d
	if strictjson.Unmarshal(ev.Content, &req) != nil || ev.Sender != d.acct.User || req.Device == d.core.ID ||
		req.Device == "" || req.RequestID == "" || len(req.RequestID) > wire.MaxIDLength || len(req.Device) > wire.MaxIDLength {
		return
	}
	same := func(r secretRequest) bool { return r.Device == req.Device && r.ID == req.RequestID }
	switch req.Action {
	case "request":
		if w := b.changeRequests(); !slices.ContainsFunc(w.Secrets, same) && len(w.Secrets) < maxRequests && sharedSecret(req.Name) {
			w.Secrets = append(w.Secrets, secretRequest{req.Device, req.RequestID, req.Name, d.core.Env.Now().Unix()})
		}
	case "request_cancellation":
		w := b.changeRequests()
		w.Secrets = slices.DeleteFunc(w.Secrets, same)
	}
}

// sharedSecret reports whether a secret is one that devices share with each other.
func sharedSecret(name string) bool {
	switch name {
	case identity.SecretMaster, identity.SecretSelfSigning, identity.SecretUserSigning, identity.SecretBackup:
		return true
	default:
		return false
	}
}

// answerRequests sends the requested secrets to the devices that may have them.
func (g *gossip) answerRequests(ctx context.Context) error {
	requests, err := g.waiting(ctx, func(w *waitingRequests) int { return len(w.Secrets) })
	if err != nil || requests == nil {
		return err
	}
	if g.acct.Settings().IgnoreSecretRequests { // requirement 15.5
		return g.dropRequests(ctx, func(w *waitingRequests) { w.Secrets = nil })
	}
	own, err := g.answeringUser(ctx)
	if err != nil {
		return err
	}
	for _, req := range requests.Secrets {
		over, err := g.answerTo(own, req.Device, req.At, func(dev *trustcache.Device) (answer, error) {
			return g.giveSecret(ctx, req, dev)
		})
		if err != nil {
			return err
		}
		if !over {
			continue
		}
		g.Env.Counts.Secrets.WithLabelValues("refused").Inc()
		if err := g.dropRequests(ctx, func(w *waitingRequests) { w.dropSecret(req) }); err != nil {
			return err
		}
	}
	return g.host.flushOutbox(ctx)
}

// gaveSecret reports whether a device was sent a secret within requestEvery. The caller
// holds mu.
func (g *gossip) gaveSecret(key givenSecret) bool {
	last, ok := g.secretsGiven[key]
	return ok && g.Env.Now().Sub(last) < requestEvery
}

// rememberGivenSecret remembers that a device was sent a secret. The caller holds mu.
func (g *gossip) rememberGivenSecret(key givenSecret) {
	if g.secretsGiven == nil || len(g.secretsGiven) >= maxNoKeys {
		g.secretsGiven = make(map[givenSecret]time.Time)
	}
	g.secretsGiven[key] = g.Env.Now()
}

// giveSecret encrypts a secret for a device, puts it into the outbox and removes the
// request, in one write. Nothing is sent if the secret is not here or does not belong to
// the published identity, or if the device lost its right to it while a one-time key was
// claimed.
func (g *gossip) giveSecret(ctx context.Context, req secretRequest, dev *trustcache.Device) (answer, error) {
	key := givenSecret{req.Device, req.Name}
	g.Mu.Lock()
	given, silent := g.gaveSecret(key), g.host.hasNoKeys(dev)
	g.Mu.Unlock()
	switch {
	case given:
		return answerRefused, nil
	case silent:
		return answerLater, nil
	}
	if _, err := g.Env.Store.Secret(ctx, g.acct.Row, req.Name); errors.Is(err, store.ErrNotFound) {
		return answerRefused, nil // no secret, so no key is claimed
	} else if err != nil {
		return answerLater, fmt.Errorf("load a secret: %w", err)
	}
	to := []*trustcache.Device{dev}
	claimed, err := g.host.claimFor(ctx, to)
	if err != nil {
		return answerLater, fmt.Errorf("claim a one-time key: %w", err)
	}
	g.Mu.Lock()
	defer g.Mu.Unlock()
	if !slices.Contains(g.requests.Secrets, req) || g.gaveSecret(key) || g.acct.Settings().IgnoreSecretRequests {
		return answerRefused, nil // the request was cancelled
	}
	own, err := g.host.stillMayHold(ctx, dev)
	if err != nil || own == nil {
		return answerRefused, err
	}
	content, err := g.secretContent(ctx, req, own)
	if err != nil || content == nil {
		return answerRefused, err
	}
	s := g.Begin()
	sealed, _, err := g.host.olmEncryptAll(ctx, s, "m.secret.send", content, to, claimed)
	if err != nil {
		return answerLater, err
	}
	if len(sealed) == 0 {
		g.host.rememberNoKeys(dev)
		return answerLater, nil
	}
	rest := g.requests.clone()
	rest.dropSecret(req)
	if err := rest.store(g.Device, s.Changes); err != nil {
		return answerLater, err
	}
	s.Changes.Outbox = olm.OutboxItems("m.room.encrypted", sealed, g.Env.Now())
	s.After(func() {
		g.requests = *rest
		g.host.outboxFilled()
		g.rememberGivenSecret(key)
	})
	if err := s.Commit(ctx, "an answer"); err != nil {
		return answerLater, err
	}
	g.logGivenSecret(req)
	return answerGiven, nil
}

// logGivenSecret counts and logs that a secret was sent.
func (g *gossip) logGivenSecret(req secretRequest) {
	g.Env.Counts.Secrets.WithLabelValues("sent").Inc()
	g.Env.Log.Info().Stringer("account", g.acct.User).Stringer("device", req.Device).Str("secret", req.Name).
		Msg("A confirmed device of the user was given a secret")
}

// secretContent returns the m.secret.send of a secret as stored now; nil when it is not
// here or does not belong to what is published.
func (g *gossip) secretContent(ctx context.Context, req secretRequest, own *trustcache.User) (json.RawMessage, error) {
	stored, err := g.Env.Store.Secret(ctx, g.acct.Row, req.Name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load a secret: %w", err)
	}
	if !plausibleSecret(req.Name, stored.Value.Reveal(), own) {
		return nil, nil
	}
	return strictjson.Object{{Name: "request_id", Value: strictjson.Quote(req.ID)}, {Name: "secret", Value: strictjson.Quote(wire.Base64(stored.Value.Reveal()))}}.Encode(), nil
}
