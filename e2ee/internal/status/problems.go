package status

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/e2ee/internal/wire"
)

// The problems in Status.
var (
	problemForeign = Problem{
		"device_has_own_keys", "This device published encryption keys that the proxy does not hold, so the proxy does not encrypt for it, and lets nothing unencrypted from it into encrypted rooms.",
		"If the client does its own encryption, all is well. Otherwise log in again, so that the client gets a new device.",
	}
	problemLost = Problem{
		"keys_lost", "The encryption keys that this device published were the proxy's. They were destroyed when its session ended, so that nobody can encrypt for this device any more.",
		"Log in again as a new device, with another device ID or none. If the ID must stay, delete this device in another client first; what people write in Element may then be unreadable for up to a week.",
	}
	problemNoDevice = Problem{
		"no_device", "This access token belongs to no device, so there can be no encryption keys for it.",
		"Log in as a user to get a token with a device.",
	}
	problemSettingUp = Problem{
		"setting_up", "The proxy is still setting up the encryption of this device.",
		"Ask again in a few seconds.",
	}
	problemNoIdentity = Problem{
		"no_identity", "The account has no digital identity yet, so others cannot tell that this device is yours.",
		"POST /_e2ee_proxy/v1/bootstrap, with your password if the homeserver asks for it.",
	}
	problemUnsigned = Problem{
		"device_not_signed", "Your digital identity has not confirmed this device. Others would not show its messages.",
		"POST /_e2ee_proxy/v1/recover with your recovery key, or POST /_e2ee_proxy/v1/reset for a new identity.",
	}
	problemSignatureNotShown = Problem{
		"signature_not_shown", "The homeserver accepted the confirmation of this device and does not show it, as Synapse does for a device ID that was logged out and used again. Others would not show its messages.",
		"Log out and log in again with another device ID, or leave the ID to the homeserver. If the ID must stay: POST /_e2ee_proxy/v1/reset makes a new identity.",
	}
	problemSignatureRefused = Problem{
		"signature_refused", "The homeserver refuses the confirmation of this device. Others would not show its messages.",
		"Log out and log in again with another device ID. If that does not help, talk to the administrator of the homeserver.",
	}
	problemChanged = Problem{
		notices.CodeOwnIdentityChanged, "Your digital identity was reset elsewhere, and this device does not know the new one. Nothing is sent from it to encrypted rooms.",
		"If it was you: POST /_e2ee_proxy/v1/recover with your new recovery key. If it was not: change your password, log out devices you do not know, then POST /_e2ee_proxy/v1/reset.",
	}
	problemReplaced = Problem{
		"keys_replaced", "The homeserver shows other keys for this device than the proxy holds. Nothing is sent from it.",
		"Log this device out and log in again with another device ID. If nobody replaced the keys, talk to the administrator of the homeserver.",
	}
	problemNoStorage = Problem{
		notices.CodeStorageMissing, "The account has no secret storage, so your identity cannot be recovered on another device.",
		"POST /_e2ee_proxy/v1/bootstrap.",
	}
	problemStorageIncomplete = Problem{
		"secret_storage_incomplete", "Secret storage does not hold your whole identity.",
		"POST /_e2ee_proxy/v1/recover with your recovery key.",
	}
	problemStorageOfAnother = Problem{
		"secret_storage_incomplete", "Secret storage holds another identity than the one that is published.",
		"If none of your other clients is making a new identity at this moment: POST /_e2ee_proxy/v1/bootstrap stores the right one.",
	}
	problemNoBackup = Problem{
		"backup_missing", "Your message history is not saved: the account has no backup of your messages.",
		"POST /_e2ee_proxy/v1/bootstrap.",
	}
	problemBackupDeleted = Problem{
		notices.CodeBackupBroken, "Your message history is not saved any more: another client deleted the backup of your messages.",
		"POST /_e2ee_proxy/v1/bootstrap makes a new one.",
	}
	problemBackupNotOurs = Problem{
		notices.CodeBackupBroken, "There is a backup of your messages that the proxy cannot check, so nothing is written to it.",
		"POST /_e2ee_proxy/v1/recover with your recovery key.",
	}
	problemBackupUnread = Problem{
		"backup_unreadable", "Your message history is saved, but the proxy cannot read what is there.",
		"POST /_e2ee_proxy/v1/recover with your recovery key.",
	}
)

// problemOfUnsigned returns the problem of a device that its identity has not signed. why is
// the reason if that was tried.
func problemOfUnsigned(why error) Problem {
	switch {
	case errors.Is(why, core.ErrSignatureNotShown):
		return problemSignatureNotShown
	case errors.Is(why, core.ErrSignatureRefused):
		return problemSignatureRefused
	}
	return problemUnsigned
}

// withoutUnfinished replaces the problems that the proxy is about to solve itself by one
// that says so, so that nobody is asked to act. unknown means that the device's keys are
// not published yet, so that nothing is known of them.
func withoutUnfinished(problems []Problem, unknown bool) []Problem {
	rest := forUser(problems)
	if len(rest) == len(problems) && !unknown {
		return problems
	}
	return append([]Problem{problemSettingUp}, rest...)
}

// forUser returns the problems that the proxy does not solve itself.
func forUser(problems []Problem) []Problem {
	return slices.DeleteFunc(slices.Clone(problems), func(p Problem) bool {
		return p == problemNoIdentity || p == problemUnsigned || p == problemNoStorage || p == problemStorageIncomplete || p == problemNoBackup
	})
}

func unreadable(what string) Problem {
	return Problem{"unreadable", "The homeserver did not say how " + what + " stands.", "Try again in a while."}
}

// problemOthers asks the user to confirm or remove other devices.
func problemOthers(devices []id.DeviceID) Problem {
	names := make([]string, len(devices))
	for i, dev := range devices {
		names[i] = dev.String()
	}
	return Problem{
		"other_devices_not_signed",
		fmt.Sprintf("Your digital identity has not confirmed these devices of yours: %s. They are given no messages, and theirs are not shown.", strings.Join(names, ", ")),
		"Confirm each in a client that is confirmed, or log it out if you do not know it.",
	}
}

var problemDeadKeys = Problem{
	"keys_being_replaced", "The proxy's database was put back from a backup, so the homeserver may still hand out keys of this device that are lost: what somebody sends who has never written to it before may not be readable.",
	"The proxy replaces them by itself. Ask again in a minute; if it stays so, look into the log.",
}

func problemKeysRefused(why *wire.UpstreamError) Problem {
	return Problem{
		"keys_refused",
		fmt.Sprintf("The homeserver refuses the encryption keys of this device (%s), so that it can neither send nor read encrypted messages.",
			strings.TrimSpace(fmt.Sprintf("%d %s", why.Status, wire.Truncate(why.ErrCode, 64)))),
		"It is tried again by itself. If it stays so: log out and log in again with another device ID, or talk to the administrator of the homeserver.",
	}
}
