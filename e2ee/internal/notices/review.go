package notices

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
)

// Cause is the reason of a warning about the user's own side, which lasts as long as the
// reason.
type Cause struct {
	code, about, text string
	user              id.UserID // whom it is about, if it is somebody else
}

func (c *Cause) slot() string { return slotOf(c.code, c.about) }

// NotSigned is a device of the user that the identity has not confirmed.
func NotSigned(dev id.DeviceID) Cause {
	return Cause{code: CodeDeviceNotSigned, about: dev.String(), text: fmt.Sprintf(textDeviceNotSigned, dev)}
}

// Verify is that somebody asks to verify and waits for an answer; with own it is another device
// of the user. All requests of a user are one warning: each of them would be a row for ever.
func Verify(user id.UserID, own bool) Cause {
	if own {
		return Cause{code: CodeVerificationRequested, about: user.String(), text: textVerifyOwn}
	}
	return Cause{code: CodeVerificationRequested, about: user.String(), text: fmt.Sprintf(textVerify, user), user: user}
}

// NoIdentity is a user without an identity.
func NoIdentity() Cause { return Cause{code: CodeDeviceNotSigned, text: textNoIdentity} }

// NoStorage is an identity that cannot be recovered.
func NoStorage() Cause { return Cause{code: CodeStorageMissing, text: textStorageMissing} }

// BackupNotOurs is a backup that is not trusted.
func BackupNotOurs() Cause { return Cause{code: CodeBackupBroken, text: textBackupNotOurs} }

// BackupDeleted is a backup that was deleted without being switched off.
func BackupDeleted() Cause { return Cause{code: CodeBackupBroken, text: textBackupDeleted} }

// Review raises and resolves the warnings about the user's own side by the current state,
// in a write of dev's. look returns the current causes, and the codes about which enough is
// known to resolve all other warnings; one device at a time looks.
func (a *Account) Review(ctx context.Context, dev *core.Device, look func(context.Context) (causes []Cause, known map[string]bool, err error)) error {
	give, err := a.review.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	causes, known, err := look(ctx)
	if err != nil {
		return err
	}
	rows, err := a.all(ctx)
	if err != nil {
		return err
	}
	var changed []store.Warning
	for _, c := range causes {
		slot := c.slot()
		i := slices.IndexFunc(rows, func(w store.Warning) bool { return w.ID == slot })
		if i < 0 || rows[i].Resolved {
			changed = append(changed, newWarning(c.code, c.about, cmp.Or(c.user, a.User), c.text, a.Env.Now()))
		}
	}
	for _, w := range rows {
		over := !w.Resolved && known[w.Code] && w.ID != "" && !w.Dismissed &&
			!slices.ContainsFunc(causes, func(c Cause) bool { return c.slot() == w.ID })
		if over {
			w.Resolved = true
			changed = append(changed, w)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	if err := dev.Save(ctx, &store.Changes{Warnings: changed}); err != nil {
		return fmt.Errorf("store warnings: %w", err)
	}
	a.changed()
	return nil
}

// recoveredAlone is the subject of the warning of TellRecoveredAlone: unlike the warning
// about the change, it does not end when the identity is accepted.
const recoveredAlone = "recovered alone"

// TellRecoveredAlone raises a warning that stays until it is dismissed, in a write of
// dev's. A person who recovers the identity knows that it was replaced; when the proxy
// recovers it without a person, somebody must be told (requirement 1.11).
func (a *Account) TellRecoveredAlone(ctx context.Context, dev *core.Device) error {
	told := newWarning(CodeOwnIdentityChanged, recoveredAlone, a.User, textRecoveredAlone, a.Env.Now())
	if err := dev.Save(ctx, &store.Changes{Warnings: []store.Warning{told}}); err != nil {
		return fmt.Errorf("store a warning: %w", err)
	}
	a.changed()
	return nil
}
