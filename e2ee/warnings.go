package e2ee

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Codes of warnings. Their texts are for people who know nothing of encryption: they
// mention no cross-signing and no key but the recovery key (requirement 26.1).
const (
	warnIdentityChanged    = "identity_changed"
	warnVerificationLost   = "verification_lost"
	warnOwnIdentityChanged = "own_identity_changed"
	warnDeviceNotSigned    = "device_not_signed"
	warnBackupBroken       = "backup_broken"
	warnStorageMissing     = "secret_storage_missing"
)

// A warning is one row for its code and subject, so a homeserver that changes an identity a
// million times makes one row. The ID that clients see also contains the time, so that
// dismissing a warning does not dismiss the next one. A dismissal is a row of its own, so
// that raising and dismissing a warning do not write the same row.

func warningSlot(code, about string) string {
	sum := sha256.Sum256([]byte(code + "\x00" + about))
	return code + "-" + hex.EncodeToString(sum[:8])
}

const dismissedSuffix = "!"

func warningID(row *store.Warning) string {
	return row.ID + "-" + strconv.FormatInt(row.Since.UnixMicro(), 36)
}

// raisedWarning returns the row of a warning.
func raisedWarning(code, about string, user id.UserID, message string, at time.Time) store.Warning {
	return store.Warning{
		ID: warningSlot(code, about), Code: code, UserID: user, Message: message,
		Since: at.UTC().Truncate(time.Microsecond),
	}
}

// resolvedWarning returns the row of a warning whose reason is gone.
func resolvedWarning(code, about string, user id.UserID, at time.Time) store.Warning {
	row := raisedWarning(code, about, user, "", at)
	row.Resolved = true
	return row
}

// pending returns the warnings that were neither dismissed nor resolved.
func pending(rows []store.Warning) []store.Warning {
	dismissed := make(map[string]time.Time)
	for _, w := range rows {
		if slot, ok := strings.CutSuffix(w.ID, dismissedSuffix); ok {
			dismissed[slot] = w.Since
		}
	}
	var out []store.Warning
	for _, w := range rows {
		at, told := dismissed[w.ID]
		if !w.Resolved && !w.Dismissed && (!told || at.Before(w.Since)) {
			out = append(out, w)
		}
	}
	return out
}

// observe turns the tracker's events into warnings, which are stored together with them.
// The tracker calls it under its lock; it takes no other lock but a.mu.
func (a *account) observe(events []trustcache.Event, ch *store.Changes) (stored func()) {
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
	released := releasePending(events, ch)
	if len(ch.Warnings) == before && !ownChanged {
		if !released {
			return nil
		}
		return func() { a.eng.alert(a) }
	}
	return func() {
		a.warningsChanged()
		a.eng.alert(a)
	}
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
		return raisedWarning(code, about, user, fmt.Sprintf(text, user), ev.At)
	}
	switch ev.Effect {
	case trustcache.EffectChanged:
		if ev.State == trustcache.PinChanged {
			return []store.Warning{raise(warnIdentityChanged, textIdentityChanged)}
		}
		if ev.State == trustcache.PinVerificationLost {
			return []store.Warning{raise(warnVerificationLost, textVerifiedChanged)}
		}
	case trustcache.EffectVerificationLost:
		if ev.ByOwnChange {
			return []store.Warning{raise(warnVerificationLost, textLostByUs)}
		}
		return []store.Warning{raise(warnVerificationLost, textVerifiedChanged)}
	case trustcache.EffectAcknowledgedByPolicy:
		return []store.Warning{raise(warnIdentityChanged, textAcceptedByPolicy)}
	case trustcache.EffectRestored, trustcache.EffectVerified, trustcache.EffectAcknowledged, trustcache.EffectWithdrawn:
		return []store.Warning{
			resolvedWarning(warnIdentityChanged, about, user, ev.At), resolvedWarning(warnVerificationLost, about, user, ev.At),
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
			return []store.Warning{raisedWarning(warnOwnIdentityChanged, about, user, textOwnIdentityChanged, ev.At)}
		}
	case trustcache.EffectRestored, trustcache.EffectVerified, trustcache.EffectAcknowledged, trustcache.EffectWithdrawn:
		return []store.Warning{resolvedWarning(warnOwnIdentityChanged, about, user, ev.At)}
	case trustcache.EffectFirstSeen, trustcache.EffectAcknowledgedByPolicy:
	}
	return nil
}

// recoveredAlone is the subject of the warning of tellRecoveredAlone: unlike the warning
// about the change, it does not end when the identity is accepted.
const recoveredAlone = "recovered alone"

