package notices

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// Codes of warnings. Their texts are for people who know nothing of encryption: they
// mention no cross-signing and no key but the recovery key (requirement 26.1).
const (
	CodeIdentityChanged    = "identity_changed"
	CodeVerificationLost   = "verification_lost"
	CodeOwnIdentityChanged = "own_identity_changed"
	CodeDeviceNotSigned    = "device_not_signed"
	CodeBackupBroken       = "backup_broken"
	CodeStorageMissing     = "secret_storage_missing"
	// CodeVerificationRequested lasts until the request is answered, or its time is over.
	CodeVerificationRequested = "verification_requested"
)

// Warning is something the user must be told. Code is one of those above.
type Warning struct {
	ID      string      `json:"id"`
	Code    string      `json:"code"`
	UserID  id.UserID   `json:"user_id,omitempty"`
	RoomIDs []id.RoomID `json:"room_ids,omitempty"`
	Message string      `json:"message"`
	Since   time.Time   `json:"since"`
}

// A warning is one row for its code and subject, so a homeserver that changes an identity a
// million times makes one row. The ID that clients see also contains the time, so that
// dismissing a warning does not dismiss the next one. A dismissal is a row of its own, so
// that raising and dismissing a warning do not write the same row.

func slotOf(code, about string) string {
	sum := sha256.Sum256([]byte(code + "\x00" + about))
	return code + "-" + hex.EncodeToString(sum[:8])
}

const dismissedSuffix = "!"

func idOf(row *store.Warning) string {
	return row.ID + "-" + strconv.FormatInt(row.Since.UnixMicro(), 36)
}

// newWarning returns the row of a warning.
func newWarning(code, about string, user id.UserID, message string, at time.Time) store.Warning {
	return store.Warning{
		ID: slotOf(code, about), Code: code, UserID: user, Message: message,
		Since: at.UTC().Truncate(time.Microsecond),
	}
}

// resolved returns the row of a warning whose reason is gone.
func resolved(code, about string, user id.UserID, at time.Time) store.Warning {
	row := newWarning(code, about, user, "", at)
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
	textVerify          = "%s wants to verify you. Accept it if you expect it, and compare the emoji with them. If you do not expect it, ignore it: nothing happens."
	textVerifyOwn       = "Another device of yours wants to verify this one. Accept it if you have just asked for it there. If you have not, ignore it, and look at your list of devices."
	textBackupDeleted   = "Your message history is not being saved: the backup of your messages was deleted. Set it up again, or switch it off for good in another client."
)
