package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"maunium.net/go/mautrix"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/ownidentity"
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
	d.core.Mu.Lock()
	d.schedule.queued, d.schedule.maintained = false, true
	d.core.Mu.Unlock()
	give, err := d.schedule.upkeep.Take(ctx, struct{}{})
	if err != nil {
		return
	}
	defer give()
	if d.core.Ended() {
		return // retired: another Device took its place
	}
	failed, more := false, false
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"upload keys", d.uploadKeys},
		{"replace dead keys", d.claimDead},
		{"flush outbox", d.channel.FlushOutbox},
		{"check received secrets", d.backups.CheckReceived},
		{"set up identity", d.ownIdentity.SetUp},
		{"answer requests for secrets", d.gossip.AnswerSecretRequests},
		{"answer requests for room keys", d.gossip.AnswerKeyRequests},
		{"flush outbox", d.channel.FlushOutbox},
		{"back up room keys", d.backups.BackUp},
		{"restore history", d.backups.ResumeHistory},
		{"request room keys", d.gossip.RequestKeys},
		{"unwedge", d.channel.Unwedge},
		{"refresh device lists", d.refreshDeviceLists},
		{"review warnings", d.reviewWarnings},
		{"locate warnings", d.locateWarnings},
	} {
		switch err := step.do(ctx); {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, core.ErrMoreToDo):
			more = true
		case ownidentity.NeedsPerson(err):
			d.core.Env.Log.Info().Err(err).Str("step", step.name).Msg("A step of a device's upkeep waits for what its owner has to do; status tells them")
		default:
			failed = true
			d.core.Env.Log.Warn().Err(err).Str("step", step.name).Msg("A step of a device's upkeep failed; it is tried again")
		}
	}
	d.schedule.maintainAgain(failed, more)
}

// refreshDeviceLists queries users whose devices changed or could not be queried, so that
// sends need not wait for that (requirement 4.3).
func (d *Device) refreshDeviceLists(ctx context.Context) error {
	if d.core.Mode != core.ModeProxied || !d.core.IsPublished() || d.core.CurrentToken().IsZero() {
		return nil
	}
	return d.acct.Tracker.Refresh(ctx, d.core.Query())
}

// uploadKeys uploads device keys, one-time keys and a fallback key where they are missing.
// They are stored first, so that a retry uploads the same keys (requirement 2.7).
func (d *Device) uploadKeys(ctx context.Context) error {
	if err := d.keySupply.countKeys(ctx); err != nil {
		return err
	}
	body, oneTime, fallback, err := d.prepareUpload(ctx)
	if err != nil || body == nil {
		return err
	}
	if err := d.publication.uploadStands(); err != nil {
		return err
	}
	var resp struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	err = d.core.Call(ctx, wire.Request{
		Op: "upload keys", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "keys", "upload"}, Body: body, Result: &resp,
	})
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	d.publication.recordUpload(err)
	s := d.core.Begin()
	switch {
	case err == nil:
		d.channel.ChangeKeys(s).MarkPublished(oneTime, fallback)
		s.Row().KeysUploaded, s.Row().Restored = true, false
		d.keySupply.finishDeadKeys(s, len(oneTime))
		if len(fallback) > 0 {
			s.Row().FallbackChangedAt = d.core.Env.Now() // the old one was handed out until now
		}
		s.After(func() {
			d.ownIdentity.KeysWereTakenLocked()
			d.keySupply.count, d.keySupply.wanted = resp.Counts[wire.AlgorithmSigned], false
			d.core.News++ // a sync in flight may still have the old counts
		})
	case wire.Status(err) == http.StatusBadRequest && d.ownIdentity.KeysTakenLocked():
		d.channel.ChangeKeys(s).SetAside()
		d.keySupply.markKeysDead(s, err)
		s.After(func() { d.keySupply.wanted = true })
	default:
		return err
	}
	return errors.Join(err, s.Commit(ctx, "the device's keys"))
}

// countKeys asks the homeserver for the number of one-time keys if a sync left it out.
// Taking that for zero would upload keys without end to a homeserver that always leaves it
// out.
func (k *keySupply) countKeys(ctx context.Context) error {
	k.Mu.Lock()
	due := k.uncounted && k.Env.Now().Sub(k.countedAt) >= countKeysEvery
	k.Mu.Unlock()
	if !due {
		return nil
	}
	var resp struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	err := k.Call(ctx, wire.Request{
		Op: "count keys", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "keys", "upload"}, Body: struct{}{}, Result: &resp,
	})
	if err != nil {
		return err
	}
	k.Mu.Lock()
	defer k.Mu.Unlock()
	k.setKeyCounts(resp.Counts)
	k.uncounted, k.countedAt = false, k.Env.Now()
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
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	if d.core.Mode != core.ModeProxied || d.channel.Keys() == nil || !d.publication.allowed {
		return nil, nil, nil, nil
	}
	s := d.core.Begin()
	if err = d.makeKeys(s); err != nil {
		return nil, nil, nil, err
	}
	if d.channel.KeysChanged(s) {
		if err = s.Commit(ctx, "the device's keys"); err != nil {
			return nil, nil, nil, err
		}
	}
	if oneTime, err = d.channel.Keys().Unpublished(d.acct.User, d.core.ID); err != nil {
		return nil, nil, nil, err
	}
	if fallback, err = d.channel.Keys().UnpublishedFallback(d.acct.User, d.core.ID); err != nil {
		return nil, nil, nil, err
	}
	body = make(map[string]any, 3)
	if !d.ownIdentity.KeysTakenLocked() {
		keys, err := d.channel.Keys().DeviceKeys(d.acct.User, d.core.ID)
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
func (d *Device) makeKeys(s *core.Step) error {
	if dead, err := d.prepareDeadKeys(s); dead || err != nil {
		return err
	}
	pending := 0
	for i := range d.channel.Keys().OTKeys {
		if !d.channel.Keys().OTKeys[i].Published {
			pending++
		}
	}
	have, wanted := max(d.keySupply.count, 0)+pending, d.keySupply.wanted || !d.ownIdentity.KeysTakenLocked()
	if d.core.Record.Row.Restored && pending == 0 {
		// The homeserver has keys that this restored database does not know. New keys get
		// IDs that it cannot have.
		d.channel.ChangeKeys(s).NextOneTimeKeyID += olm.RestoredKeyStep
		have, wanted = 0, true
	}
	if d.keySupply.needsAllKeys() && pending == 0 {
		have, wanted = 0, true
	}
	if wanted && have < olm.OneTimeKeysWanted {
		if err := d.channel.ChangeKeys(s).MakeOneTimeKeys(olm.OneTimeKeysWanted - have); err != nil {
			return err
		}
	}
	if d.newFallbackDue() {
		if err := d.channel.ChangeKeys(s).GenFallbackKey(); err != nil {
			return fmt.Errorf("make fallback key: %w", err)
		}
		s.Row().FallbackChangedAt = d.core.Env.Now()
		s.After(func() { d.keySupply.newFallback, d.keySupply.fallbackUsed = false, false })
	} else if d.channel.Keys().NumFallbackKeys == 2 && d.channel.Keys().CurrentFallbackKey.Published && d.core.Env.Now().Sub(d.core.Record.Row.FallbackChangedAt) >= fallbackMinAge {
		d.channel.ChangeKeys(s).ForgetOldFallbackKey() // requirement 3.5
	}
	return nil
}
