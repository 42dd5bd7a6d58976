package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// After an older database was put back, the homeserver still hands out one-time keys that
// were made since, whose private halves are gone: what a new contact sends first cannot be
// read. Which of its keys are dead the homeserver does not tell, and there is no request
// to take keys back. But whoever claims a key takes it away, so the device claims its own
// until none is left. Its fallback key, which may be dead too, is replaced before, so that
// whoever begins a session meanwhile gets a key that is alive; new one-time keys are published
// after, under IDs that cannot be taken.
//
// The store notices most restores. The homeserver shows others: it refuses a key because
// it has another one with its ID.

// maxDeadClaims bounds how many keys are claimed. Homeservers hold fewer; one that has no
// end of them is not believed.
const maxDeadClaims = 200

// maxClaimFailures is how often the homeserver may fail at claiming, with the pauses of maintenance in some
// hour and a half, before new keys are published beside those that are dead.
const maxClaimFailures = 16

var errKeysWithoutEnd = errors.New("the homeserver has no end of one-time keys for this device")

var problemDeadKeys = Problem{
	"keys_being_replaced", "The proxy's database was put back from a backup, so the homeserver may still hand out keys of this device that are lost: what somebody sends who has never written to it before may not be readable.",
	"The proxy replaces them by itself. Ask again in a minute; if it stays so, look into the log.",
}

// isKeyIDTaken reports whether a homeserver refused an upload because it has other keys
// with the same IDs. It has no code of its own: Synapse says M_UNKNOWN, Dendrite none.
func isKeyIDTaken(err error) bool {
	var up *wire.UpstreamError
	return errors.As(err, &up) && up.Status == http.StatusBadRequest && (up.ErrCode == "" || up.ErrCode == "M_UNKNOWN")
}

// markKeysDead notes, of an upload that was refused, that this device was restored without
// anybody having noticed. Its sessions may have been used further than is known here: they
// go, and the device is loaded anew. Once only: a homeserver may refuse for ever.
func (s *step) markKeysDead(refused error) {
	if s.d.record.row.DeadKeys != store.DeadKeysNone || !isKeyIDTaken(refused) {
		return
	}
	s.row().Restored, s.row().DeadKeys = true, store.DeadKeysFound
	s.ch.DiscardSent = true
	s.after(func() { s.d.mustReload.Store(true) })
}

// prepareDeadKeys reports whether dead keys are on the homeserver, and makes nothing but a new
// fallback key then. What was to be published before may be there already.
func (s *step) prepareDeadKeys() (bool, error) {
	switch s.d.record.row.DeadKeys {
	case store.DeadKeysNone, store.DeadKeysGone:
		return false, nil
	case store.DeadKeysClaimed:
		return true, nil
	case store.DeadKeysFound:
	}
	acc := s.account()
	acc.SetAside()
	if acc.NumFallbackKeys == 0 || acc.CurrentFallbackKey.Published { // else it is offered next
		if err := acc.GenFallbackKey(); err != nil {
			return true, fmt.Errorf("make fallback key: %w", err)
		}
	}
	s.row().FallbackChangedAt, s.row().DeadKeys = s.d.eng.now(), store.DeadKeysClaimed
	s.after(func() { s.d.keySupply.newFallback, s.d.keySupply.fallbackUsed = false, false })
	return true, nil
}

// finishDeadKeys notes that new one-time keys were published.
func (s *step) finishDeadKeys(published int) {
	if s.d.record.row.DeadKeys == store.DeadKeysGone && published > 0 {
		s.row().DeadKeys = store.DeadKeysNone
	}
}

// needsAllKeys reports whether new one-time keys are to be published whatever the homeserver
// counts: a sync may tell of the dead ones still. The caller holds mu.
func (p *part) needsAllKeys() bool { return p.record.row.DeadKeys == store.DeadKeysGone }

// hasDeadKeys is for the status.
func (p *part) hasDeadKeys() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record.row.DeadKeys != store.DeadKeysNone
}

// claimDead takes the dead keys away from the homeserver, and publishes new ones.
func (d *Device) claimDead(ctx context.Context) error {
	d.mu.Lock()
	due := d.record.row.DeadKeys == store.DeadKeysClaimed && d.record.row.KeysUploaded && d.olmState.account.CurrentFallbackKey.Published
	d.mu.Unlock()
	if !due {
		return nil
	}
	claimed := d.claimAll(ctx)
	d.mu.Lock()
	if claimed != nil && !d.keySupply.claimsInVain(claimed) {
		d.mu.Unlock()
		return claimed
	}
	if claimed != nil {
		d.eng.log.Warn().Err(claimed).Msg("Not all one-time keys from before a restore could be replaced")
	}
	s := d.begin()
	s.row().DeadKeys = store.DeadKeysGone
	s.after(func() {
		d.keySupply.count, d.keySupply.wanted = 0, true
		d.roomTable.news++ // a sync that is under way may still tell of the supply before
	})
	err := s.commit(ctx, "that dead keys are gone")
	d.mu.Unlock()
	if err != nil {
		return err
	}
	return d.uploadKeys(ctx)
}

// claimsInVain reports whether there is no use in claiming again after this error: new
// contacts would get no one-time key at all for as long as it fails. The caller holds mu.
func (k *keySupply) claimsInVain(err error) bool {
	switch wire.Status(err) {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true // the homeserver does not allow it
	}
	if wire.Status(err) >= http.StatusInternalServerError { // who answers nothing, or asks for patience, may yet
		k.claimFailures++
	}
	return errors.Is(err, errKeysWithoutEnd) || k.claimFailures >= maxClaimFailures
}

// claimAll claims own keys until the homeserver has none, or none that it had not given
// before. Those that are alive stay here: somebody may have claimed them in earnest.
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

// claimOwn takes one key of this device. Its name is empty if there is none.
func (d *Device) claimOwn(ctx context.Context) (name string, fallback bool, err error) {
	var resp struct {
		Keys map[id.UserID]map[id.DeviceID]map[string]json.RawMessage `json:"one_time_keys"`
	}
	err = d.call(ctx, wire.Request{
		Op: "claim own one-time keys", Method: http.MethodPost, Path: mautrix.ClientURLPath{"v3", "keys", "claim"},
		Body:   map[string]any{"one_time_keys": map[id.UserID]map[id.DeviceID]string{d.acct.user: {d.id: wire.AlgorithmSigned}}},
		Result: &resp,
	})
	if err != nil {
		return "", false, err
	}
	for name, raw := range resp.Keys[d.acct.user][d.id] {
		var key struct {
			Fallback bool `json:"fallback"`
		}
		// A key of any other form is one that nobody can use: it is gone now.
		_ = json.Unmarshal(raw, &key)
		return name, key.Fallback, nil
	}
	return "", false, nil
}
