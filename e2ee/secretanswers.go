package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Requests for secrets by the user's other devices. They come in the clear, so that
// anybody can have made them up: what goes out goes over Olm to a device that the
// identity has confirmed, and to no other (requirements 1.14, 15.4).
const (
	// maxRequests bounds the requests that wait, and requestEvery how often one device is
	// given the same secret.
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

// givenSecret is a secret that was given to a device.
type givenSecret struct {
	device id.DeviceID
	name   string
}

// secretRequested notes a request. The caller holds d.mu.
func (b *batch) secretRequested(ev *toDevice) {
	var req struct {
		Action    string      `json:"action"`
		Name      string      `json:"name"`
		RequestID string      `json:"request_id"`
		Device    id.DeviceID `json:"requesting_device_id"`
	}
	d := b.d
	if decodeStrict(ev.Content, &req) != nil || ev.Sender != d.acct.user || req.Device == d.id ||
		req.Device == "" || req.RequestID == "" || len(req.RequestID) > maxIDLength || len(req.Device) > maxIDLength {
		b.refused++
		return
	}
	same := func(r secretRequest) bool { return r.Device == req.Device && r.ID == req.RequestID }
	switch req.Action {
	case "request":
		if w := b.moving(); !slices.ContainsFunc(w.Secrets, same) && len(w.Secrets) < maxRequests && sharedSecret(req.Name) {
			w.Secrets = append(w.Secrets, secretRequest{req.Device, req.RequestID, req.Name, d.eng.now().Unix()})
		}
	case "request_cancellation":
		w := b.moving()
		w.Secrets = slices.DeleteFunc(w.Secrets, same)
	}
}

// sharedSecret reports whether a secret is one that devices share.
func sharedSecret(name string) bool {
	switch name {
	case secretMaster, secretSelfSigning, secretUserSigning, secretBackup:
		return true
	default:
		return false
	}
}

// answerRequests gives the secrets that were asked for to those who may have them.
func (d *Device) answerRequests(ctx context.Context) error {
	requests, err := d.waiting(ctx, func(w *waitingRequests) int { return len(w.Secrets) })
	if err != nil || requests == nil {
		return err
	}
	if d.acct.settings().IgnoreSecretRequests { // requirement 15.5
		return d.answered(ctx, func(w *waitingRequests) { w.Secrets = nil })
	}
	own, err := d.whoAsks(ctx)
	if err != nil {
		return err
	}
	for _, req := range requests.Secrets {
		became := answerRefused
		if dev := own.Device(req.Device); trustcache.MayHoldSecrets(own, dev) {
			if became, err = d.giveSecret(ctx, req, dev); err != nil {
				return err
			}
		}
		if became != answerRefused && (became != answerLater || !d.expired(req.At)) {
			continue
		}
		d.eng.counts.secrets.WithLabelValues("refused").Inc()
		if err := d.answered(ctx, func(w *waitingRequests) { w.dropSecret(req) }); err != nil {
			return err
		}
	}
	return d.flushOutbox(ctx)
}

// gaveSecret reports whether a device was given a secret a short while ago. The caller
// holds d.mu.
func (d *Device) gaveSecret(key givenSecret) bool {
	last, ok := d.gossip.secretsGiven[key]
	return ok && d.eng.now().Sub(last) < requestEvery
}

// noteGivenSecret remembers that a device was given a secret. The caller holds d.mu.
func (d *Device) noteGivenSecret(key givenSecret) {
	if d.gossip.secretsGiven == nil || len(d.gossip.secretsGiven) >= maxNoKeys {
		d.gossip.secretsGiven = make(map[givenSecret]time.Time)
	}
	d.gossip.secretsGiven[key] = d.eng.now()
}

// giveSecret encrypts a secret for a device and puts it into the outbox, and lets go of the
// request, in one write. One that is not here, or does not belong to what is published, is
// not given; nor is any where it was decided otherwise while a one-time key was claimed.
func (d *Device) giveSecret(ctx context.Context, req secretRequest, dev *trustcache.Device) (answer, error) {
	key := givenSecret{req.Device, req.Name}
	d.mu.Lock()
	given, silent := d.gaveSecret(key), d.hasNoKeys(dev)
	d.mu.Unlock()
	switch {
	case given:
		return answerRefused, nil
	case silent:
		return answerLater, nil
	}
	if _, err := d.eng.store.Secret(ctx, d.acct.row, req.Name); errors.Is(err, store.ErrNotFound) {
		return answerRefused, nil // nothing to claim a key for
	} else if err != nil {
		return answerLater, fmt.Errorf("load a secret: %w", err)
	}
	to := []*trustcache.Device{dev}
	claimed, err := d.claimFor(ctx, to)
	if err != nil {
		return answerLater, fmt.Errorf("claim a one-time key: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.gossip.requests.Secrets, req) || d.gaveSecret(key) || d.acct.settings().IgnoreSecretRequests {
		return answerRefused, nil // taken back
	}
	own, err := d.stillMayHold(ctx, dev)
	if err != nil || own == nil {
		return answerRefused, err
	}
	content, err := d.secretContent(ctx, req, own)
	if err != nil || content == nil {
		return answerRefused, err
	}
	s := d.begin()
	sealed, _, err := s.olmEncryptAll(ctx, "m.secret.send", content, to, claimed)
	if err != nil {
		return answerLater, err
	}
	if len(sealed) == 0 {
		d.noteNoKeys(dev)
		return answerLater, nil
	}
	rest := d.gossip.requests.clone()
	rest.dropSecret(req)
	if err := rest.store(d, s.ch); err != nil {
		return answerLater, err
	}
	s.ch.Outbox = outboxItems("m.room.encrypted", sealed, d.eng.now())
	s.after(func() {
		d.gossip.requests, d.olmState.outboxPending = *rest, true
		d.noteGivenSecret(key)
	})
	if err := s.commit(ctx, "an answer"); err != nil {
		return answerLater, err
	}
	d.noteSecretGiven(req)
	return answerGiven, nil
}

// noteSecretGiven counts and logs that a secret was given.
func (d *Device) noteSecretGiven(req secretRequest) {
	d.eng.counts.secrets.WithLabelValues("sent").Inc()
	d.eng.log.Info().Stringer("account", d.acct.user).Stringer("device", req.Device).Str("secret", req.Name).
		Msg("A confirmed device of the user was given a secret")
}

// secretContent is the m.secret.send of a secret as it is stored now; nil when it is not
// here or does not belong to what is published.
func (d *Device) secretContent(ctx context.Context, req secretRequest, own *trustcache.User) (json.RawMessage, error) {
	stored, err := d.eng.store.Secret(ctx, d.acct.row, req.Name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load a secret: %w", err)
	}
	if !plausibleSecret(req.Name, stored.Value.Reveal(), own) {
		return nil, nil
	}
	return object{{"request_id", quoted(req.ID)}, {"secret", quoted(b64(stored.Value.Reveal()))}}.encode(), nil
}
