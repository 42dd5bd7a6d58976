package e2ee

import (
	"context"
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
			w.Secrets = append(w.Secrets, secretRequest{req.Device, req.RequestID, req.Name})
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
		switch dev := own.Device(req.Device); {
		case !mayHoldSecrets(dev) || !d.mayGive(req):
			d.eng.counts.secrets.WithLabelValues("refused").Inc()
		default:
			if err := d.giveSecret(ctx, req, dev, own); err != nil {
				d.takeBack(givenSecret{req.Device, req.Name})
				return err
			}
		}
		if err := d.answered(ctx, func(w *waitingRequests) {
			w.Secrets = slices.DeleteFunc(w.Secrets, func(r secretRequest) bool { return r == req })
		}); err != nil {
			return err
		}
	}
	return d.flushOutbox(ctx)
}

// mayGive limits how often a device is given the same secret.
func (d *Device) mayGive(req secretRequest) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.eng.now()
	key := givenSecret{req.Device, req.Name}
	if last, ok := d.given[key]; ok && now.Sub(last) < requestEvery {
		return false
	}
	if d.given == nil || len(d.given) >= maxNoKeys {
		d.given = make(map[givenSecret]time.Time)
	}
	d.given[key] = now
	return true
}

// takeBack forgets that a secret was given, because it was not after all.
func (d *Device) takeBack(key givenSecret) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.given, key)
}

// giveSecret encrypts a secret for a device and puts it into the outbox. One that is not
// here, or does not belong to what is published, is not given.
func (d *Device) giveSecret(ctx context.Context, req secretRequest, dev *trustcache.Device, own *trustcache.User) error {
	stored, err := d.eng.store.Secret(ctx, d.acct.row, req.Name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load a secret: %w", err)
	}
	if !plausibleSecret(req.Name, stored.Value.Reveal(), own) {
		return nil
	}
	content := object{{"request_id", quoted(req.ID)}, {"secret", quoted(b64(stored.Value.Reveal()))}}.encode()
	to := []*trustcache.Device{dev}
	claimed, err := d.claimFor(ctx, to)
	if err != nil {
		return fmt.Errorf("claim a one-time key: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.begin()
	sealed, _, err := s.olmEncryptAll(ctx, "m.secret.send", content, to, claimed)
	if err != nil || len(sealed) == 0 {
		return err
	}
	s.ch.Outbox = outboxItems("m.room.encrypted", sealed, d.eng.now())
	s.after(func() { d.outboxPending = true })
	if err := s.commit(ctx, "an answer"); err != nil {
		return err
	}
	d.eng.counts.secrets.WithLabelValues("sent").Inc()
	d.eng.log.Info().Stringer("account", d.acct.user).Stringer("device", dev.DeviceID).Str("secret", req.Name).
		Msg("A confirmed device of the user was given a secret")
	return nil
}