// tellRecoveredAlone raises a warning that stays until it is dismissed. A person who
// recovers the identity knows that it was replaced; when the proxy recovers it without a
// person, somebody must be told (requirement 1.11).
func (d *Device) tellRecoveredAlone(ctx context.Context) error {
	told := raisedWarning(warnOwnIdentityChanged, recoveredAlone, d.acct.User, textRecoveredAlone, d.core.Env.Now())
	if err := d.core.Save(ctx, &store.Changes{Warnings: []store.Warning{told}}); err != nil {
		return fmt.Errorf("store a warning: %w", err)
	}
	d.acct.warningsChanged()
	d.eng.alert(d.acct)
	return nil
}

// The texts. %s is a user or a device.
const (
	textIdentityChanged = "%s's digital identity was reset. Nothing is sent to encrypted rooms with them until you accept the new one. " +
		"This can happen if they lost all their devices and the recovery key, but it can also be a sign of somebody taking over the account. Ask them in another way before you accept it."
	textVerifiedChanged = "WARNING: %s's digital identity was reset! You had verified this user. Nothing is sent to encrypted rooms with them " +
		"until you verify them again or withdraw the verification."
	textLostByUs = "You had verified %s. Your own digital identity was reset since, so that this verification no longer counts. " +
		"Their digital identity has not changed. Recover your digital identity, verify them again, or withdraw the verification."
	textAcceptedByPolicy = "%s's digital identity was reset. It was accepted automatically, as is set for this account."

	textOwnIdentityChanged = "Your digital identity was reset on another device, or somebody is taking over your account. " +
		"This device is not confirmed any more, and nothing is sent from it to encrypted rooms. " +
		"If it was you, confirm this device with your new recovery key. If it was not, change your password and talk to the administrator of your homeserver."
	textRecoveredAlone = "Your digital identity was reset on another device. This device was confirmed again with the recovery key that it holds. " +
		"If it was not you, somebody else has your recovery key: change your password, log out devices you do not know, and reset your digital identity."
	textDeviceNotSigned = "Your device %s is not confirmed. Other people's devices do not trust it. Confirm it, or log it out if you do not know it."
	textNoIdentity      = "You have no digital identity yet, so that other people's devices do not trust this one. Set it up."
	textStorageMissing  = "Your digital identity is not saved, so that you would lose it with this device. Set recovery up."
	textBackupNotOurs   = "Your message history is not being saved: the backup of your messages cannot be checked from here. Enter your recovery key."
	textBackupDeleted   = "Your message history is not being saved: the backup of your messages was deleted. Set it up again, or switch it off for good in another client."
)

// warnings returns the pending warnings, oldest first.
func (d *Device) warnings(ctx context.Context) ([]Warning, error) {
	rows, rooms, err := d.acct.pendingWarnings(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Warning, 0, len(rows))
	for i := range rows {
		w := &rows[i]
		out = append(out, Warning{
			ID: warningID(w), Code: w.Code, UserID: w.UserID, RoomIDs: rooms[w.UserID], Message: w.Message, Since: w.Since,
		})
	}
	return out, nil
}

// pendingWarnings returns the account's pending warnings, cached once they were read, and
// the encrypted rooms shared with the users they are about, as far as known.
func (a *account) pendingWarnings(ctx context.Context) ([]store.Warning, map[id.UserID][]id.RoomID, error) {
	rows, err := a.allWarnings(ctx)
	if err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return pending(rows), a.shared, nil
}

func (a *account) allWarnings(ctx context.Context) ([]store.Warning, error) {
	a.mu.Lock()
	rows, read, seq := a.warned, a.warnedRead, a.warnedSeq
	a.mu.Unlock()
	if read {
		return rows, nil
	}
	rows, err := a.Env.Store.Warnings(ctx, a.Row)
	if err != nil {
		return nil, fmt.Errorf("load warnings: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.warnedSeq == seq { // otherwise they changed meanwhile
		a.warned, a.warnedRead = rows, true
	}
	return rows, nil
}

// warningsChanged makes the next reader ask the store again.
func (a *account) warningsChanged() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.warned, a.warnedRead = nil, false
	a.warnedSeq++
}

// Warnings returns the pending warnings, oldest first.
func (d *Device) Warnings(ctx context.Context) ([]Warning, error) {
	if d.core.Mode != core.ModeProxied {
		return nil, core.ErrNotProxied
	}
	return d.warnings(ctx)
}

// DismissWarning dismisses a warning.
func (d *Device) DismissWarning(ctx context.Context, warning string) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	rows, _, err := d.acct.pendingWarnings(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rows, func(w store.Warning) bool { return warningID(&w) == warning })
	if i < 0 {
		return core.ErrUnknownWarning
	}
	note := store.Warning{ID: rows[i].ID + dismissedSuffix, Code: rows[i].Code, Since: rows[i].Since, Dismissed: true}
	if err := d.core.Save(ctx, &store.Changes{Warnings: []store.Warning{note}}); err != nil {
		return fmt.Errorf("store the dismissed warning: %w", err)
	}
	d.acct.warningsChanged()
	return nil
}
