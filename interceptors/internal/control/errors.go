package control

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
)

// Error codes of the control API beside those of the Client-Server API.
const (
	codeNotProxied          = "DEV.E2EE_PROXY.NOT_PROXIED"
	codeIdentityExists      = "DEV.E2EE_PROXY.IDENTITY_EXISTS"
	codeNoIdentity          = "DEV.E2EE_PROXY.NO_IDENTITY"
	codeWrongRecoveryKey    = "DEV.E2EE_PROXY.WRONG_RECOVERY_KEY"
	codeNoSecretStorage     = "DEV.E2EE_PROXY.NO_SECRET_STORAGE"
	codeNoBackup            = "DEV.E2EE_PROXY.NO_BACKUP"
	codeSecretMissing       = "DEV.E2EE_PROXY.SECRET_MISSING"
	codeSecretMismatch      = "DEV.E2EE_PROXY.SECRET_MISMATCH"
	codeMasterKeyNotCurrent = "DEV.E2EE_PROXY.MASTER_KEY_NOT_CURRENT"
	codeVerificationLost    = "DEV.E2EE_PROXY.VERIFICATION_LOST"
	codeNotVerified         = "DEV.E2EE_PROXY.NOT_VERIFIED"
	codeSessionEnded        = "DEV.E2EE_PROXY.SESSION_ENDED"
	codeWrongPassphrase     = "DEV.E2EE_PROXY.WRONG_PASSPHRASE"
	codeKeysReplaced        = "DEV.E2EE_PROXY.KEYS_REPLACED"
	codeKeysRefused         = "DEV.E2EE_PROXY.KEYS_REFUSED"
	codeSignatureNotShown   = "DEV.E2EE_PROXY.SIGNATURE_NOT_SHOWN"
	codeUnverifiable        = "DEV.E2EE_PROXY.UNVERIFIABLE"
	codeVerificationStep    = "DEV.E2EE_PROXY.VERIFICATION_STEP"
	codeOtherCode           = "DEV.E2EE_PROXY.OTHER_CODE"
	codeSignatureRefused    = "DEV.E2EE_PROXY.SIGNATURE_REFUSED"
)

// clientError turns an error of [exchange.Control] into one for the client.
func clientError(err error) error {
	if needed, ok := errors.AsType[*e2ee.AuthNeededError](err); ok {
		return authNeeded(needed)
	}
	up, answered := errors.AsType[*e2ee.UpstreamError](err)
	for _, known := range reasons() {
		if answered && errors.Is(known.reason, e2ee.ErrCannotEncrypt) {
			continue // the homeserver itself said what was wrong
		}
		if errors.Is(err, known.reason) {
			return known.answer.Because(err)
		}
	}
	if answered {
		return homeserverError(up, err)
	}
	return engineerr.For(err)
}

// homeserverError turns the homeserver's error answer to a request made by a call into one
// for the client.
func homeserverError(up *e2ee.UpstreamError, err error) error {
	if up.NotMatrix {
		return apierr.NotHomeserver(err)
	}
	switch up.Status {
	case http.StatusForbidden:
		return apierr.Forbidden("The homeserver refused this.").Because(err)
	}
	return engineerr.ForAnswer(up, err)
}

func conflict(code, text, hint string) *apierr.Error {
	return apierr.NewError(http.StatusConflict, code, text).WithHint(hint)
}

type reason struct {
	reason error
	answer *apierr.Error
}

