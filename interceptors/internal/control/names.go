package control

// Names of the handlers that [Handlers] returns, for calls under /_e2ee_proxy/v1/. The route
// table of package proxy refers to them.
const (
	Status              = "control.status"                // GET status
	Bootstrap           = "control.bootstrap"             // POST bootstrap
	Recover             = "control.recover"               // POST recover
	Reset               = "control.reset"                 // POST reset
	RecoveryKey         = "control.recoveryKey"           // GET recovery_key
	DeleteRecoveryKey   = "control.recoveryKey.delete"    // DELETE recovery_key
	User                = "control.user"                  // GET users/{userId}
	Acknowledge         = "control.acknowledge"           // POST users/{userId}/acknowledge
	Withdraw            = "control.withdrawVerification"  // POST users/{userId}/withdraw_verification
	Override            = "control.override"              // PUT users/{userId}/devices/{deviceId}/override
	Warnings            = "control.warnings"              // GET warnings
	Dismiss             = "control.warning.dismiss"       // POST warnings/{warningId}/dismiss
	ExportKeys          = "control.keys.export"           // POST keys/export
	ImportKeys          = "control.keys.import"           // POST keys/import
	RestoreKeys         = "control.keys.restore"          // POST keys/restore
	Verifications       = "control.verifications"         // GET verifications
	Verify              = "control.verifications.request" // POST verifications
	Verification        = "control.verification"          // GET verifications/{flowId}
	VerificationQR      = "control.verification.qr"       // GET verifications/{flowId}/qr
	VerificationAccept  = "control.verification.accept"   // POST verifications/{flowId}/accept
	VerificationEmoji   = "control.verification.emoji"    // POST verifications/{flowId}/emoji
	VerificationConfirm = "control.verification.confirm"  // POST verifications/{flowId}/confirm
	VerificationScan    = "control.verification.scan"     // POST verifications/{flowId}/scan
	VerificationScanned = "control.verification.scanned"  // POST verifications/{flowId}/scanned
	VerificationCancel  = "control.verification.cancel"   // POST verifications/{flowId}/cancel
	VerifyUser          = "control.user.verify"           // POST users/{userId}/verify
	AdminAccounts       = "control.admin.accounts"        // GET admin/accounts
	AdminAccount        = "control.admin.account"         // GET admin/accounts/{userId}
	AdminEndSessions    = "control.admin.endSessions"     // POST admin/accounts/{userId}/end_sessions
	AdminExceptions     = "control.admin.exceptions"      // GET admin/exceptions
	AdminWarnings       = "control.admin.warnings"        // GET admin/warnings
	AdminRollout        = "control.admin.rollout"         // GET admin/rollout
	Checkup             = "control.checkup"               // POST checkup
	Devices             = "control.devices"               // GET devices
	None                = "control.none"                  // refuses what is no call
)
