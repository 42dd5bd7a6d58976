package controlroom

import (
	"errors"
	"strings"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
)

// reasonOf says for people why something was not done, and what to do.
func reasonOf(err error) string {
	for _, r := range reasons() {
		if errors.Is(err, r.reason) {
			return r.text
		}
	}
	if said, ok := errors.AsType[*apierr.Error](engineerr.For(err)); ok {
		text := said.Text
		if said.Hint != "" && !strings.Contains(said.Hint, "/_e2ee_proxy/") {
			text += " " + said.Hint
		}
		return text
	}
	return "That did not work, and nothing is known of the reason here. Try again in a while; if it stays so, ask whoever runs the proxy to look into its log."
}

type reason struct {
	reason error
	text   string
}

func reasons() []reason {
	return []reason{
		{e2ee.ErrIdentityExists, "Your account has a digital identity already. To use it here, write: recover. If you have lost the recovery key, write: reset"},
		{e2ee.ErrNoIdentity, "Your account has no digital identity yet. Write: setup"},
		{e2ee.ErrWrongRecoveryKey, "That recovery key, or passphrase, does not fit. Nothing was changed. To try again, write: recover"},
		{e2ee.ErrNoSecretStorage, "Your account has nothing that a recovery key could open. Set recovery up in another client that is signed in, or write: reset"},
		{e2ee.ErrNoPassphrase, "There is no passphrase for your account: use the recovery key. Write: recover"},
		{e2ee.ErrNoBackup, "There are no saved messages that can be read from here. First write: recover"},
		{e2ee.ErrSecretMissing, "What the recovery key opens does not hold all that is needed. Nothing was changed. Set recovery up again in a client that is signed in, or write: reset"},
		{e2ee.ErrSecretMismatch, "What the recovery key opens belongs to another digital identity than the one of your account. Nothing was changed. Set recovery up again in a client that is signed in, or write: reset"},
		{e2ee.ErrWrongPassword, "The homeserver did not accept the password. Nothing was changed."},
		{e2ee.ErrUnknownUser, "Nothing is known of this person here."},
		{e2ee.ErrUnknownDevice, "This person has no such device. For the list, write devices and the person's name."},
		{e2ee.ErrUnknownWarning, "There is no such warning any more. For the list, write: warnings"},
		{e2ee.ErrMasterKeyNotCurrent, "The digital identity was reset once more in the meantime. Nothing was changed. Ask them, and write the command again."},
		{e2ee.ErrVerificationLost, "You had verified this person before the digital identity was reset, so that accepting the new one is not enough. Verify them again, or give the verification up: write verify or withdraw, and the person's name."},
		{e2ee.ErrNotVerified, "You have not verified this person, so there is nothing to give up."},
		{e2ee.ErrKeysReplaced, "The homeserver shows other encryption keys for this device than its own. Log out and log in again as a new device."},
		{e2ee.ErrSignatureNotShown, "This device could not be confirmed: the homeserver accepted that and does not show it. Log out and log in again with another device ID."},
		{e2ee.ErrSignatureRefused, "The homeserver refuses that this device is confirmed. Log out and log in again with another device ID."},
		{e2ee.ErrKeysRefused, "The homeserver refuses the encryption keys of this device. Log out and log in again with another device ID."},
		{e2ee.ErrWrongPassphrase, "The passphrase does not open the file. Nothing was changed. To try again, write: import"},
		{e2ee.ErrNotAnExport, "This is no file with keys of messages. Nothing was changed."},
		{e2ee.ErrExportTooCostly, "This file would take too long to open. Nothing was changed. Export it anew from where it comes from."},
		{e2ee.ErrDeviceNotSigned, "First this device must be confirmed. Write: recover"},
		{e2ee.ErrCannotEncrypt, "The homeserver did not tell how your account stands. Nothing was changed. Try again in a moment."},
		{e2ee.ErrClosed, "The proxy is being restarted. Try again in a moment."},
		{e2ee.ErrNotProxied, "The proxy does not have the encryption of this device."},
		{e2ee.ErrNoVerification, "There is no such verification any more. To begin a new one, write verify and the person's name."},
		{e2ee.ErrTooManyVerifications, "Too many verifications are open. End one (cancel), or wait some minutes."},
		{e2ee.ErrUnverifiable, "This person has no digital identity that you could verify. They must set encryption up in their client first."},
		{e2ee.ErrVerificationStep, "The verification is not at that point. Look at what was last said here about it."},
	}
}
