package interceptors

import (
	"context"
	"fmt"
	"maps"
	"net/url"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/internal/control"
	"e2ee-proxy/interceptors/internal/controlroom"
	"e2ee-proxy/interceptors/internal/media"
	"e2ee-proxy/interceptors/internal/native"
	"e2ee-proxy/internal/rediscache"
)

// Names of the handlers that [Handlers] returns. The route table of package proxy refers to
// them.
const (
	Send          = "send"           // PUT and POST rooms/{roomId}/send/{eventType}[/{txnId}]
	Redact        = "redact"         // PUT and POST rooms/{roomId}/redact/{eventId}[/{txnId}]
	PutState      = "state.put"      // PUT rooms/{roomId}/state/{eventType}[/{stateKey}]
	StateList     = "state.list"     // GET rooms/{roomId}/state
	StateGet      = "state.get"      // GET rooms/{roomId}/state/{eventType}[/{stateKey}]
	CreateRoom    = "createRoom"     // POST createRoom
	Upgrade       = "upgrade"        // POST rooms/{roomId}/upgrade
	Invite        = "invite"         // POST rooms/{roomId}/invite
	Kick          = "kick"           // POST rooms/{roomId}/kick
	Ban           = "ban"            // POST rooms/{roomId}/ban
	Unban         = "unban"          // POST rooms/{roomId}/unban
	Join          = "join"           // POST rooms/{roomId}/join
	JoinByAlias   = "joinByAlias"    // POST join/{roomIdOrAlias}
	JoinedRooms   = "joinedRooms"    // GET joined_rooms
	OwnNames      = "ownNames"       // whatever names a notice, a control room, or who speaks there
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
	Sync          = "sync"           // GET sync
	SlidingSync   = "slidingSync"    // POST v4/sync, org.matrix.simplified_msc3575/sync
	Versions      = "versions"       // GET /_matrix/client/versions
	ReadMarkers   = "readMarkers"    // POST rooms/{roomId}/read_markers
	UploadKeys    = "keys.upload"    // POST keys/upload[/{deviceId}]
	QueryKeys     = "keys.query"     // POST keys/query
	ClaimKeys     = "keys.claim"     // POST keys/claim
	SendToDevice  = "sendToDevice"   // PUT sendToDevice/{eventType}/{txnId}
	Search        = "search"         // POST search
	PreviewURL    = "previewURL"     // GET media/preview_url
	MediaConfig   = "mediaConfig"    // GET media/config

	PutProfile     = "profile.put"     // PUT profile/{userId}/{keyName}
	PutAccountData = "accountData.put" // PUT user/{userId}/[rooms/{roomId}/]account_data/{type}
	UploadFile     = "media.upload"    // POST upload, PUT upload/{serverName}/{mediaId}
	CreateFile     = "media.create"    // POST create
	DownloadFile   = "media.download"  // GET download/{serverName}/{mediaId}[/{fileName}]
	ThumbnailFile  = "media.thumbnail" // GET thumbnail/{serverName}/{mediaId}

	// The pages of the console, which are not of this package: see package console.
	Console = "console"

	// The control API, under /_e2ee_proxy/v1/: see package control.
	ControlStatus              = control.Status
	ControlBootstrap           = control.Bootstrap
	ControlRecover             = control.Recover
	ControlReset               = control.Reset
	ControlRecoveryKey         = control.RecoveryKey
	ControlDeleteRecoveryKey   = control.DeleteRecoveryKey
	ControlUser                = control.User
	ControlAcknowledge         = control.Acknowledge
	ControlWithdraw            = control.Withdraw
	ControlOverride            = control.Override
	ControlWarnings            = control.Warnings
	ControlDismiss             = control.Dismiss
	ControlExportKeys          = control.ExportKeys
	ControlImportKeys          = control.ImportKeys
	ControlRestoreKeys         = control.RestoreKeys
	ControlVerifications       = control.Verifications
	ControlVerify              = control.Verify
	ControlVerification        = control.Verification
	ControlVerificationQR      = control.VerificationQR
	ControlVerificationAccept  = control.VerificationAccept
	ControlVerificationEmoji   = control.VerificationEmoji
	ControlVerificationConfirm = control.VerificationConfirm
	ControlVerificationScan    = control.VerificationScan
	ControlVerificationScanned = control.VerificationScanned
	ControlVerificationCancel  = control.VerificationCancel
	ControlVerifyUser          = control.VerifyUser
	ControlAdminAccounts       = control.AdminAccounts
	ControlAdminAccount        = control.AdminAccount
	ControlAdminEndSessions    = control.AdminEndSessions
	ControlAdminExceptions     = control.AdminExceptions
	ControlAdminWarnings       = control.AdminWarnings
	ControlCheckup             = control.Checkup
	ControlDevices             = control.Devices
	ControlAdminRollout        = control.AdminRollout
	ControlNone                = control.None
)

// Options configures the handlers.
type Options struct {
	// PublicURL is the URL at which clients reach the proxy; nil leaves discovery data as it
	// comes.
	PublicURL *url.URL
	// NativeClearText lets devices that have keys of their own send in clear to encrypted
	// rooms (policy.native_clear_text: pass).
	NativeClearText bool
	// URLPreviews passes requests for previews of web pages on (media.url_previews: pass).
	URLPreviews bool
	// MaxUpload is the largest upload that the proxy takes, in bytes; zero: not known here.
	MaxUpload int64
	// Files keeps files that were checked; nil: each request fetches its file anew.
	Files *KeptFiles
	// Sync are the settings of the sync handler, and of others that return events.
	Sync SyncOptions
	// HideNotices reports for which users the proxy's messages are kept out of what clients
	// show people (clients.hide_warnings, accounts.USER.notices); nil: for nobody.
	HideNotices func(id.UserID) bool
	// Administration is what administrators see, and Administrators says who they are now; nil:
	// nobody.
	Administration control.Administration
	Administrators func() []id.UserID
	// ControlWork runs what takes long in control rooms; nil: nothing does.
	ControlWork *ControlWork
	// Limits are those of every way to control a device; nil: the handlers have limits of their own.
	Limits *Limits
	// EndConsoleSessions ends the sessions of a user at the console, which no device of theirs is; nil:
	// there is no console.
	EndConsoleSessions func(ctx context.Context, user id.UserID) error
}

