package channel

import (
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// maxNoKeys bounds the devices in Olm.noKeys.
const maxNoKeys = 4096

// keyless is when a device without one-time keys is tried again.
type keyless struct {
	at       time.Time
	failures backoff.Pauses
	told     bool
}

// HasNoKeys reports whether a device had no one-time keys a short while ago and is not
// asked yet again. The caller holds mu.
func (o *Olm) HasNoKeys(dev *trustcache.Device) bool {
	again, ok := o.noKeys[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}]
	return ok && o.Env.Now().Before(again.at)
}

// RememberNoKeys remembers that a device had no one-time keys. The caller holds mu.
func (o *Olm) RememberNoKeys(dev *trustcache.Device) {
	ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
	o.setNoKeys(ref, o.nextTry(ref))
}

// StageNoKeys stages that a device had no one-time keys, and that it was told so. It reports
// whether it was told before. The caller holds mu.
func (o *Olm) StageNoKeys(s *core.Step, dev *trustcache.Device) (told bool) {
	ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
	again := o.nextTry(ref)
	told, again.told = again.told, true
	s.After(func() { o.setNoKeys(ref, again) })
	return told
}

// nextTry returns when a device is tried again that had no one-time keys now.
func (o *Olm) nextTry(ref store.DeviceRef) keyless {
	again := o.noKeys[ref]
	again.at = o.Env.Now().Add(again.failures.Next(core.KeylessPauses()))
	return again
}

func (o *Olm) setNoKeys(ref store.DeviceRef, again keyless) {
	if len(o.noKeys) >= maxNoKeys {
		clear(o.noKeys)
	}
	o.noKeys[ref] = again
}

// MayHaveKeys forgets that a device had no one-time keys. The caller holds mu.
func (o *Olm) MayHaveKeys(user id.UserID, device id.DeviceID) {
	delete(o.noKeys, store.DeviceRef{UserID: user, DeviceID: device})
}
