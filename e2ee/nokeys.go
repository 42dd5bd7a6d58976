package e2ee

import (
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// hasNoKeys reports whether a device had no one-time keys a short while ago and is not
// asked yet again. The caller holds mu.
func (o *olmState) hasNoKeys(dev *trustcache.Device) bool {
	again, ok := o.noKeys[store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}]
	return ok && o.Env.Now().Before(again.at)
}

// rememberNoKeys remembers that a device had no one-time keys. The caller holds mu.
func (o *olmState) rememberNoKeys(dev *trustcache.Device) {
	ref := store.DeviceRef{UserID: dev.UserID, DeviceID: dev.DeviceID}
	again := o.noKeys[ref]
	again.at = o.Env.Now().Add(again.failures.Next(core.KeylessPauses()))
	if len(o.noKeys) >= maxNoKeys {
		clear(o.noKeys)
	}
	o.noKeys[ref] = again
}
