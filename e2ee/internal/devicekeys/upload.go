package devicekeys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
)

// Upload uploads device keys, one-time keys and a fallback key where they are missing.
// They are stored first, so that a retry uploads the same keys (requirement 2.7).
func (k *Supply) Upload(ctx context.Context) error {
	if err := k.countKeys(ctx); err != nil {
		return err
	}
	body, oneTime, fallback, err := k.prepareUpload(ctx)
	if err != nil || body == nil {
		return err
	}
	if err := k.publication.uploadStands(); err != nil {
		return err
	}
	var resp struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	err = k.Call(ctx, wire.Request{
		Op: "upload keys", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "keys", "upload"}, Body: body, Result: &resp,
	})
	k.Mu.Lock()
	defer k.Mu.Unlock()
	k.publication.recordUpload(err)
	s := k.Begin()
	switch {
	case err == nil:
		k.olm.ChangeKeys(s).MarkPublished(oneTime, fallback)
		s.Row().KeysUploaded, s.Row().Restored = true, false
		k.finishDeadKeys(s, len(oneTime))
		if len(fallback) > 0 {
			s.Row().FallbackChangedAt = k.Env.Now() // the old one was handed out until now
		}
		if body["device_keys"] != nil { // without the owner's signature
			if err := s.ChangeMeta(func(m *core.Meta) { m.PassedOn = "" }); err != nil {
				return err
			}
		}
		s.After(func() {
			k.publication.host.KeysWereTakenLocked()
			k.count, k.wanted = resp.Counts[wire.AlgorithmSigned], false
			k.News++ // a sync in flight may still have the old counts
		})
	case wire.Status(err) == http.StatusBadRequest && k.publication.host.KeysTakenLocked():
		k.olm.ChangeKeys(s).SetAside()
		k.markKeysDead(s, err)
		s.After(func() { k.wanted = true })
	default:
		return err
	}
	return errors.Join(err, s.Commit(ctx, "the device's keys"))
}

// prepareUpload makes and stores the missing keys and returns the request body, nil when
// nothing is missing.
func (k *Supply) prepareUpload(ctx context.Context) (body map[string]any, oneTime, fallback map[string]json.RawMessage, err error) {
	k.Mu.Lock()
	defer k.Mu.Unlock()
	if k.Mode != core.ModeProxied || k.olm.Keys() == nil || !k.publication.allowed {
		return nil, nil, nil, nil
	}
	s := k.Begin()
	k.leaveToOthers(s)
	if err = k.makeKeys(s); err != nil {
		return nil, nil, nil, err
	}
	if err = k.recordEpoch(s); err != nil {
		return nil, nil, nil, err
	}
	if k.olm.KeysChanged(s) {
		if err = s.Commit(ctx, "the device's keys"); err != nil {
			return nil, nil, nil, err
		}
	}
	if oneTime, err = k.olm.Keys().Unpublished(k.Account.User, k.ID); err != nil {
		return nil, nil, nil, err
	}
	if fallback, err = k.olm.Keys().UnpublishedFallback(k.Account.User, k.ID); err != nil {
		return nil, nil, nil, err
	}
	body = make(map[string]any, 3)
	if !k.publication.host.KeysTakenLocked() {
		keys, err := k.olm.Keys().DeviceKeys(k.Account.User, k.ID)
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
func (k *Supply) makeKeys(s *core.Step) error {
	if dead, err := k.prepareDeadKeys(s); dead || err != nil {
		return err
	}
	pending := pendingKeys(k.olm.ReadKeys(s))
	have, wanted := max(k.count, 0)+pending, k.wanted || !k.publication.host.KeysTakenLocked()
	if k.Record.Row.Restored && pending == 0 {
		// The homeserver has keys that this restored database does not know. New keys get
		// IDs that it cannot have.
		k.olm.ChangeKeys(s).NextOneTimeKeyID += olm.RestoredKeyStep
		have, wanted = 0, true
	}
	if k.needsAllKeys() && pending == 0 {
		have, wanted = 0, true
	}
	if wanted && have < k.Env.OneTimeKeys {
		if err := k.olm.ChangeKeys(s).MakeOneTimeKeys(k.Env.OneTimeKeys - have); err != nil {
			return err
		}
	}
	if k.newFallbackDue() {
		if err := k.olm.ChangeKeys(s).GenFallbackKey(); err != nil {
			return fmt.Errorf("make fallback key: %w", err)
		}
		s.Row().FallbackChangedAt = k.Env.Now()
		s.After(func() { k.newFallback, k.fallbackUsed = false, false })
	} else if k.olm.Keys().NumFallbackKeys == 2 && k.olm.Keys().CurrentFallbackKey.Published && k.Env.Now().Sub(k.Record.Row.FallbackChangedAt) >= fallbackMinAge {
		k.olm.ChangeKeys(s).ForgetOldFallbackKey() // requirement 3.5
	}
	return nil
}
