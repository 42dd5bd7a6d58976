package interceptors

import (
	"errors"
	"net/http"
	"slices"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// Bad input: what is not JSON, or not an object, goes nowhere, whatever the endpoint: 400,
// nothing upstream, and the engine hears nothing of it.
func TestMalformedBodies(t *testing.T) {
	t.Parallel()
	params := map[string]string{
		"roomId": string(plainRoom), "roomIdOrAlias": string(plainRoom), "eventType": "m.room.message",
		"stateKey": "", "txnId": "1", "eventId": "$e", "deviceId": "D",
	}
	for handler, request := range map[string]struct{ method, pattern string }{
		Send:          {"PUT", "/rooms/{roomId}/send/{eventType}/{txnId}"},
		Redact:        {"PUT", "/rooms/{roomId}/redact/{eventId}/{txnId}"},
		PutState:      {"PUT", "/rooms/{roomId}/state/{eventType}/{stateKey}"},
		CreateRoom:    {"POST", "/createRoom"},
		Invite:        {"POST", "/rooms/{roomId}/invite"},
		Kick:          {"POST", "/rooms/{roomId}/kick"},
		Ban:           {"POST", "/rooms/{roomId}/ban"},
		Unban:         {"POST", "/rooms/{roomId}/unban"},
		Join:          {"POST", "/rooms/{roomId}/join"},
		JoinByAlias:   {"POST", "/join/{roomIdOrAlias}"},
		Knock:         {"POST", "/knock/{roomIdOrAlias}"},
		Leave:         {"POST", "/rooms/{roomId}/leave"},
		Forget:        {"POST", "/rooms/{roomId}/forget"},
		Login:         {"POST", "/login"},
		Register:      {"POST", "/register"},
		Refresh:       {"POST", "/refresh"},
		Logout:        {"POST", "/logout"},
		LogoutAll:     {"POST", "/logout/all"},
		DeleteDevice:  {"DELETE", "/devices/{deviceId}"},
		DeleteDevices: {"POST", "/delete_devices"},
		Password:      {"POST", "/account/password"},
		Deactivate:    {"POST", "/account/deactivate"},
		UploadKeys:    {"POST", "/keys/upload"},
	} {
		for body, want := range map[string]string{
			`{`: apierr.CodeNotJSON, `{"a":1}{`: apierr.CodeNotJSON, `nul`: apierr.CodeNotJSON, `{'a':1}`: apierr.CodeNotJSON, `{"a":1,}`: apierr.CodeNotJSON,
			`[]`: apierr.CodeBadJSON, `"text"`: apierr.CodeBadJSON, `7`: apierr.CodeBadJSON, `null`: apierr.CodeBadJSON,
		} {
			if body == `null` && slices.Contains([]string{Join, JoinByAlias, Knock, Leave, Forget, Redact}, handler) {
				continue // means nothing there
			}
			w := newWorld(t, e2ee.ModeProxied)
			_, err := w.do(call{handler: handler, method: request.method, pattern: request.pattern, params: params, body: body})
			said, ok := errors.AsType[*apierr.Error](err)
			if !ok || said.Status != http.StatusBadRequest || said.ErrCode != want {
				t.Errorf("%s takes %s: %v", handler, body, err)
			}
			if got := w.up.requests(); len(got) != 0 {
				t.Errorf("%s passes %s on: %+v", handler, body, got)
			}
			if got := append(w.dev.noted(), w.devices.notes...); len(got) != 0 {
				t.Errorf("%s tells of %s: %v", handler, body, got)
			}
		}
	}
}
