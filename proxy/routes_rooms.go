package proxy

import "e2ee-proxy/interceptors"

// A write into a room that is not a row of this file is refused.

const rooms = "/_matrix/client/{version}/rooms/{roomId}"

// eventRoutes returns the endpoints that put events into a room.
func eventRoutes() []*route {
	return []*route{
		// Synapse and Dendrite also take POST without a transaction ID, and PUT with one where
		// the spec has POST only.
		{method: "PUT", pattern: rooms + "/send/{eventType}/{txnId}", versions: vAny, maxBody: eventBody, lane: laneSend, class: classIntercept, handler: interceptors.Send},
		{method: "POST", pattern: rooms + "/send/{eventType}", versions: vAny, maxBody: eventBody, lane: laneSend, class: classIntercept, handler: interceptors.Send},
		{method: "PUT", pattern: rooms + "/state/{eventType}", versions: vAny, maxBody: eventBody, lane: laneSend, class: classIntercept, handler: interceptors.PutState},
		{method: "PUT", pattern: rooms + "/state/{eventType}/{stateKey}", versions: vAny, maxBody: eventBody, lane: laneSend, class: classIntercept, handler: interceptors.PutState},
		{method: "PUT", pattern: rooms + "/redact/{eventId}/{txnId}", versions: vAny, maxBody: eventBody, lane: laneSend, class: classIntercept, handler: interceptors.Redact},
		{method: "POST", pattern: rooms + "/redact/{eventId}", versions: vAny, maxBody: eventBody, lane: laneSend, class: classIntercept, handler: interceptors.Redact},
	}
}

// membershipRoutes returns the endpoints that make, enter and leave rooms.
func membershipRoutes() []*route {
	return []*route{
		{method: "POST", pattern: rooms + "/invite", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Invite},
		{method: "PUT", pattern: rooms + "/invite/{txnId}", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Invite},
		{method: "POST", pattern: rooms + "/join", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Join},
		{method: "PUT", pattern: rooms + "/join/{txnId}", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Join},
		{method: "POST", pattern: rooms + "/leave", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Leave},
		{method: "PUT", pattern: rooms + "/leave/{txnId}", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Leave},
		{method: "POST", pattern: rooms + "/kick", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Kick},
		{method: "PUT", pattern: rooms + "/kick/{txnId}", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Kick},
		{method: "POST", pattern: rooms + "/ban", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Ban},
		{method: "PUT", pattern: rooms + "/ban/{txnId}", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Ban},
		{method: "POST", pattern: rooms + "/unban", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Unban},
		{method: "PUT", pattern: rooms + "/unban/{txnId}", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Unban},
		{method: "POST", pattern: rooms + "/forget", versions: vAny, maxBody: eventBody, lane: laneQuick, class: classIntercept, handler: interceptors.Forget},
		{method: "PUT", pattern: rooms + "/forget/{txnId}", versions: vAny, maxBody: eventBody, lane: laneQuick, class: classIntercept, handler: interceptors.Forget},
		{method: "POST", pattern: "/_matrix/client/{version}/join/{roomIdOrAlias}", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.JoinByAlias},
		{method: "PUT", pattern: "/_matrix/client/{version}/join/{roomIdOrAlias}/{txnId}", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.JoinByAlias},
		{method: "POST", pattern: "/_matrix/client/{version}/knock/{roomIdOrAlias}", versions: vAny, maxBody: eventBody, lane: laneSlow, class: classIntercept, handler: interceptors.Knock},
		{method: "POST", pattern: "/_matrix/client/{version}/createRoom", versions: vAny, maxBody: roomBody, lane: laneSlow, class: classIntercept, handler: interceptors.CreateRoom},
		{method: "PUT", pattern: "/_matrix/client/{version}/createRoom/{txnId}", versions: vAny, maxBody: roomBody, lane: laneSlow, class: classIntercept, handler: interceptors.CreateRoom},
	}
}

