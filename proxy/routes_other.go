package proxy

import "e2ee-proxy/interceptors"

// serverRoutes returns the endpoints that belong to no particular room or user.
func serverRoutes() []*route {
	const noSliding = "There is no sliding sync under this name. Use /sync."
	return []*route{
		// Discovery.
		{method: "GET", pattern: "/.well-known/matrix/client", lane: laneQuick, auth: authNone, class: classIntercept, handler: interceptors.WellKnown},
		{method: "GET", pattern: "/.well-known/matrix/support", lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: "/.well-known/matrix/policy_server", lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: "/_matrix/client/versions", lane: laneQuick, auth: authOptional, class: classIntercept, handler: interceptors.Versions},

		// Sync. Sliding sync (MSC4186, by its own name and by that of servers) carries events that
		// would not be decrypted, so clients that the proxy encrypts for are made to use /sync. The
		// other forms of it are no homeserver's.
		{method: "GET", pattern: client + "/sync", versions: vAny, lane: lanePoll, class: classIntercept, handler: interceptors.Sync},
		{method: "POST", pattern: client + "/sync", versions: v4, maxBody: eventBody, bodyUse: bodyPassed, lane: lanePoll, class: classIntercept, handler: interceptors.SlidingSync},
		{method: "POST", pattern: client + "/org.matrix.simplified_msc3575/sync", versions: vUnstable, maxBody: eventBody, bodyUse: bodyPassed, lane: lanePoll, class: classIntercept, handler: interceptors.SlidingSync},
		{method: "POST", pattern: client + "/sync", versions: vAny &^ v4, class: classRefuse, refusalText: noSliding},
		{method: "POST", pattern: client + "/org.matrix.msc3575/sync", versions: vUnstable, class: classRefuse, refusalText: noSliding},
		{method: "GET", pattern: client + "/events", versions: vAny, lane: lanePoll, class: classOptional, handler: interceptors.Events},
		{method: "GET", pattern: client + "/events/{eventId}", versions: vAny, lane: laneQuick, class: classOptional, handler: interceptors.EventsGet},
		{method: "GET", pattern: client + "/initialSync", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.InitialSync},
		{method: "GET", pattern: client + "/notifications", versions: vAny, lane: laneQuick, class: classOptional, handler: interceptors.Notifications},
		{method: "POST", pattern: client + "/search", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classOptional, handler: interceptors.Search},

		// Rooms and people.
		{method: "GET", pattern: client + "/joined_rooms", versions: vAny, lane: laneQuick, class: classOptional, handler: interceptors.JoinedRooms},
		{method: "GET", pattern: client + "/mutual_rooms", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/room_summary/{roomIdOrAlias}", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/publicRooms", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/publicRooms", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/directory/room/{roomAlias}", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/directory/room/{roomAlias}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "DELETE", pattern: client + "/directory/room/{roomAlias}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/directory/list/room/{roomId}", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/directory/list/room/{roomId}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/directory/list/appservice/{networkId}/{roomId}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/user_directory/search", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/appservice/{appserviceId}/ping", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/thirdparty/protocols", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/thirdparty/protocol/{protocol}", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/thirdparty/location", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/thirdparty/location/{protocol}", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/thirdparty/user", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/thirdparty/user/{protocol}", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/voip/turnServer", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},

		// The login page that older clients open in a browser.
		{method: "GET", pattern: "/_matrix/static/client/login/", lane: laneQuick, auth: authNone, class: classPass},
		// Some clients show the server's name and version; nothing else of federation is for clients.
		{method: "GET", pattern: "/_matrix/federation/v1/version", lane: laneQuick, auth: authNone, class: classPass},
	}
}

// mediaRoutes returns the endpoints of files.
func mediaRoutes() []*route {
	const media, authed = "/_matrix/media/{version}", "/_matrix/client/{version}/media"
	return []*route{
		{method: "POST", pattern: media + "/create", versions: vMedia, maxBody: smallBody, lane: laneQuick, class: classIntercept, handler: interceptors.CreateFile},
		{method: "POST", pattern: media + "/upload", versions: vMedia, maxBody: uploadBody, bodyUse: bodyStreamed, lane: laneMedia, class: classIntercept, handler: interceptors.UploadFile},
		{method: "PUT", pattern: media + "/upload/{serverName}/{mediaId}", versions: vMedia, maxBody: uploadBody, bodyUse: bodyStreamed, lane: laneMedia, class: classIntercept, handler: interceptors.UploadFile},
		{method: "GET", pattern: media + "/config", versions: vMedia, lane: laneQuick, auth: authNone, class: classIntercept, handler: interceptors.MediaConfig},
		{method: "GET", pattern: media + "/download/{serverName}/{mediaId}", versions: vMedia, lane: laneMedia, auth: authOptional, class: classIntercept, handler: interceptors.DownloadFile},
		{method: "GET", pattern: media + "/download/{serverName}/{mediaId}/{fileName}", versions: vMedia, lane: laneMedia, auth: authOptional, class: classIntercept, handler: interceptors.DownloadFile},
		{method: "GET", pattern: media + "/thumbnail/{serverName}/{mediaId}", versions: vMedia, lane: laneMedia, auth: authOptional, class: classIntercept, handler: interceptors.ThumbnailFile},
		{method: "GET", pattern: media + "/preview_url", versions: vMedia, lane: laneMedia, class: classIntercept, handler: interceptors.PreviewURL},
		{method: "GET", pattern: authed + "/config", versions: vAny, lane: laneQuick, auth: authNone, class: classIntercept, handler: interceptors.MediaConfig},
		{method: "GET", pattern: authed + "/download/{serverName}/{mediaId}", versions: vAny, lane: laneMedia, auth: authOptional, class: classIntercept, handler: interceptors.DownloadFile},
		{method: "GET", pattern: authed + "/download/{serverName}/{mediaId}/{fileName}", versions: vAny, lane: laneMedia, auth: authOptional, class: classIntercept, handler: interceptors.DownloadFile},
		{method: "GET", pattern: authed + "/thumbnail/{serverName}/{mediaId}", versions: vAny, lane: laneMedia, auth: authOptional, class: classIntercept, handler: interceptors.ThumbnailFile},
		{method: "GET", pattern: authed + "/preview_url", versions: vAny, lane: laneMedia, class: classIntercept, handler: interceptors.PreviewURL},
	}
}

// controlRoutes returns the proxy's own endpoints.
func controlRoutes() []*route {
	const own = "/_e2ee_proxy/v1"
	return []*route{
		{method: "GET", pattern: own + "/status", lane: laneOwn, class: classOwn, handler: interceptors.ControlStatus},
		{method: "POST", pattern: own + "/checkup", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlCheckup},
		{method: "POST", pattern: own + "/bootstrap", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlBootstrap},
		{method: "POST", pattern: own + "/recover", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlRecover},
		{method: "POST", pattern: own + "/reset", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlReset},
		{method: "GET", pattern: own + "/recovery_key", lane: laneOwn, class: classOwn, handler: interceptors.ControlRecoveryKey},
		{method: "DELETE", pattern: own + "/recovery_key", lane: laneOwn, class: classOwn, handler: interceptors.ControlDeleteRecoveryKey},
		{method: "GET", pattern: own + "/users/{userId}", lane: laneOwn, class: classOwn, handler: interceptors.ControlUser},
		{method: "POST", pattern: own + "/users/{userId}/acknowledge", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlAcknowledge},
		{method: "POST", pattern: own + "/users/{userId}/withdraw_verification", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlWithdraw},
		{method: "PUT", pattern: own + "/users/{userId}/devices/{deviceId}/override", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlOverride},
		{method: "GET", pattern: own + "/warnings", lane: laneOwn, class: classOwn, handler: interceptors.ControlWarnings},
		{method: "POST", pattern: own + "/warnings/{warningId}/dismiss", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlDismiss},
		{method: "POST", pattern: own + "/keys/export", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlExportKeys},
		{method: "POST", pattern: own + "/keys/import", maxBody: importBody, bodyUse: bodySpooled, lane: laneOwn, class: classOwn, handler: interceptors.ControlImportKeys},
		{method: "POST", pattern: own + "/keys/restore", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlRestoreKeys},
		{method: "GET", pattern: own + "/devices", lane: laneOwn, class: classOwn, handler: interceptors.ControlDevices},
		{method: "GET", pattern: own + "/verifications", lane: laneOwn, class: classOwn, handler: interceptors.ControlVerifications},
		{method: "POST", pattern: own + "/verifications", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlVerify},
		{method: "GET", pattern: own + "/verifications/{flowId}", lane: lanePoll, class: classOwn, handler: interceptors.ControlVerification},
		{method: "GET", pattern: own + "/verifications/{flowId}/qr", lane: laneOwn, class: classOwn, handler: interceptors.ControlVerificationQR},
		{method: "POST", pattern: own + "/verifications/{flowId}/accept", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlVerificationAccept},
		{method: "POST", pattern: own + "/verifications/{flowId}/emoji", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlVerificationEmoji},
		{method: "POST", pattern: own + "/verifications/{flowId}/confirm", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlVerificationConfirm},
		{method: "POST", pattern: own + "/verifications/{flowId}/scan", maxBody: pictureBody, bodyUse: bodyEdited, lane: laneOwn, class: classOwn, handler: interceptors.ControlVerificationScan},
		{method: "POST", pattern: own + "/verifications/{flowId}/scanned", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlVerificationScanned},
		{method: "POST", pattern: own + "/verifications/{flowId}/cancel", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlVerificationCancel},
		{method: "POST", pattern: own + "/users/{userId}/verify", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlVerifyUser},
		{method: "GET", pattern: own + "/admin/accounts", lane: laneOwn, class: classOwn, handler: interceptors.ControlAdminAccounts},
		{method: "GET", pattern: own + "/admin/accounts/{userId}", lane: laneOwn, class: classOwn, handler: interceptors.ControlAdminAccount},
		{method: "POST", pattern: own + "/admin/accounts/{userId}/end_sessions", maxBody: smallBody, lane: laneOwn, class: classOwn, handler: interceptors.ControlAdminEndSessions},
		{method: "GET", pattern: own + "/admin/exceptions", lane: laneOwn, class: classOwn, handler: interceptors.ControlAdminExceptions},
		{method: "GET", pattern: own + "/admin/warnings", lane: laneOwn, class: classOwn, handler: interceptors.ControlAdminWarnings},
		{method: "GET", pattern: own + "/admin/rollout", lane: laneOwn, class: classOwn, handler: interceptors.ControlAdminRollout},
	}
}

// allRoutes returns the whole table.
func allRoutes() []*route {
	var all []*route
	for _, part := range [][]*route{
		eventRoutes(), membershipRoutes(), readRoutes(), roomRoutes(), bulkRoutes(), sessionRoutes(), accountRoutes(),
		deviceRoutes(), keyRoutes(), userRoutes(), pushRoutes(), serverRoutes(), mediaRoutes(), controlRoutes(), consoleRoutes(),
	} {
		all = append(all, part...)
	}
	return all
}
