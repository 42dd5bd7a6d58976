package notices

import (
	"fmt"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Observe turns the tracker's events into warnings, which are stored together with them.
// The tracker calls it under its lock; it takes no other lock but a.mu.
func (a *Account) Observe(events []trustcache.Event, ch *store.Changes) (stored func()) {
	before := len(ch.Warnings)
	ownChanged := false
	for i := range events {
		ev := &events[i]
		switch ev.Kind {
		case trustcache.EventPin:
			a.Env.Counts.Identity(ev)
			if ev.Own {
				ch.Warnings = append(ch.Warnings, ownIdentityWarnings(ev)...)
			} else {
				ch.Warnings = append(ch.Warnings, identityWarnings(ev)...)
			}
		case trustcache.EventDevices:
			ownChanged = ownChanged || ev.Own
		case trustcache.EventOverride:
			a.Env.Log.Warn().Stringer("account", a.User).Stringer("user", ev.UserID).
				Str("device", firstDevice(ev)).Stringer("override", ev.Override).Msg("The exception for a device was changed")
		case trustcache.EventDevicesRefused, trustcache.EventIdentityRefused:
			a.Env.Log.Warn().Stringer("account", a.User).Stringer("user", ev.UserID).
				Int("devices", len(ev.Refused)).Msg("Keys that contradict what is known were refused")
		}
	}
	if len(ch.Warnings) == before && !ownChanged {
		return nil
	}
	return a.changed
}

func firstDevice(ev *trustcache.Event) string {
	if len(ev.Added) == 0 {
		return ""
	}
	return ev.Added[0].String()
}

// identityWarnings returns the warnings for an event about another user's identity.
func identityWarnings(ev *trustcache.Event) []store.Warning {
	about, user := ev.UserID.String(), ev.UserID
	raise := func(code, text string) store.Warning {
		return newWarning(code, about, user, fmt.Sprintf(text, user), ev.At)
	}
	switch ev.Effect {
	case trustcache.EffectChanged:
		if ev.State == trustcache.PinChanged {
			return []store.Warning{raise(CodeIdentityChanged, textIdentityChanged)}
		}
		if ev.State == trustcache.PinVerificationLost {
			return []store.Warning{raise(CodeVerificationLost, textVerifiedChanged)}
		}
	case trustcache.EffectVerificationLost:
		if ev.ByOwnChange {
			return []store.Warning{raise(CodeVerificationLost, textLostByUs)}
		}
		return []store.Warning{raise(CodeVerificationLost, textVerifiedChanged)}
	case trustcache.EffectAcknowledgedByPolicy:
		return []store.Warning{raise(CodeIdentityChanged, textAcceptedByPolicy)}
	case trustcache.EffectRestored, trustcache.EffectVerified, trustcache.EffectAcknowledged, trustcache.EffectWithdrawn:
		return []store.Warning{
			resolved(CodeIdentityChanged, about, user, ev.At), resolved(CodeVerificationLost, about, user, ev.At),
		}
	case trustcache.EffectFirstSeen:
	}
	return nil
}

// ownIdentityWarnings returns the warnings for an event about the account's own identity
// (requirement 1.11).
func ownIdentityWarnings(ev *trustcache.Event) []store.Warning {
	about, user := ev.UserID.String(), ev.UserID
	switch ev.Effect {
	case trustcache.EffectChanged, trustcache.EffectVerificationLost:
		if !ev.State.Accepted() {
			return []store.Warning{newWarning(CodeOwnIdentityChanged, about, user, textOwnIdentityChanged, ev.At)}
		}
	case trustcache.EffectRestored, trustcache.EffectVerified, trustcache.EffectAcknowledged, trustcache.EffectWithdrawn:
		return []store.Warning{resolved(CodeOwnIdentityChanged, about, user, ev.At)}
	case trustcache.EffectFirstSeen, trustcache.EffectAcknowledgedByPolicy:
	}
	return nil
}
