package console

import (
	"errors"
	"net/http"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// words returns what a person is told about an error; ok is false for one that is not for people.
func words(err error) (said *apierr.Error, ok bool) {
	if known, ok := errors.AsType[*apierr.Error](err); ok {
		return known, true
	}
	if asked, ok := errors.AsType[*e2ee.AuthNeededError](err); ok {
		if asked.URL != "" {
			return apierr.Forbidden("The homeserver wants to ask you first.").
				WithHint("Open " + asked.URL + " in another tab, allow it there, then come back and repeat what you did.").Because(err), true
		}
		return apierr.Forbidden("The homeserver asks for your password.").WithHint("Go back and enter it.").Because(err), true
	}
	for _, r := range reasons() {
		if errors.Is(err, r.reason) {
			return apierr.NewError(r.status, apierr.CodeUnknown, r.text).WithHint(r.hint).Because(err), true
		}
	}
	if up, ok := errors.AsType[*e2ee.UpstreamError](err); ok {
		if up.Status == http.StatusForbidden {
			return apierr.Forbidden("The homeserver refused this.").WithHint("Ask its administrator why.").Because(err), true
		}
		return apierr.Unreachable(err), true
	}
	return nil, false
}

type reason struct {
	reason     error
	status     int
	text, hint string
}

// reasons returns what people are told about each error of a device. The first that matches
// counts. Whatever is refused has changed nothing.
func reasons() []reason {
	const conflict, gone, forbidden, later = http.StatusConflict, http.StatusNotFound, http.StatusForbidden, http.StatusServiceUnavailable
	return []reason{
		{e2ee.ErrWrongRecoveryKey, forbidden, "This recovery key or passphrase is not the one of your account. Nothing was changed.", "Look at it again: a recovery key begins with Es and has 12 groups of four."},
		{e2ee.ErrNoPassphrase, conflict, "Your account has no passphrase.", "Enter your recovery key instead."},
		{e2ee.ErrNoSecretStorage, conflict, "There is nothing that a recovery key could open: recovery is not set up for your account.", "Set recovery up in another client that is signed in, or reset your digital identity."},
		{e2ee.ErrSecretMissing, conflict, "What your recovery key opens does not have your whole digital identity. Nothing was changed.", "Set recovery up again in another client that is signed in, or reset your digital identity."},
		{e2ee.ErrSecretMismatch, conflict, "What your recovery key opens belongs to an older digital identity of yours. Nothing was changed.", "Set recovery up again in another client that is signed in, or reset your digital identity."},
		{e2ee.ErrIdentityExists, conflict, "You have a digital identity already, so none was made.", "Confirm this device with your recovery key, or by another device of yours."},
		{e2ee.ErrNoIdentity, conflict, "You have no digital identity yet.", "Set it up first, on the page Recovery."},
		{e2ee.ErrNoRecoveryKey, gone, "There is no recovery key to show: it was shown already, it is older than 24 hours, or it was made by another client.", "Whoever runs this proxy may still have it. Otherwise set recovery up again in another client, or reset your digital identity."},
		{e2ee.ErrNoBackup, conflict, "There is no saved message history that can be read from here.", "Enter your recovery key first, on the page Recovery."},
		{e2ee.ErrWrongPassword, forbidden, "The homeserver did not accept the password. Nothing was changed.", "Try again."},
		{e2ee.ErrUnknownUser, gone, "Nothing is known of this person.", "Look at the ID again: it is written like @alice:example.org. They may also have no device with encryption."},
		{e2ee.ErrUnknownDevice, gone, "There is no such device any more.", "Look at the page again."},
		{e2ee.ErrUnknownWarning, gone, "This warning is gone already.", "There is nothing more to do."},
		{e2ee.ErrMasterKeyNotCurrent, conflict, "This is not the person's present digital identity: it may have changed again since you looked. Nothing was changed.", "Look at the page again, and ask them in another way."},
		{e2ee.ErrVerificationLost, conflict, "You had verified this person before their digital identity was reset, so that accepting the new one is not enough.", "Verify them again, or withdraw the verification first."},
		{e2ee.ErrNotVerified, conflict, "There is no verification to withdraw.", "Look at the page again: it may be done already."},
		{e2ee.ErrNoVerification, gone, "This verification is over, or never was.", "Begin a new one."},
		{e2ee.ErrVerificationStep, conflict, "The verification went on meanwhile, so that this was not done.", "Look at it again."},
		{e2ee.ErrTooManyVerifications, conflict, "Too many verifications are under way.", "Cancel those that you do not need, or wait until they are over."},
		{e2ee.ErrUnverifiable, conflict, "This person cannot be verified: they have no digital identity.", "Ask them to set it up in their client."},
		{e2ee.ErrNotACode, http.StatusBadRequest, "There is no QR code of a verification in this.", "Take the picture again: the whole code, sharp, and nothing in front of it. Or compare emoji instead."},
		{e2ee.ErrOtherCode, conflict, "This QR code belongs to another verification, or to somebody else.", "Scan the one that is shown now, or compare emoji instead."},
		{e2ee.ErrKeysReplaced, conflict, "The homeserver shows other encryption keys for this device than the ones that are here.", "Log this device out in its client, and log in again."},
		{e2ee.ErrSignatureNotShown, conflict, "The homeserver took the confirmation of this device and does not show it.", "Log out in the client and log in again, so that it gets a new device ID."},
		{e2ee.ErrSignatureRefused, conflict, "The homeserver refuses the confirmation of this device.", "Log out in the client and log in again, so that it gets a new device ID."},
		{e2ee.ErrKeysRefused, conflict, "The homeserver refuses the encryption keys of this device.", "Log out in the client and log in again, so that it gets a new device ID."},
		{e2ee.ErrNotProxied, conflict, "The proxy holds no encryption keys for this device.", "Choose another device, or use a client through the proxy first."},
		{e2ee.ErrDeviceNotSigned, conflict, "This device is not confirmed.", "Enter your recovery key first, on the page Recovery."},
		{e2ee.ErrCannotEncrypt, later, "The homeserver did not say how your account stands. Nothing was changed.", "Try again in a moment."},
		{e2ee.ErrClosed, later, "The proxy is being restarted.", "Try again in a moment."},
		{e2ee.ErrReload, later, "The proxy has to look at its database again. Nothing may have been changed.", "Try again in a moment."},
		{e2ee.ErrNoAccount, gone, "The proxy has no such account.", "Look at the list of accounts again."},
		{e2ee.ErrPage, http.StatusBadRequest, "There is no such page.", "Begin with the first one."},
	}
}

// done says what was done, for the page after it. The address has the word before it only.
func done(what string) string {
	return map[string]string{
		"signed-out":    "You are signed out.",
		"ended":         "Your session has ended: nothing was done here for half an hour, or you signed out elsewhere. Sign in again.",
		"ended-undone":  "Your session had ended, so what you sent was not done. Sign in again, and repeat it.",
		"everywhere":    "You are signed out, in every browser.",
		"acting":        "The pages are about this device now.",
		"dismissed":     "The warning is gone.",
		"accepted":      "The new digital identity is accepted. You can write to rooms with this person again.",
		"withdrawn":     "The verification is withdrawn, and the new digital identity is accepted.",
		"verified":      "This person is verified.",
		"exception":     "The exception is made.",
		"no-exception":  "The exception has ended.",
		"recovered":     "Your recovery key was right: this device is confirmed.",
		"restoring":     "Your message history is being fetched. This page shows how far it is.",
		"created":       "What was missing is set up. Your recovery key was shown before, so that none is shown now.",
		"sessions":      "The homeserver was asked to end the sessions of this account.",
		"no-longer-key": "The recovery key cannot be shown any more.",
	}[what]
}

// stateWords says how a person's digital identity stands.
func stateWords(state string) string {
	switch state {
	case "pinned":
		return "Not verified"
	case "changed":
		return "Identity was reset"
	case "verified":
		return "Verified"
	case "verification_lost":
		return "Verification lost"
	}
	return "No digital identity"
}
