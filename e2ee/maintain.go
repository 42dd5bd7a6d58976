package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"maunium.net/go/mautrix"

	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
)

const (
	// fallbackMinAge limits uploads of fallback keys for a homeserver that always says that
	// they are used.
	fallbackMinAge = time.Hour
	// countKeysEvery bounds how often the homeserver is asked for counts that its syncs
	// leave out.
	countKeysEvery = time.Minute
)

// maintain does what is due for a device: it publishes keys, sends the outbox, sets the
// identity up and backs up room keys. It is safe to repeat.
func (d *Device) maintain(ctx context.Context) {
	d.mu.Lock()
	d.schedule.queued, d.schedule.maintained = false, true
	d.mu.Unlock()
	give, err := d.schedule.upkeep.Take(ctx, struct{}{})
	if err != nil {
		return
	}
	defer give()
	if d.ctx == nil || d.ctx.Err() != nil {
		return // retired: another Device took its place
	}
	failed, more := false, false
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"upload keys", d.uploadKeys},
		{"replace dead keys", d.claimDead},
		{"flush outbox", d.flushOutbox},
		{"check received secrets", d.checkReceived},
		{"set up identity", d.setUpIdentity},
		{"answer requests for secrets", d.answerRequests},
		{"answer requests for room keys", d.answerKeyRequests},
		{"flush outbox", d.flushOutbox},
		{"back up room keys", d.backUp},
		{"restore history", d.resumeHistory},
		{"request room keys", d.requestKeys},
		{"unwedge", d.unwedge},
		{"refresh device lists", d.refreshDeviceLists},
		{"review warnings", d.reviewWarnings},
		{"locate warnings", d.locateWarnings},
	} {
		switch err := step.do(ctx); {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, errMoreToDo):
			more = true
		case needsPerson(err):
			d.eng.log.Info().Err(err).Str("step", step.name).Msg("A step of a device's upkeep waits for what its owner has to do; status tells them")
		default:
			failed = true
			d.eng.log.Warn().Err(err).Str("step", step.name).Msg("A step of a device's upkeep failed; it is tried again")
		}
	}
	d.maintainAgain(failed, more)
}

// refreshDeviceLists queries users whose devices changed or could not be queried, so that
// sends need not wait for that (requirement 4.3).
func (d *Device) refreshDeviceLists(ctx context.Context) error {
	if d.mode != ModeProxied || !d.isPublished() || d.currentToken().IsZero() {
		return nil
	}
	return d.acct.tracker.Refresh(ctx, d.query())
}

