package interceptors

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
)

// Requests of a handler about a room's state, besides the client's own request. They are
// made in the client's name, with the user of its query: the token may be an application
// service's that acts for one of its users.

// readStateAs returns the [e2ee.StateReader] of the user of x.
func readStateAs(x *Exchange) e2ee.StateReader {
	return func(ctx context.Context, room id.RoomID, eventType string) (json.RawMessage, error) {
		resp, err := doState(ctx, x, http.MethodGet, room, eventType, nil)
		if err != nil {
			return nil, err
		}
		defer func() { _ = resp.Body.Close() }()
		switch resp.StatusCode {
		case http.StatusOK:
			raw := exchange.Peek(resp)
			if _, err := exchange.ParseObject(raw); err != nil {
				return nil, fmt.Errorf("read the room's %s: it is not readable", eventType)
			}
			return json.RawMessage(raw), nil
		case http.StatusNotFound:
			if exchange.AnswerObject(resp).TextOrEmpty("errcode") == apierr.CodeNotFound {
				return nil, e2ee.ErrNoState
			}
		case http.StatusForbidden:
			return nil, fmt.Errorf("%w: %w", e2ee.ErrNotInRoom, apierr.FromResponse(resp))
		case http.StatusUnauthorized, http.StatusTooManyRequests:
			return nil, apierr.FromResponse(resp)
		}
		return nil, fmt.Errorf("read the room's %s: status %d", eventType, resp.StatusCode)
	}
}

// doState reads or, with a content, writes a state event with an empty state key.
func doState(ctx context.Context, x *Exchange, method string, room id.RoomID, eventType string, content []byte) (*http.Response, error) {
	asking := *x
	asking.Request = x.Request.Clone(ctx)
	asking.Request.Body, asking.Request.ContentLength = http.NoBody, 0
	return x.Upstream.Do(&asking, Change{
		Method:  method,
		Pattern: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}",
		Params:  map[string]string{"roomId": room.String(), "eventType": eventType},
		Query:   exchange.IdentityQuery(x.Request.URL.Query()),
		Body:    content,
	})
}
