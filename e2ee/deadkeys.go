package e2ee

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

var problemDeadKeys = Problem{
	"keys_being_replaced", "The proxy's database was put back from a backup, so the homeserver may still hand out keys of this device that are lost: what somebody sends who has never written to it before may not be readable.",
	"The proxy replaces them by itself. Ask again in a minute; if it stays so, look into the log.",
}

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
func (k *keySupply) markKeysDead(s *core.Step, refused error) {
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
func (d *Device) prepareDeadKeys(s *core.Step) (bool, error) {
	switch d.core.Record.Row.DeadKeys {
	case store.DeadKeysNone, store.DeadKeysGone:
		return false, nil
	case store.DeadKeysClaimed:
		return true, nil
	case store.DeadKeysFound:
	}
	acc := d.channel.ChangeKeys(s)
	acc.SetAside()
	if acc.NumFallbackKeys == 0 || acc.CurrentFallbackKey.Published { // otherwise it is uploaded next
		if err := acc.GenFallbackKey(); err != nil {
			return true, fmt.Errorf("make fallback key: %w", err)
		}
	}
	s.Row().FallbackChangedAt, s.Row().DeadKeys = d.core.Env.Now(), store.DeadKeysClaimed
	s.After(func() { d.keySupply.newFallback, d.keySupply.fallbackUsed = false, false })
	return true, nil
}

// finishDeadKeys records that new one-time keys were published.
func (k *keySupply) finishDeadKeys(s *core.Step, published int) {
	if k.Record.Row.DeadKeys == store.DeadKeysGone && published > 0 {
		s.Row().DeadKeys = store.DeadKeysNone
	}
}

// needsAllKeys reports whether new one-time keys must be published whatever the homeserver
// counts: a sync may still count the dead ones. The caller holds mu.
func (k *keySupply) needsAllKeys() bool { return k.Record.Row.DeadKeys == store.DeadKeysGone }

// hasDeadKeys reports, for the status, whether dead keys are being replaced.
func (k *keySupply) hasDeadKeys() bool {
	k.Mu.Lock()
	defer k.Mu.Unlock()
	return k.Record.Row.DeadKeys != store.DeadKeysNone
}

// claimDead removes the dead keys from the homeserver by claiming them, and publishes new
// ones.
func (d *Device) claimDead(ctx context.Context) error {
	d.core.Mu.Lock()
	due := d.core.Record.Row.DeadKeys == store.DeadKeysClaimed && d.core.Record.Row.KeysUploaded && d.channel.Keys().CurrentFallbackKey.Published
	d.core.Mu.Unlock()
	if !due {
		return nil
	}
	claimed := d.claimAll(ctx)
	d.core.Mu.Lock()
	if claimed != nil && !d.keySupply.claimsInVain(claimed) {
		d.core.Mu.Unlock()
		return claimed
	}
	if claimed != nil {
		d.core.Env.Log.Warn().Err(claimed).Msg("Not all one-time keys from before a restore could be replaced")
	}
	s := d.core.Begin()
	s.Row().DeadKeys = store.DeadKeysGone
	s.After(func() {
		d.keySupply.count, d.keySupply.wanted = 0, true
		d.core.News++ // a sync in flight may still have the old counts
	})
	err := s.Commit(ctx, "that dead keys are gone")
	d.core.Mu.Unlock()
	if err != nil {
		return err
	}
	return d.uploadKeys(ctx)
}

// claimsInVain reports whether it is useless to claim again after this error: while
// claiming fails, new contacts get no one-time key at all. The caller holds mu.
func (k *keySupply) claimsInVain(err error) bool {
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
func (d *Device) claimAll(ctx context.Context) error {
	given := make(map[string]bool)
	for range maxDeadClaims {
		name, fallback, err := d.claimOwn(ctx)
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
func (d *Device) claimOwn(ctx context.Context) (name string, fallback bool, err error) {
	var resp struct {
		Keys map[id.UserID]map[id.DeviceID]map[string]json.RawMessage `json:"one_time_keys"`
	}
	err = d.core.Call(ctx, wire.Request{
		Op: "claim own one-time keys", Method: http.MethodPost, Path: mautrix.ClientURLPath{"v3", "keys", "claim"},
		Body:   map[string]any{"one_time_keys": map[id.UserID]map[id.DeviceID]string{d.acct.User: {d.core.ID: wire.AlgorithmSigned}}},
		Result: &resp,
	})
	if err != nil {
		return "", false, err
	}
	for name, raw := range resp.Keys[d.acct.User][d.core.ID] {
		var key struct {
			Fallback bool `json:"fallback"`
		}
		// Nobody can use a key of another form: it is gone now.
		_ = json.Unmarshal(raw, &key)
		return name, key.Fallback, nil
	}
	return "", false, nil
}
