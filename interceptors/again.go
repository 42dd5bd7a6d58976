package interceptors

import (
	"crypto/rand"
	"net/http"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/internal/exchange"
)

// Requests that may have been done already. A replica that ends in the middle of a request leaves
// it open whether the homeserver got it; another one makes it again ([Exchange.Again]). What would be
// another thing the second time is made so that the homeserver knows it again, by a transaction ID that
// is the same, or is looked for first.

// ownTxn returns the transaction ID of a request whose client gives none: the same one when it is
// made again.
func ownTxn(x *Exchange) string {
	if x.RequestID == "" {
		return rand.Text()
	}
	return "e2ee-proxy." + x.RequestID
}

// once returns what makes a send without a transaction ID one with one, among replicas.
func once(x *Exchange) Change {
	if x.RequestID == "" || x.Request.Method != http.MethodPost || x.Endpoint.Params["txnId"] != "" {
		return Change{}
	}
	return Change{Method: http.MethodPut, Pattern: x.Endpoint.Pattern + "/{txnId}", Params: map[string]string{"txnId": ownTxn(x)}}
}

// forwardOnce is Forward for a send that has perhaps no transaction ID.
func forwardOnce(x *Exchange) error {
	c := once(x)
	if c.Method == "" {
		return x.Upstream.Forward(x)
	}
	resp, err := x.Upstream.Do(x, c)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return x.Upstream.Relay(x, resp)
}

// membershipIs reports whether a change of somebody's membership that may have been done was done.
// An invitation that names no user is looked for in mailonce.go.
func membershipIs(x *Exchange, room id.RoomID, user, want string) (bool, error) {
	if !x.Again || !exchange.ValidUser(user) { // without one the homeserver refuses it
		return false, nil
	}
	raw, status, err := ask(x.Request.Context(), x, Change{
		Pattern: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}",
		Params:  map[string]string{"roomId": room.String(), "eventType": typeMember, "stateKey": user},
		Query:   exchange.IdentityQuery(x.Request.URL.Query()),
	})
	if err != nil || status != http.StatusOK {
		return false, err // the homeserver says why, when it is asked to do it
	}
	content, err := exchange.ParseObject(raw)
	if err != nil {
		return false, nil //nolint:nilerr // as above
	}
	is := content.TextOrEmpty("membership")
	return is == want || want == membershipInvite && is == membershipJoin, nil
}

// successor returns the room that an upgrade that may have been done has made; empty if it has not.
func successor(x *Exchange, old id.RoomID) id.RoomID {
	if !x.Again {
		return ""
	}
	raw, err := readStateAs(x)(x.Request.Context(), old, "m.room.tombstone")
	if err != nil {
		return ""
	}
	content, err := exchange.ParseObject(raw)
	if err != nil || !exchange.ValidRoom(content.TextOrEmpty("replacement_room")) {
		return ""
	}
	return id.RoomID(content.TextOrEmpty("replacement_room"))
}