// Limits are how often a user may try what somebody might guess or break. Every way to control a
// device counts by the same ones, so that a process makes them once, with [NewLimits].
type Limits = control.Limits

// NewLimits returns limits of which nothing was used. Replicas count together in a Redis, shared;
// nil is none.
func NewLimits(shared *rediscache.Cache) (*Limits, error) { return control.NewLimits(shared) }

// ControlWork is what takes long in control rooms. Whoever makes it with [NewControlWork]
// closes it, when the handlers have ended.
type ControlWork = controlroom.Work

// NewControlWork returns what runs nothing yet.
func NewControlWork() *ControlWork { return controlroom.NewWork() }

// KeptFiles are files that were fetched and checked, for a few minutes. They have no part of a
// key. Whoever makes one with [NewKeptFiles] closes it, when the handlers have ended.
type KeptFiles = media.Kept

// NewKeptFiles returns what keeps nothing yet.
func NewKeptFiles() *KeptFiles { return media.NewKept() }

// Handlers returns the handlers of this package by name. They share state between requests,
// so that a process calls this once.
func Handlers(o Options) (map[string]Handler, error) {
	o.Sync = o.Sync.withSpools() // shared by all handlers
	refresh, err := newRefreshTokens()
	if err != nil {
		return nil, fmt.Errorf("make the handlers: %w", err)
	}
	if o.Limits == nil {
		if o.Limits, err = NewLimits(nil); err != nil {
			return nil, fmt.Errorf("make the handlers: %w", err)
		}
	}
	api := control.Handlers(o.Sync.spools, o.Limits, o.Administration, o.Administrators)
	sync, err := NewSync(o.Sync)
	if err != nil {
		return nil, fmt.Errorf("make the handlers: %w", err)
	}
	reader, err := newReader(o.Sync)
	if err != nil {
		return nil, fmt.Errorf("make the handlers: %w", err)
	}
	all := map[string]Handler{Sync: sync, ReadMarkers: readMarkers, Versions: versions, SlidingSync: slidingSync}
	all[PreviewURL], all[MediaConfig] = previewURL(o.URLPreviews), mediaConfig(o.MaxUpload)
	maps.Copy(all, reader.handlers())
	files, err := media.New(o.Sync.spools, o.MaxUpload, o.Files)
	if err != nil {
		return nil, fmt.Errorf("make the handlers: %w", err)
	}
	talks, err := controlroom.New(controlroom.Options{Limits: o.Limits, Work: o.ControlWork, Open: openUploaded(files)})
	if err != nil {
		return nil, fmt.Errorf("make the handlers: %w", err)
	}
	all[OwnNames], all[JoinedRooms] = ownNames(talks), listJoined
	named := &attachments{files, o.Sync.spools}
	maps.Copy(all, map[string]Handler{
		UploadFile: files.Upload, CreateFile: files.Create, DownloadFile: files.Download, ThumbnailFile: files.Thumbnail,
		PutProfile: named.ofBody, PutAccountData: named.ofBody,
	})
	own := native.New()
	maps.Copy(all, map[string]Handler{QueryKeys: own.Query, ClaimKeys: own.Claim, SendToDevice: own.SendToDevice})
	writes := &rooms{order: newRoomOrder(), files: named, nativeClearText: o.NativeClearText}
	maps.Copy(all, writes.handlers())
	all[Search] = (&searches{writes, o.Sync.KeyWait, o.HideNotices, o.Sync.spools}).narrow(all[Search])
	maps.Copy(all, (&sessions{o.PublicURL, refresh, o.EndConsoleSessions}).handlers())
	maps.Copy(all, api)
	return all, nil
}

func (r *rooms) handlers() map[string]Handler {
	return map[string]Handler{
		Send:        r.send,
		Redact:      r.redact,
		PutState:    r.putState,
		CreateRoom:  r.createRoom,
		Upgrade:     r.upgrade,
		Invite:      r.membershipOfOther(membershipInvite),
		Kick:        r.membershipOfOther(membershipLeave),
		Ban:         r.membershipOfOther(membershipBan),
		Unban:       r.membershipOfOther(membershipLeave),
		Join:        r.membershipOfSelf(membershipJoin),
		JoinByAlias: r.membershipOfSelf(membershipJoin),
		Knock:       r.membershipOfSelf(membershipKnock),
		Leave:       r.membershipOfSelf(membershipLeave),
		Forget:      r.membershipOfSelf(membershipLeave),
	}
}

func (s *sessions) handlers() map[string]Handler {
	return map[string]Handler{
		Login:         s.login,
		Register:      s.register,
		Refresh:       s.refreshToken,
		Logout:        logout,
		LogoutAll:     s.logoutAll,
		DeleteDevice:  deleteDevice,
		DeleteDevices: deleteDevices,
		Password:      s.changePassword,
		Deactivate:    s.deactivate,
		WellKnown:     s.wellKnown,
		UploadKeys:    uploadKeys,
	}
}
