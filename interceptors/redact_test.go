package interceptors

import (
	"net/http"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		mode e2ee.Mode
		room id.RoomID
		body string
		want string // error code; empty when it passes
	}{
		{e2ee.ModeProxied, encryptedRoom, `{ "with_rel_types":["m.thread"] }`, ""},
		{e2ee.ModeProxied, encryptedRoom, `{"with_rel_types":["` + canary + ` m.thread"]}`, apierr.CodeBadJSON},
		{e2ee.ModeProxied, encryptedRoom, `{"with_rel_types":"` + canary + `"}`, apierr.CodeBadJSON},
		{e2ee.ModeProxied, encryptedRoom, `{"redacts":"` + canary + `"}`, apierr.CodeBadJSON},
		{e2ee.ModeProxied, encryptedRoom, ``, ""},
		{e2ee.ModeProxied, encryptedRoom, ` {} `, ""},
		{e2ee.ModeProxied, encryptedRoom, message, apierr.CodeBadJSON},
		{e2ee.ModeProxied, encryptedRoom, `{"reason":"a","reason":"` + canary + `"}`, apierr.CodeBadJSON},
		{e2ee.ModeProxied, encryptedRoom, `{`, apierr.CodeNotJSON},
		{e2ee.ModeProxied, plainRoom, ` {"reason":"spam"} `, ""},
		{e2ee.ModeProxied, unknownRoom, message, apierr.CodeBadJSON},
		{e2ee.ModeNone, encryptedRoom, message, apierr.CodeBadJSON},
		{e2ee.ModeProxied, plainRoom, `{"org.example":1}`, ""},
		{e2ee.ModeForeign, encryptedRoom, message, apierr.CodeBadJSON},
		{e2ee.ModeForeign, plainRoom, `{"org.example":1}`, ""},
		{e2ee.ModeLost, encryptedRoom, message, apierr.CodeBadJSON},
		{e2ee.ModeLost, encryptedRoom, ` { } `, ""},
	} {
		w := newWorld(t, tt.mode)
		_, err := w.do(call{
			handler: Redact, method: http.MethodPut, pattern: "/rooms/{roomId}/redact/{eventId}/{txnId}", body: tt.body,
			params: map[string]string{"roomId": tt.room.String(), "eventId": "$e", "txnId": "1"},
		})
		if tt.want != "" {
			wantError(t, err, http.StatusBadRequest, tt.want)
			w.wantNothingUpstream()
			continue
		}
		if got := w.up.requests(); err != nil || len(got) != 1 || got[0].body != tt.body {
			t.Errorf("%s: got %v, upstream %+v", tt.body, err, got)
		}
	}
}