// reasons returns the client's error for each error of [exchange.Control]. The first that
// matches counts.
func reasons() []reason {
	return append(verificationReasons(), []reason{
		{e2ee.ErrIdentityExists, conflict(codeIdentityExists,
			"This account has a digital identity already.",
			"Use it with POST /_e2ee_proxy/v1/recover. Only POST /_e2ee_proxy/v1/reset makes a new one.")},
		{e2ee.ErrNoIdentity, conflict(codeNoIdentity,
			"This account has no digital identity.", "Make one with POST /_e2ee_proxy/v1/bootstrap.")},
		{e2ee.ErrNoRecoveryKey, apierr.NotFound("No recovery key is kept for this account: it was deleted, its time is over, or none was made here.")},
		{e2ee.ErrWrongRecoveryKey, apierr.NewError(http.StatusForbidden, codeWrongRecoveryKey,
			"The recovery key or passphrase does not open this account's secret storage. Nothing was changed.")},
		{e2ee.ErrNoSecretStorage, conflict(codeNoSecretStorage,
			"This account has no secret storage with a default key, so there is nothing to recover from.",
			"Set recovery up in another client that is signed in, or use POST /_e2ee_proxy/v1/reset.")},
		{e2ee.ErrNoPassphrase, conflict(codeNoSecretStorage,
			"This account's secret storage has no passphrase.", "Use the recovery key.")},
		{e2ee.ErrNoBackup, conflict(codeNoBackup,
			"There is no saved message history that can be read from here.", "Recover first: POST /_e2ee_proxy/v1/recover.")},
		{e2ee.ErrSecretMissing, conflict(codeSecretMissing,
			"The secret storage does not hold what is needed. Nothing was changed.",
			"Set recovery up again in a client that is signed in, or use POST /_e2ee_proxy/v1/reset.")},
		{e2ee.ErrSecretMismatch, conflict(codeSecretMismatch,
			"What the secret storage holds does not belong to the account's published identity. Nothing was changed.",
			"Set recovery up again in a client that is signed in, or use POST /_e2ee_proxy/v1/reset.")},
		{e2ee.ErrWrongPassword, apierr.Forbidden("The homeserver did not accept the password.")},
		{e2ee.ErrSessionEnded, conflict(codeSessionEnded, "The session of this device has ended: the proxy has no access token of it that is still valid.",
			"Log in again through the proxy.")},
		{e2ee.ErrUnknownUser, apierr.NotFound("Nothing is known of this user.")},
		{e2ee.ErrUnknownDevice, apierr.NotFound("This user has no such device.")},
		{e2ee.ErrUnknownWarning, apierr.NotFound("There is no such warning.")},
		{e2ee.ErrMasterKeyNotCurrent, conflict(codeMasterKeyNotCurrent,
			"This is not the user's current identity: it may have changed again. Nothing was changed.",
			"Look at GET /_e2ee_proxy/v1/users/{userId} and ask them.")},
		{e2ee.ErrVerificationLost, conflict(codeVerificationLost,
			"You had verified this user before the identity was reset, so that accepting the new one is not enough.",
			"Verify again, or give the verification up first: POST /_e2ee_proxy/v1/users/{userId}/withdraw_verification.")},
		{e2ee.ErrNotProxied, apierr.NewError(http.StatusConflict, codeNotProxied, "The proxy holds no encryption keys for this device.")},
		{e2ee.ErrKeysReplaced, conflict(codeKeysReplaced,
			"The homeserver shows other encryption keys for this device than the proxy's own.", "Log out and log in again as a new device.")},
		{e2ee.ErrSignatureNotShown, conflict(codeSignatureNotShown,
			"This device could not be confirmed.", engineerr.HintSignatureNotShown)},
		{e2ee.ErrSignatureRefused, conflict(codeSignatureRefused,
			"The homeserver refuses the confirmation of this device.", engineerr.HintAnotherDevice)},
		{e2ee.ErrKeysRefused, conflict(codeKeysRefused,
			"The homeserver refuses the encryption keys of this device.", engineerr.HintAnotherDevice)},
		{e2ee.ErrDeviceNotSigned, apierr.DeviceNotSigned("Confirm it first: POST /_e2ee_proxy/v1/recover.")},
		{e2ee.ErrCannotEncrypt, apierr.NewError(http.StatusServiceUnavailable, apierr.CodeCannotEncrypt,
			"What the homeserver shows of this account could not be read.").WithHint("Try again in a moment.")},
		{e2ee.ErrClosed, apierr.NewError(http.StatusServiceUnavailable, apierr.CodeUnknown, "The proxy is shutting down.").WithHint("Try again in a moment.")},
		{e2ee.ErrLeaseLost, engineerr.ProcessEnding(nil)},
		{e2ee.ErrNotAnExport, apierr.BadJSON("keys is not the text of a file of exported keys. Nothing was imported.")},
		{e2ee.ErrExportTooCostly, apierr.BadJSON("The file asks for more work than the file of any client does. Nothing was imported.")},
		{e2ee.ErrWrongPassphrase, apierr.NewError(http.StatusForbidden, codeWrongPassphrase,
			"The passphrase does not open the file, or the file is damaged. Nothing was imported.")},
		{e2ee.ErrNotVerified, conflict(codeNotVerified,
			"This user is not verified, so that there is nothing to withdraw.", "")},
	}...)
}

