package e2ee

import (
	"context"
	"slices"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// releasePending marks withheld events as ready, together with what the tracker noticed, if
// more is known now of the owners of the devices that sent them: they are judged again and,
// if allowed, delivered. It reports whether there may be any.
func releasePending(events []trustcache.Event, ch *store.Changes) bool {
	before := len(ch.ReadyPendingFrom)
	for i := range events {
		ev := &events[i]
		switch ev.Kind {
		case trustcache.EventDevices:
			if len(ev.Added)+len(ev.Signed) == 0 {
				continue // this releases no withheld event
			}
		case trustcache.EventPin, trustcache.EventOverride:
		case trustcache.EventDevicesRefused, trustcache.EventIdentityRefused:
			continue
		}
		if !slices.Contains(ch.ReadyPendingFrom, ev.UserID) {
			ch.ReadyPendingFrom = append(ch.ReadyPendingFrom, ev.UserID)
		}
	}
	return len(ch.ReadyPendingFrom) > before
}

// wakeIfReady wakes the client's waiting syncs if a pending event is ready.
func (m *megolmState) wakeIfReady(ctx context.Context) {
	ready, err := m.Env.Store.Pending(ctx, m.acct.Row, m.RowID, 1)
	if err != nil {
		m.Env.Log.Warn().Err(err).Msg("Events can be read now, and which ones could not be looked up; the next sync shows them")
		return
	}
	if len(ready) == 0 {
		return
	}
	m.Mu.Lock()
	defer m.Mu.Unlock()
	m.host.wakeWaiting()
}

// proxied returns the account's devices whose keys are held here.
func (a *account) proxied() []*Device {
	a.eng.mu.Lock()
	defer a.eng.mu.Unlock()
	var devices []*Device
	for _, d := range a.eng.devices {
		if d.acct == a && d.core.Mode == core.ModeProxied {
			devices = append(devices, d)
		}
	}
	return devices
}
