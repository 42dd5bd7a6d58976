package interceptors

import "testing"

// Every name has a handler, and no handler lacks a name.
func TestHandlerNames(t *testing.T) {
	t.Parallel()
	all, err := Handlers(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		Send, Redact, PutState, CreateRoom, Invite, Kick, Ban, Unban, Join, JoinByAlias, Knock, Leave, Forget,
		Login, Register, Refresh, Logout, LogoutAll, DeleteDevice, DeleteDevices, Password, Deactivate, WellKnown, UploadKeys,
		ControlStatus, ControlBootstrap, ControlRecover, ControlReset, ControlRecoveryKey, ControlDeleteRecoveryKey, ControlUser,
		ControlAcknowledge, ControlWithdraw, ControlOverride, ControlWarnings, ControlDismiss, ControlExportKeys,
		ControlAdminAccounts, ControlAdminAccount, ControlAdminEndSessions, ControlAdminExceptions, ControlAdminWarnings, ControlAdminRollout, ControlDevices, ControlCheckup, ControlImportKeys, ControlRestoreKeys,
		ControlVerifications, ControlVerify, ControlVerification, ControlVerificationQR, ControlVerificationAccept, ControlVerificationEmoji,
		ControlVerificationConfirm, ControlVerificationScan, ControlVerificationScanned, ControlVerificationCancel, ControlVerifyUser,
	} {
		if all[name] == nil {
			t.Errorf("%s has no handler", name)
		}
	}
}
