package interceptors

import "net/url"

// Names under which [Handlers] gives the handlers of this package's families. The
// route table of package proxy refers to them.
const (
	Send          = "send"           // PUT and POST rooms/{roomId}/send/{eventType}[/{txnId}]
	Redact        = "redact"         // PUT and POST rooms/{roomId}/redact/{eventId}[/{txnId}]
	PutState      = "state.put"      // PUT rooms/{roomId}/state/{eventType}[/{stateKey}]
	CreateRoom    = "createRoom"     // POST createRoom
	Invite        = "invite"         // POST rooms/{roomId}/invite
	Kick          = "kick"           // POST rooms/{roomId}/kick
	Ban           = "ban"            // POST rooms/{roomId}/ban
	Unban         = "unban"          // POST rooms/{roomId}/unban
	Join          = "join"           // POST rooms/{roomId}/join
	JoinByAlias   = "joinByAlias"    // POST join/{roomIdOrAlias}
	Knock         = "knock"          // POST knock/{roomIdOrAlias}
	Leave         = "leave"          // POST rooms/{roomId}/leave
	Forget        = "forget"         // POST rooms/{roomId}/forget
	Login         = "login"          // POST login
	Register      = "register"       // POST register
	Refresh       = "refresh"        // POST refresh
	Logout        = "logout"         // POST logout
	LogoutAll     = "logout.all"     // POST logout/all
	DeleteDevice  = "device.delete"  // DELETE devices/{deviceId}
	DeleteDevices = "devices.delete" // POST delete_devices
	Password      = "password"       // POST account/password
	Deactivate    = "deactivate"     // POST account/deactivate
	WellKnown     = "wellKnown"      // GET /.well-known/matrix/client
	UploadKeys    = "keys.upload"    // POST keys/upload[/{deviceId}]

	// The control API, under /_e2ee_proxy/v1/.
	ControlStatus            = "control.status"               // GET status
	ControlBootstrap         = "control.bootstrap"            // POST bootstrap
	ControlRecover           = "control.recover"              // POST recover
	ControlReset             = "control.reset"                // POST reset
	ControlRecoveryKey       = "control.recoveryKey"          // GET recovery_key
	ControlDeleteRecoveryKey = "control.recoveryKey.delete"   // DELETE recovery_key
	ControlUser              = "control.user"                 // GET users/{userId}
	ControlAcknowledge       = "control.acknowledge"          // POST users/{userId}/acknowledge
	ControlWithdraw          = "control.withdrawVerification" // POST users/{userId}/withdraw_verification
	ControlOverride          = "control.override"             // PUT users/{userId}/devices/{deviceId}/override
	ControlWarnings          = "control.warnings"             // GET warnings
	ControlDismiss           = "control.warning.dismiss"      // POST warnings/{warningId}/dismiss
)

// Options are what the handlers need beside an [Exchange].
type Options struct {
	// PublicURL is where clients reach the proxy; nil leaves discovery data as it comes.
	PublicURL *url.URL
}