// uploadKeys uploads device keys, one-time keys and a fallback key where they are missing.
// They are stored first, so that a retry uploads the same keys (requirement 2.7).
func (d *Device) uploadKeys(ctx context.Context) error {
	if err := d.countKeys(ctx); err != nil {
		return err
	}
	body, oneTime, fallback, err := d.prepareUpload(ctx)
	if err != nil || body == nil {
		return err
	}
	if err := d.uploadStands(); err != nil {
		return err
	}
	var resp struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	err = d.call(ctx, wire.Request{
		Op: "upload keys", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "keys", "upload"}, Body: body, Result: &resp,
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.recordUpload(err)
	s := d.begin()
	switch {
	case err == nil:
		s.account().MarkPublished(oneTime, fallback)
		s.row().KeysUploaded, s.row().Restored = true, false
		s.finishDeadKeys(len(oneTime))
		if len(fallback) > 0 {
			s.row().FallbackChangedAt = d.eng.now() // the old one was handed out until now
		}
		s.after(func() {
			d.deviceKeysWereTaken()
			d.keySupply.count, d.keySupply.wanted = resp.Counts[wire.AlgorithmSigned], false
			d.roomTable.news++ // a sync in flight may still have the old counts
		})
	case wire.Status(err) == http.StatusBadRequest && d.deviceKeysTaken():
		s.account().SetAside()
		s.markKeysDead(err)
		s.after(func() { d.keySupply.wanted = true })
	default:
		return err
	}
	return errors.Join(err, s.commit(ctx, "the device's keys"))
}

// countKeys asks the homeserver for the number of one-time keys if a sync left it out.
// Taking that for zero would upload keys without end to a homeserver that always leaves it
// out.
func (k *keySupply) countKeys(ctx context.Context) error {
	k.mu.Lock()
	due := k.uncounted && k.eng.now().Sub(k.countedAt) >= countKeysEvery
	k.mu.Unlock()
	if !due {
		return nil
	}
	var resp struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	err := k.call(ctx, wire.Request{
		Op: "count keys", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "keys", "upload"}, Body: struct{}{}, Result: &resp,
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.setKeyCounts(resp.Counts)
	k.uncounted, k.countedAt = false, k.eng.now()
	return nil
}

// setKeyCounts applies the homeserver's counts. The caller holds mu.
func (k *keySupply) setKeyCounts(counts map[string]int) {
	k.count = counts[wire.AlgorithmSigned]
	k.wanted = k.count < olm.OneTimeKeysWanted/2+1
}

// prepareUpload makes and stores the missing keys and returns the request body, nil when
// nothing is missing.
func (d *Device) prepareUpload(ctx context.Context) (body map[string]any, oneTime, fallback map[string]json.RawMessage, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mode != ModeProxied || d.olmState.account == nil || !d.publication.allowed {
		return nil, nil, nil, nil
	}
	s := d.begin()
	if err = s.makeKeys(); err != nil {
		return nil, nil, nil, err
	}
	if s.keys != nil {
		if err = s.commit(ctx, "the device's keys"); err != nil {
			return nil, nil, nil, err
		}
	}
	if oneTime, err = d.olmState.account.Unpublished(d.acct.user, d.id); err != nil {
		return nil, nil, nil, err
	}
	if fallback, err = d.olmState.account.UnpublishedFallback(d.acct.user, d.id); err != nil {
		return nil, nil, nil, err
	}
	body = make(map[string]any, 3)
	if !d.deviceKeysTaken() {
		keys, err := d.olmState.account.DeviceKeys(d.acct.user, d.id)
		if err != nil {
			return nil, nil, nil, err
		}
		body["device_keys"] = keys
	}
	if len(oneTime) > 0 {
		body["one_time_keys"] = oneTime
	}
	if len(fallback) > 0 {
		body["fallback_keys"] = fallback
	}
	if len(body) == 0 {
		return nil, nil, nil, nil
	}
	return body, oneTime, fallback, nil
}

// makeKeys makes the one-time and fallback keys that the homeserver's counts call for
// (requirements 3.3, 3.4).
func (s *step) makeKeys() error {
	d := s.d
	if dead, err := s.prepareDeadKeys(); dead || err != nil {
		return err
	}
	pending := 0
	for i := range d.olmState.account.OTKeys {
		if !d.olmState.account.OTKeys[i].Published {
			pending++
		}
	}
	have, wanted := max(d.keySupply.count, 0)+pending, d.keySupply.wanted || !d.deviceKeysTaken()
	if d.record.row.Restored && pending == 0 {
		// The homeserver has keys that this restored database does not know. New keys get
		// IDs that it cannot have.
		s.account().NextOneTimeKeyID += olm.RestoredKeyStep
		have, wanted = 0, true
	}
	if d.needsAllKeys() && pending == 0 {
		have, wanted = 0, true
	}
	if wanted && have < olm.OneTimeKeysWanted {
		if err := s.account().MakeOneTimeKeys(olm.OneTimeKeysWanted - have); err != nil {
			return err
		}
	}
	if d.newFallbackDue() {
		if err := s.account().GenFallbackKey(); err != nil {
			return fmt.Errorf("make fallback key: %w", err)
		}
		s.row().FallbackChangedAt = d.eng.now()
		s.after(func() { d.keySupply.newFallback, d.keySupply.fallbackUsed = false, false })
	} else if d.olmState.account.NumFallbackKeys == 2 && d.olmState.account.CurrentFallbackKey.Published && d.eng.now().Sub(d.record.row.FallbackChangedAt) >= fallbackMinAge {
		s.account().ForgetOldFallbackKey() // requirement 3.5
	}
	return nil
}
