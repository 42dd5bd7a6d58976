package devicekeys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// After an older database was restored, the homeserver still hands out one-time keys that
// were made later and whose private halves are gone: the first message of a new contact
// cannot be decrypted. The homeserver does not say which keys are dead, and no request
// deletes keys. But claiming a key removes it, so the device claims its own keys until none
// is left. Before that it replaces its fallback key, which may be dead too, so that new
// sessions meanwhile get a working key. After that it publishes new one-time keys, under
// IDs that are not in use.
//
// The store notices most restores. The others show when the homeserver refuses a key
// because it has another one with the same ID.

// maxDeadClaims bounds how many keys are claimed. Homeservers hold fewer; one that returns
// more is not believed.
const maxDeadClaims = 200

// maxClaimFailures is how often the homeserver may fail to answer claims before new keys
// are published beside the dead ones: with the pauses of maintenance about an hour and a
// half.
const maxClaimFailures = 16

var errKeysWithoutEnd = errors.New("the homeserver has no end of one-time keys for this device")

// isKeyIDTaken reports whether a homeserver refused an upload because it has other keys
// with the same IDs. There is no error code for it: Synapse says M_UNKNOWN, Dendrite none.
func isKeyIDTaken(err error) bool {
	var up *wire.UpstreamError
	return errors.As(err, &up) && up.Status == http.StatusBadRequest && (up.ErrCode == "" || up.ErrCode == "M_UNKNOWN")
}

// markKeysDead records, after a refused upload, that the database was restored unnoticed.
// The device's Olm sessions may have been used further than is known here, so they are
// deleted and the device is reloaded. This happens only once: a homeserver may refuse for
// ever.
func (k *Supply) markKeysDead(s *core.Step, refused error) {
	if k.Record.Row.DeadKeys != store.DeadKeysNone || !isKeyIDTaken(refused) {
		return
	}
	s.Row().Restored, s.Row().DeadKeys = true, store.DeadKeysFound
	s.Changes.DiscardSent = true
	s.After(func() { k.MustReload.Store(true) })
}

// prepareDeadKeys reports whether the homeserver holds dead keys. If so, it makes a new
// fallback key and no one-time keys; keys that were to be published before may be there
// already.
func (k *Supply) prepareDeadKeys(s *core.Step) (bool, error) {
	switch k.Record.Row.DeadKeys {
	case store.DeadKeysNone, store.DeadKeysGone:
		return false, nil
	case store.DeadKeysClaimed:
		return true, nil
	case store.DeadKeysFound:
	}
	acc := k.olm.ChangeKeys(s)
	acc.SetAside()
	if acc.NumFallbackKeys == 0 || acc.CurrentFallbackKey.Published { // otherwise it is uploaded next
		if err := acc.GenFallbackKey(); err != nil {
			return true, fmt.Errorf("make fallback key: %w", err)
		}
	}
	s.Row().FallbackChangedAt, s.Row().DeadKeys = k.Env.Now(), store.DeadKeysClaimed
	s.After(func() { k.newFallback, k.fallbackUsed = false, false })
	return true, nil
}

// finishDeadKeys records that new one-time keys were published.
func (k *Supply) finishDeadKeys(s *core.Step, published int) {
	if k.Record.Row.DeadKeys == store.DeadKeysGone && published > 0 {
		s.Row().DeadKeys = store.DeadKeysNone
	}
}

// needsAllKeys reports whether new one-time keys must be published whatever the homeserver
// counts: a sync may still count the dead ones. The caller holds mu.
func (k *Supply) needsAllKeys() bool { return k.Record.Row.DeadKeys == store.DeadKeysGone }

// HasDeadKeys reports, for the status, whether dead keys are being replaced.
func (k *Supply) HasDeadKeys() bool {
	k.Mu.Lock()
	defer k.Mu.Unlock()
	return k.Record.Row.DeadKeys != store.DeadKeysNone
}

// ClaimDead removes the dead keys from the homeserver by claiming them, and publishes new
// ones.
func (k *Supply) ClaimDead(ctx context.Context) error {
	k.Mu.Lock()
	due := k.Record.Row.DeadKeys == store.DeadKeysClaimed && k.Record.Row.KeysUploaded && k.olm.Keys().CurrentFallbackKey.Published
	k.Mu.Unlock()
	if !due {
		return nil
	}
	claimed := k.claimAll(ctx)
	k.Mu.Lock()
	if claimed != nil && !k.claimsInVain(claimed) {
		k.Mu.Unlock()
		return claimed
	}
	if claimed != nil {
		k.Env.Log.Warn().Err(claimed).Msg("Not all one-time keys from before a restore could be replaced")
	}
	s := k.Begin()
	s.Row().DeadKeys = store.DeadKeysGone
	s.After(func() {
		k.count, k.wanted = 0, true
		k.News++ // a sync in flight may still have the old counts
	})
	err := s.Commit(ctx, "that dead keys are gone")
	k.Mu.Unlock()
	if err != nil {
		return err
	}
	return k.Upload(ctx)
}

// claimsInVain reports whether it is useless to claim again after this error: while
// claiming fails, new contacts get no one-time key at all. The caller holds mu.
func (k *Supply) claimsInVain(err error) bool {
	switch wire.Status(err) {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true // the homeserver does not allow it
	}
	if wire.Status(err) >= http.StatusInternalServerError { // no answer and M_LIMIT_EXCEEDED do not count: a retry may succeed
		k.claimFailures++
	}
	return errors.Is(err, errKeysWithoutEnd) || k.claimFailures >= maxClaimFailures
}

// claimAll claims the device's keys until the homeserver has none, or only repeats some.
// Private halves that are here are kept: somebody else may have claimed such a key.
func (k *Supply) claimAll(ctx context.Context) error {
	given := make(map[string]bool)
	for range maxDeadClaims {
		name, fallback, err := k.claimOwn(ctx)
		if err != nil {
			return err
		}
		if name == "" || fallback || given[name] {
			return nil
		}
		given[name] = true
	}
	return errKeysWithoutEnd
}

// claimOwn claims one key of this device. name is empty if there is none.
func (k *Supply) claimOwn(ctx context.Context) (name string, fallback bool, err error) {
	var resp struct {
		Keys map[id.UserID]map[id.DeviceID]map[string]json.RawMessage `json:"one_time_keys"`
	}
	err = k.Call(ctx, wire.Request{
		Op: "claim own one-time keys", Method: http.MethodPost, Path: mautrix.ClientURLPath{"v3", "keys", "claim"},
		Body:   map[string]any{"one_time_keys": map[id.UserID]map[id.DeviceID]string{k.Account.User: {k.ID: wire.AlgorithmSigned}}},
		Result: &resp,
	})
	if err != nil {
		return "", false, err
	}
	for name, raw := range resp.Keys[k.Account.User][k.ID] {
		var key struct {
			Fallback bool `json:"fallback"`
		}
		// Nobody can use a key of another form: it is gone now.
		_ = json.Unmarshal(raw, &key)
		return name, key.Fallback, nil
	}
	return "", false, nil
}
