package proxy

import "e2ee-proxy/interceptors"

const client = "/_matrix/client/{version}"

// sessionRoutes returns the endpoints that begin and end sessions.
func sessionRoutes() []*route {
	return []*route{
		{method: "GET", pattern: client + "/login", versions: vAny, lane: laneQuick, auth: authNone, class: classOptional, handler: "login.flows"},
		{method: "POST", pattern: client + "/login", versions: vAny, maxBody: sessionBody, lane: laneAuth, auth: authNone, class: classIntercept, handler: interceptors.Login, bodyAuth: true},
		{method: "POST", pattern: client + "/register", versions: vAny, maxBody: sessionBody, lane: laneAuth, auth: authNone, class: classIntercept, handler: interceptors.Register, bodyAuth: true},
		{method: "POST", pattern: client + "/refresh", versions: vAny, maxBody: sessionBody, lane: laneAuth, auth: authNone, class: classIntercept, handler: interceptors.Refresh, bodyAuth: true},
		{method: "POST", pattern: client + "/logout", versions: vAny, maxBody: smallBody, lane: laneAuth, auth: authOptional, class: classIntercept, handler: interceptors.Logout, endsSessions: true},
		{method: "POST", pattern: client + "/logout/all", versions: vAny, maxBody: smallBody, lane: laneAuth, auth: authOptional, class: classIntercept, handler: interceptors.LogoutAll, endsSessions: true},
		{method: "GET", pattern: client + "/login/sso/redirect", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/login/sso/redirect/{idpId}", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/login/cas/redirect", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/login/cas/ticket", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/login/get_token", versions: vAny, maxBody: smallBody, lane: laneAuth, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/org.matrix.msc3882/login/get_token", versions: vUnstable, maxBody: smallBody, lane: laneAuth, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/auth/{authType}/fallback/web", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/auth/{authType}/fallback/web", versions: vAny, maxBody: smallBody, lane: laneAuth, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/register/available", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/register/m.login.registration_token/validity", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/register/email/requestToken", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/register/msisdn/requestToken", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
	}
}

// accountRoutes returns the endpoints about an account.
func accountRoutes() []*route {
	return []*route{
		{method: "GET", pattern: client + "/account/whoami", versions: vAny, lane: laneQuick, class: classOptional, handler: "whoami"},
		{method: "POST", pattern: client + "/account/password", versions: vAny, maxBody: smallBody, lane: laneAuth, auth: authOptional, class: classIntercept, handler: interceptors.Password, endsSessions: true},
		{method: "POST", pattern: client + "/account/deactivate", versions: vAny, maxBody: smallBody, lane: laneAuth, auth: authOptional, class: classIntercept, handler: interceptors.Deactivate, endsSessions: true},
		{method: "POST", pattern: client + "/account/password/email/requestToken", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/account/password/msisdn/requestToken", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/account/3pid", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/account/3pid", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/account/3pid/add", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/account/3pid/bind", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/account/3pid/delete", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/account/3pid/unbind", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/account/3pid/email/requestToken", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/account/3pid/msisdn/requestToken", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/capabilities", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/auth_metadata", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/admin/whois/{userId}", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/admin/lock/{userId}", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/admin/lock/{userId}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/admin/suspend/{userId}", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/admin/suspend/{userId}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
	}
}

// deviceRoutes returns the endpoints about the devices of an account.
func deviceRoutes() []*route {
	return []*route{
		{method: "GET", pattern: client + "/devices", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/devices/{deviceId}", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/devices/{deviceId}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "DELETE", pattern: client + "/devices/{deviceId}", versions: vAny, maxBody: smallBody, lane: laneAuth, class: classIntercept, handler: interceptors.DeleteDevice, endsSessions: true},
		{method: "POST", pattern: client + "/delete_devices", versions: vAny, maxBody: eventBody, lane: laneAuth, class: classIntercept, handler: interceptors.DeleteDevices, endsSessions: true},
	}
}

// keyRoutes returns the endpoints about keys and their backup.
func keyRoutes() []*route {
	return []*route{
		{method: "POST", pattern: client + "/keys/upload", versions: vAny, maxBody: eventBody, lane: laneQuick, class: classIntercept, handler: interceptors.UploadKeys},
		{method: "POST", pattern: client + "/keys/upload/{deviceId}", versions: vAny, maxBody: eventBody, lane: laneQuick, class: classIntercept, handler: interceptors.UploadKeys},
		{method: "POST", pattern: client + "/keys/query", versions: vAny, maxBody: largeBody, bodyUse: bodyEdited, lane: laneSlow, class: classIntercept, handler: interceptors.QueryKeys},
		{method: "POST", pattern: client + "/keys/claim", versions: vAny, maxBody: largeBody, bodyUse: bodyEdited, lane: laneSlow, class: classIntercept, handler: interceptors.ClaimKeys},
		{method: "PUT", pattern: client + "/sendToDevice/{eventType}/{txnId}", versions: vAny, maxBody: largeBody, bodyUse: bodyEdited, lane: laneSend, class: classIntercept, handler: interceptors.SendToDevice},
		{method: "GET", pattern: client + "/keys/changes", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/keys/device_signing/upload", versions: vAny, maxBody: eventBody, lane: laneAuth, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/keys/signatures/upload", versions: vAny, maxBody: largeBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/room_keys/version", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/room_keys/version", versions: vAny, maxBody: eventBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/room_keys/version/{backupVersion}", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/room_keys/version/{backupVersion}", versions: vAny, maxBody: eventBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "DELETE", pattern: client + "/room_keys/version/{backupVersion}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/room_keys/keys", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/room_keys/keys", versions: vAny, maxBody: largeBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "DELETE", pattern: client + "/room_keys/keys", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/room_keys/keys/{roomId}", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/room_keys/keys/{roomId}", versions: vAny, maxBody: largeBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "DELETE", pattern: client + "/room_keys/keys/{roomId}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/room_keys/keys/{roomId}/{sessionId}", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/room_keys/keys/{roomId}/{sessionId}", versions: vAny, maxBody: eventBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "DELETE", pattern: client + "/room_keys/keys/{roomId}/{sessionId}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
	}
}

// userRoutes returns the endpoints about what belongs to a user.
func userRoutes() []*route {
	return []*route{
		{method: "POST", pattern: client + "/user/{userId}/filter", versions: vAny, maxBody: smallBody, lane: laneQuick, class: classPass},
		{method: "GET", pattern: client + "/user/{userId}/filter/{filterId}", versions: vAny, lane: laneQuick, class: classPass},
		{method: "GET", pattern: client + "/user/{userId}/account_data/{type}", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/user/{userId}/account_data/{type}", versions: vAny, maxBody: largeBody, bodyUse: bodyPeeked, lane: laneQuick, class: classIntercept, handler: interceptors.PutAccountData},
		{method: "GET", pattern: client + "/user/{userId}/rooms/{roomId}/account_data/{type}", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/user/{userId}/rooms/{roomId}/account_data/{type}", versions: vAny, maxBody: largeBody, bodyUse: bodyPeeked, lane: laneQuick, class: classIntercept, handler: interceptors.PutAccountData},
		{method: "DELETE", pattern: client + "/org.matrix.msc3391/user/{userId}/account_data/{type}", versions: vUnstable, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "DELETE", pattern: client + "/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}", versions: vUnstable, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/user/{userId}/rooms/{roomId}/tags", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/user/{userId}/rooms/{roomId}/tags/{tag}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "DELETE", pattern: client + "/user/{userId}/rooms/{roomId}/tags/{tag}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/user/{userId}/openid/request_token", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/profile/{userId}", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/profile/{userId}/{keyName}", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/profile/{userId}/{keyName}", versions: vAny, maxBody: eventBody, bodyUse: bodyPeeked, lane: laneSlow, class: classIntercept, handler: interceptors.PutProfile},
		{method: "DELETE", pattern: client + "/profile/{userId}/{keyName}", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/presence/{userId}/status", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/presence/{userId}/status", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/users/{userId}/report", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
	}
}

// pushRoutes returns the endpoints about notifications.
func pushRoutes() []*route {
	return []*route{
		{method: "GET", pattern: client + "/pushers", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: client + "/pushers/set", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/pushrules", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/pushrules/", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/pushrules/global", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/pushrules/global/", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/pushrules/global/{kind}/", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/pushrules/global/{kind}/{ruleId}", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/pushrules/global/{kind}/{ruleId}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "DELETE", pattern: client + "/pushrules/global/{kind}/{ruleId}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/pushrules/global/{kind}/{ruleId}/actions", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/pushrules/global/{kind}/{ruleId}/actions", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: client + "/pushrules/global/{kind}/{ruleId}/enabled", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: client + "/pushrules/global/{kind}/{ruleId}/enabled", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
	}
}
