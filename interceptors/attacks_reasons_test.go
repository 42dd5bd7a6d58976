package interceptors

import (
	"errors"
	"net/http"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

func redactCall(room id.RoomID, body string) call {
	return call{
		handler: Redact, method: http.MethodPut, pattern: "/rooms/{roomId}/redact/{eventId}/{txnId}", body: body,
		params: map[string]string{"roomId": room.String(), "eventId": "$e", "txnId": "1"},
	}
}

// Attack vector: the homeserver reads what a person writes as the reason of a redaction in
// an encrypted room, which says what the message was, and the names of the pictures that
// people react with.
//
// Expected: both reach the homeserver without it, by either endpoint, also where it cannot
// be told whether the room is encrypted; the redaction succeeds all the same.
func TestRedactionsAndReactionsHaveNoWords(t *testing.T) {
	t.Parallel()
	const relation = `"m.relates_to":{"rel_type":"m.annotation","event_id":"$e","key":"mxc://hs/party"}`
	for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeNone, e2ee.ModeForeign, e2ee.ModeLost} {
		for _, tt := range []struct {
			c    call
			want string
		}{
			{redactCall(encryptedRoom, `{"reason":"`+canary+`"}`), `{}`},
			{redactCall(encryptedRoom, `{"with_rel_types":["m.thread"],"reason":{"is":"`+canary+`"}}`), `{"with_rel_types":["m.thread"]}`},
			{redactCall(unsupportedRoom, `{"reason":"`+canary+`"}`), `{}`},
			{redactCall(unknownRoom, `{"reason":"`+canary+`"}`), `{}`},
			{sendCall(encryptedRoom, typeRedaction, `{"redacts":"$e","reason":"`+canary+`"}`), `{"redacts":"$e"}`},
			{sendCall(encryptedRoom, typeReaction, `{"shortcode":"`+canary+`",`+relation+`}`), `{` + relation + `}`},
			{postCall(encryptedRoom, typeReaction, `{`+relation+`,"com.beeper.reaction.shortcode":"`+canary+`"}`), `{` + relation + `}`},
		} {
			w := newWorld(t, mode)
			rec, err := w.do(tt.c)
			if err != nil || rec.Code != http.StatusOK {
				t.Errorf("%s: got %d %v", tt.c.body, rec.Code, err)
			}
			if got := w.up.requests(); len(got) != 1 || got[0].body != tt.want {
				t.Errorf("%s: the homeserver got %+v, want %s", tt.c.body, got, tt.want)
			}
			w.wantNoClearText()
		}
	}
	w := newWorld(t, e2ee.ModeProxied)
	w.dev.lookupErr = errors.New("the homeserver says nothing")
	if _, err := w.do(redactCall(encryptedRoom, `{"reason":"`+canary+`"}`)); err != nil {
		t.Errorf("a redaction failed for its reason: %v", err)
	}
	if got := w.up.requests(); len(got) != 1 || got[0].body != `{}` {
		t.Errorf("the homeserver got %+v", got)
	}
	// Where all is in clear, nothing changes.
	w = newWorld(t, e2ee.ModeProxied)
	if _, err := w.do(sendCall(plainRoom, typeReaction, `{"shortcode":"party",`+relation+`}`)); err != nil {
		t.Error(err)
	}
	if got := w.up.requests(); len(got) != 1 || got[0].body != `{"shortcode":"party",`+relation+`}` {
		t.Errorf("in a plain room the homeserver got %+v", got)
	}
}
