package notices

import (
	"slices"
	"testing"
	"time"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// What happens to an identity and what the user is told of it (requirements 1.10, 1.11): "+"
// raises a warning, "-" ends it.
func TestWarningsOfAnIdentity(t *testing.T) {
	t.Parallel()
	over := []string{"-identity_changed", "-verification_lost"}
	for name, tc := range map[string]struct {
		ev   trustcache.Event
		want []string
	}{
		"first seen":                {trustcache.Event{Effect: trustcache.EffectFirstSeen, State: trustcache.PinPinned}, nil},
		"reset":                     {trustcache.Event{Effect: trustcache.EffectChanged, State: trustcache.PinChanged}, []string{"+identity_changed"}},
		"reset, was verified":       {trustcache.Event{Effect: trustcache.EffectChanged, State: trustcache.PinVerificationLost}, []string{"+verification_lost"}},
		"no longer verified":        {trustcache.Event{Effect: trustcache.EffectVerificationLost, State: trustcache.PinVerificationLost}, []string{"+verification_lost"}},
		"lost by our change":        {trustcache.Event{Effect: trustcache.EffectVerificationLost, State: trustcache.PinVerificationLost, ByOwnChange: true}, []string{"+verification_lost"}},
		"accepted by the setting":   {trustcache.Event{Effect: trustcache.EffectAcknowledgedByPolicy, State: trustcache.PinPinned}, []string{"+identity_changed"}},
		"the old one is back":       {trustcache.Event{Effect: trustcache.EffectRestored, State: trustcache.PinPinned}, over},
		"verified":                  {trustcache.Event{Effect: trustcache.EffectVerified, State: trustcache.PinVerified}, over},
		"acknowledged":              {trustcache.Event{Effect: trustcache.EffectAcknowledged, State: trustcache.PinPinned}, over},
		"verification withdrawn":    {trustcache.Event{Effect: trustcache.EffectWithdrawn, State: trustcache.PinPinned}, over},
		"own, first seen":           {trustcache.Event{Own: true, Effect: trustcache.EffectFirstSeen, State: trustcache.PinVerified}, nil},
		"own, reset elsewhere":      {trustcache.Event{Own: true, Effect: trustcache.EffectChanged, State: trustcache.PinVerificationLost}, []string{"+own_identity_changed"}},
		"own, reset and accepted":   {trustcache.Event{Own: true, Effect: trustcache.EffectChanged, State: trustcache.PinVerified}, nil},
		"own, verification lost":    {trustcache.Event{Own: true, Effect: trustcache.EffectVerificationLost, State: trustcache.PinVerificationLost}, []string{"+own_identity_changed"}},
		"own, verified":             {trustcache.Event{Own: true, Effect: trustcache.EffectVerified, State: trustcache.PinVerified}, []string{"-own_identity_changed"}},
		"own, accepted by settings": {trustcache.Event{Own: true, Effect: trustcache.EffectAcknowledgedByPolicy, State: trustcache.PinPinned}, nil},
	} {
		tc.ev.UserID, tc.ev.At = "@bob:x", time.Unix(1000, 0)
		rows := identityWarnings(&tc.ev)
		if tc.ev.Own {
			rows = ownIdentityWarnings(&tc.ev)
		}
		var got []string
		for i := range rows {
			w := &rows[i]
			switch {
			case w.UserID != "@bob:x" || w.ID != slotOf(w.Code, "@bob:x"):
				t.Errorf("%s: %+v is about somebody else", name, w)
			case w.Resolved:
				got = append(got, "-"+w.Code)
			case w.Message == "":
				t.Errorf("%s: %s says nothing", name, w.Code)
			default:
				got = append(got, "+"+w.Code)
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// Dismissing a warning says nothing about the next one of its kind, and what was resolved
// or dismissed is not pending.
func TestWhatIsPending(t *testing.T) {
	t.Parallel()
	first, later := time.Unix(1000, 0), time.Unix(2000, 0)
	warning := func(at time.Time) store.Warning {
		return newWarning(CodeIdentityChanged, "@bob:x", "@bob:x", "text", at)
	}
	dismissal := func(of store.Warning) store.Warning {
		return store.Warning{ID: of.ID + dismissedSuffix, Code: of.Code, Since: of.Since, Dismissed: true}
	}
	for name, tc := range map[string]struct {
		rows []store.Warning
		want bool
	}{
		"raised":                       {[]store.Warning{warning(first)}, true},
		"dismissed":                    {[]store.Warning{warning(first), dismissal(warning(first))}, false},
		"dismissed, and raised again":  {[]store.Warning{warning(later), dismissal(warning(first))}, true},
		"resolved":                     {[]store.Warning{resolved(CodeIdentityChanged, "@bob:x", "@bob:x", first)}, false},
		"another of them is dismissed": {[]store.Warning{warning(first), dismissal(newWarning(CodeVerificationLost, "@bob:x", "@bob:x", "text", first))}, true},
	} {
		if got := len(pending(tc.rows)) == 1; got != tc.want {
			t.Errorf("%s: pending %v", name, got)
		}
	}
	one, next := warning(first), warning(later)
	if one.ID != next.ID || idOf(&one) == idOf(&next) {
		t.Error("a warning that is raised again must be the same row and have another ID for clients")
	}
}