// verificationReasons are those of verifications.
func verificationReasons() []reason {
	return []reason{
		{e2ee.ErrNoVerification, apierr.NotFound("There is no such verification. It may have ended a while ago, or the proxy was restarted.").WithHint("Start a new one.")},
		{e2ee.ErrVerificationStep, conflict(codeVerificationStep,
			"The verification is not at this point. Nothing was changed.", "Look at GET /_e2ee_proxy/v1/verifications/{flowId}: message says what is next.")},
		{e2ee.ErrTooManyVerifications, apierr.LimitExceeded(time.Minute)},
		{e2ee.ErrUnverifiable, conflict(codeUnverifiable,
			"This user has no digital identity that could be verified. Single devices of other people are not verified.",
			"Ask them to set up their digital identity in their app.")},
		{e2ee.ErrNotACode, apierr.InvalidParam("This is no QR code of a verification. Nothing was changed.").WithHint("Scan the code that the other side shows while you verify each other.")},
		{e2ee.ErrOtherCode, conflict(codeOtherCode,
			"This code belongs to another verification. Nothing was changed.", "Scan the code that the other side shows for this one.")},
	}
}

// authNeeded passes the homeserver's user-interactive authentication on to the client, in
// the form of the Client-Server API: a 401 with flows and session.
func authNeeded(needed *e2ee.AuthNeededError) error {
	fields := map[string]any{}
	if err := json.Unmarshal(needed.Body, &fields); err != nil {
		return apierr.Unreachable(needed)
	}
	code, _ := fields["errcode"].(string)
	if code == "" {
		code = apierr.CodeForbidden
	}
	delete(fields, "errcode")
	delete(fields, "error")
	hint := "Repeat the call with password, or do a flow and repeat it with auth."
	if needed.URL != "" {
		hint = "Open " + needed.URL + " in a browser, allow it there, and repeat the call with auth."
	}
	e := apierr.NewError(http.StatusUnauthorized, code, "The homeserver asks for authentication.").WithHint(hint)
	e.Fields = fields
	return e.Because(needed)
}

// notProxied refuses a call that needs keys which the proxy does not hold.
func notProxied(mode e2ee.Mode) error {
	e := apierr.NewError(http.StatusConflict, codeNotProxied, "The proxy holds no encryption keys for this device.")
	switch mode {
	case e2ee.ModeProxied:
		return nil
	case e2ee.ModeForeign:
		return e.WithHint("Its client does its own encryption: use that client, or log in as a new device.")
	case e2ee.ModeLost:
		return e.WithHint("They were destroyed when its session ended: log in again as a new device.")
	case e2ee.ModeNone:
		return e.WithHint("The access token belongs to no device: log in as the user and use the token of that login.")
	case e2ee.ModeUnknown:
	}
	return e.WithHint("It could not be compared with the homeserver yet: try again in a moment.")
}
