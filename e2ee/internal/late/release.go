package late

import (
	"context"
	"slices"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Release marks withheld events as ready, together with what the tracker noticed, if
// more is known now of the owners of the devices that sent them: they are judged again and,
// if allowed, delivered. It reports whether there may be any.
func Release(events []trustcache.Event, ch *store.Changes) bool {
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

// WakeIfReady wakes the client's waiting syncs if a pending event is ready.
func (l *Events) WakeIfReady(ctx context.Context) {
	ready, err := l.Env.Store.Pending(ctx, l.Account.Row, l.RowID, 1)
	if err != nil {
		l.Env.Log.Warn().Err(err).Msg("Events can be read now, and which ones could not be looked up; the next sync shows them")
		return
	}
	if len(ready) == 0 {
		return
	}
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.host.WakeWaiting()
}