// readRoutes returns the endpoints that return events (requirement 19.10).
func readRoutes() []*route {
	return []*route{
		{method: "GET", pattern: rooms + "/messages", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.Messages},
		{method: "GET", pattern: rooms + "/context/{eventId}", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.EventContext},
		{method: "GET", pattern: rooms + "/event/{eventId}", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.GetEvent},
		{method: "GET", pattern: rooms + "/relations/{eventId}", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.Relations},
		{method: "GET", pattern: rooms + "/relations/{eventId}/{relType}", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.Relations},
		{method: "GET", pattern: rooms + "/relations/{eventId}/{relType}/{eventType}", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.Relations},
		{method: "GET", pattern: rooms + "/threads", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.Threads},
		{method: "GET", pattern: rooms + "/initialSync", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.RoomInitialSync},
		{method: "GET", pattern: rooms + "/members", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.Members},
		{method: "GET", pattern: rooms + "/hierarchy", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.Hierarchy},
		{method: "GET", pattern: rooms + "/state", versions: vAny, lane: laneSlow, class: classOptional, handler: interceptors.StateList},
		{method: "GET", pattern: rooms + "/state/{eventType}", versions: vAny, lane: laneQuick, class: classOptional, handler: interceptors.StateGet},
		{method: "GET", pattern: rooms + "/state/{eventType}/{stateKey}", versions: vAny, lane: laneQuick, class: classOptional, handler: interceptors.StateGet},
	}
}

// roomRoutes returns the endpoints without content of messages.
func roomRoutes() []*route {
	return []*route{
		{method: "GET", pattern: rooms + "/joined_members", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: rooms + "/aliases", versions: vAny, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: rooms + "/timestamp_to_event", versions: vAny, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: rooms + "/read_markers", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authOptional, class: classOptional, handler: interceptors.ReadMarkers},
		{method: "POST", pattern: rooms + "/receipt/{receiptType}/{eventId}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: rooms + "/typing/{userId}", versions: vAny, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: rooms + "/report", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: rooms + "/report/{eventId}", versions: vAny, maxBody: smallBody, lane: laneSlow, auth: authNone, class: classPass},
		{method: "POST", pattern: rooms + "/upgrade", versions: vAny, maxBody: smallBody, lane: laneSlow, class: classIntercept, handler: interceptors.Upgrade},

		// Not merged into the spec, but used by clients.
		{method: "GET", pattern: "/_matrix/client/{version}/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription", versions: vUnstable, lane: laneQuick, auth: authNone, class: classPass},
		{method: "PUT", pattern: "/_matrix/client/{version}/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription", versions: vUnstable, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "DELETE", pattern: "/_matrix/client/{version}/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription", versions: vUnstable, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: "/_matrix/client/{version}/im.nheko.summary/rooms/{roomIdOrAlias}/summary", versions: vUnstable, lane: laneSlow, auth: authNone, class: classPass},

		// Delayed events (MSC4140): their content came by send or state with
		// ?org.matrix.msc4140.delay, so it has been through that interceptor.
		{method: "GET", pattern: "/_matrix/client/{version}/org.matrix.msc4140/delayed_events", versions: vUnstable, lane: laneQuick, auth: authNone, class: classPass},
		{method: "GET", pattern: "/_matrix/client/{version}/org.matrix.msc4140/delayed_events/{delayId}", versions: vUnstable, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: "/_matrix/client/{version}/org.matrix.msc4140/delayed_events/{delayId}", versions: vUnstable, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
		{method: "POST", pattern: "/_matrix/client/{version}/org.matrix.msc4140/delayed_events/{delayId}/{action}", versions: vUnstable, maxBody: smallBody, lane: laneQuick, auth: authNone, class: classPass},
	}
}

// bulkRoutes returns the endpoints that put events into a room in bulk, in clear.
func bulkRoutes() []*route {
	return []*route{
		{method: "POST", pattern: rooms + "/batch_send", versions: vAny, class: classRefuse, refusalText: "Sending events in batches is not possible through this proxy."},
		{method: "POST", pattern: "/_matrix/client/{version}/org.matrix.msc2716/rooms/{roomId}/batch_send", versions: vUnstable, class: classRefuse, refusalText: "Sending events in batches is not possible through this proxy."},
		{method: "POST", pattern: "/_matrix/client/{version}/com.beeper.backfill/rooms/{roomId}/batch_send", versions: vUnstable, class: classRefuse, refusalText: "Sending events in batches is not possible through this proxy."},
		{method: "POST", pattern: rooms + "/import", versions: vAny, class: classRefuse, refusalText: "Importing events is not possible through this proxy."},
	}
}
