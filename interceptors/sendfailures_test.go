package interceptors

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// Bodies that are refused before anything goes upstream.
func TestSendBadBody(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000)
	for _, tt := range []struct {
		room    id.RoomID
		body    string
		maxBody int64
		status  int
		code    string
	}{
		{room: plainRoom, body: ``, status: 400, code: apierr.CodeNotJSON},
		{room: plainRoom, body: `{`, status: 400, code: apierr.CodeNotJSON},
		{room: plainRoom, body: `{} {}`, status: 400, code: apierr.CodeNotJSON},
		{room: plainRoom, body: `{"body":'x'}`, status: 400, code: apierr.CodeNotJSON},
		{room: plainRoom, body: `{"body":NaN}`, status: 400, code: apierr.CodeNotJSON},
		{room: plainRoom, body: "\xef\xbb\xbf{}", status: 400, code: apierr.CodeNotJSON},
		{room: plainRoom, body: `[1]`, status: 400, code: apierr.CodeBadJSON},
		{room: plainRoom, body: `"` + canary + `"`, status: 400, code: apierr.CodeBadJSON},
		{room: plainRoom, body: `null`, status: 400, code: apierr.CodeBadJSON},
		{room: plainRoom, body: message, maxBody: 10, status: 413, code: apierr.CodeTooLarge},
		{room: encryptedRoom, body: `{`, status: 400, code: apierr.CodeNotJSON},
		{room: encryptedRoom, body: `[]`, status: 400, code: apierr.CodeBadJSON},
		{room: encryptedRoom, body: deep, maxBody: 1 << 20, status: 400, code: apierr.CodeNotJSON},
		{room: encryptedRoom, body: `{"body":"` + canary + `","body":"b"}`, status: 400, code: apierr.CodeBadJSON},
		{room: encryptedRoom, body: `{"a":{"b":1,"\u0062":2}}`, status: 400, code: apierr.CodeBadJSON},
		{room: encryptedRoom, body: "{\"body\":\"\xff\"}", status: 400, code: apierr.CodeBadJSON},
		{room: encryptedRoom, body: `{"body":"\ud800"}`, status: 400, code: apierr.CodeBadJSON},
		{room: unknownRoom, body: `{`, status: 400, code: apierr.CodeNotJSON},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		c := sendCall(tt.room, "m.room.message", tt.body)
		c.maxBody = tt.maxBody
		_, err := w.do(c)
		wantError(t, err, tt.status, tt.code)
		w.wantNothingUpstream()
	}
}

// What is known of a room is found by its ID: nothing else may name one.
func TestSendBadRoom(t *testing.T) {
	t.Parallel()
	for _, room := range []id.RoomID{"", "!", "#alias:hs", "!a:hs ", "!a\x00:hs", " !a:hs", "a", "!\xff", id.RoomID("!" + strings.Repeat("a", 255))} {
		w := newWorld(t, e2ee.ModeProxied)
		_, err := w.do(sendCall(room, "m.room.message", message))
		wantError(t, err, http.StatusBadRequest, apierr.CodeInvalidParam)
		w.wantNothingUpstream()
	}
}

// Reasons why the engine does not encrypt, and what the client is told.
func TestSendRefusals(t *testing.T) {
	t.Parallel()
	upstream := func(status int, code string) error {
		return fmt.Errorf("share the key: %w", &e2ee.UpstreamError{Op: "query keys", Status: status, ErrCode: code})
	}
	for _, tt := range []struct {
		lookup, encrypt error
		status          int
		code            string
		says            string
	}{
		{encrypt: e2ee.ErrCannotEncrypt, status: 503, code: apierr.CodeCannotEncrypt},
		{encrypt: fmt.Errorf("%w: %w", e2ee.ErrCannotEncrypt, e2ee.ErrNotJoined), status: 403, code: apierr.CodeForbidden},
		{encrypt: e2ee.ErrClosed, status: 503, code: apierr.CodeCannotEncrypt},
		{encrypt: fmt.Errorf("store the session: %w", e2ee.ErrLeaseLost), status: 503, code: apierr.CodeUnknown},
		{encrypt: fmt.Errorf("store an outbound session: %w", e2ee.ErrReload), status: 503, code: apierr.CodeUnknown, says: "The message was not sent."},
		{encrypt: fmt.Errorf("x: %w", e2ee.ErrUnsupportedAlgorithm), status: 403, code: apierr.CodeCannotEncrypt},
		{encrypt: e2ee.ErrDeviceNotSigned, status: 403, code: apierr.CodeDeviceNotSigned},
		{encrypt: e2ee.ErrSignatureNotShown, status: 403, code: apierr.CodeDeviceNotSigned, says: "another device ID; or make a new identity: POST /_e2ee_proxy/v1/reset"},
		{encrypt: e2ee.ErrSignatureRefused, status: 403, code: apierr.CodeDeviceNotSigned, says: "another device ID"},
		{encrypt: fmt.Errorf("%w: %w", e2ee.ErrKeysRefused, upstream(400, "M_UNKNOWN")), status: 403, code: apierr.CodeCannotEncrypt, says: "refuses the encryption keys"},
		{encrypt: e2ee.ErrKeysReplaced, status: 403, code: apierr.CodeCannotEncrypt},
		{encrypt: e2ee.ErrNotProxied, status: 403, code: apierr.CodeCannotEncrypt},
		{encrypt: &e2ee.IdentityChangedError{Users: []id.UserID{bob}}, status: 403, code: apierr.CodeIdentityChanged},
		{encrypt: upstream(0, ""), status: 502, code: apierr.CodeUnknown},
		{encrypt: &e2ee.UpstreamError{Op: "claim", Status: 404, NotMatrix: true}, status: 502, code: apierr.CodeUnknown, says: "is no Matrix homeserver"},
		{lookup: &e2ee.UpstreamError{Op: "read the room", Status: 502, NotMatrix: true}, status: 502, code: apierr.CodeUnknown, says: "is no Matrix homeserver"},
		{encrypt: &e2ee.UpstreamError{Cause: context.DeadlineExceeded}, status: 504, code: apierr.CodeUnknown},
		{encrypt: upstream(500, "M_UNKNOWN"), status: 502, code: apierr.CodeUnknown},
		{encrypt: fmt.Errorf("%w: %w", e2ee.ErrCannotEncrypt, upstream(502, "")), status: 502, code: apierr.CodeUnknown},
		{encrypt: upstream(401, "M_UNKNOWN_TOKEN"), status: 401, code: apierr.CodeUnknownToken},
		{encrypt: upstream(401, "M_USER_LOCKED"), status: 401, code: apierr.CodeUserLocked},
		{encrypt: upstream(429, "M_LIMIT_EXCEEDED"), status: 429, code: apierr.CodeLimitExceeded},
		// "A room whose encryption cannot be read": 503, whatever the reason
		{lookup: upstream(0, ""), status: 503, code: apierr.CodeCannotEncrypt},
		{lookup: upstream(500, ""), status: 503, code: apierr.CodeCannotEncrypt},
		{lookup: upstream(404, "M_UNRECOGNIZED"), status: 503, code: apierr.CodeCannotEncrypt},
		{lookup: errors.New("the database is away"), status: 503, code: apierr.CodeCannotEncrypt},
		{lookup: context.DeadlineExceeded, status: 503, code: apierr.CodeCannotEncrypt},
		{lookup: e2ee.ErrUnsupportedAlgorithm, status: 403, code: apierr.CodeCannotEncrypt},
		// … except where the homeserver says why, to the client
		{lookup: upstream(401, "M_UNKNOWN_TOKEN"), status: 401, code: apierr.CodeUnknownToken},
		{lookup: upstream(403, "M_FORBIDDEN"), status: 403, code: apierr.CodeForbidden},
		{lookup: upstream(429, "M_LIMIT_EXCEEDED"), status: 429, code: apierr.CodeLimitExceeded},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		w.dev.lookupErr, w.dev.encryptErr = tt.lookup, tt.encrypt
		_, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
		e := shown(t, err, tt.status, tt.code)
		if e.Public() == "" || !strings.Contains(e.Public(), tt.says) {
			t.Errorf("%v: the text is %q", err, e.Public())
		}
		w.wantNothingUpstream()
	}
}

// A token without a device asks the homeserver as itself, for whom it speaks included
// (requirement 23.2; attack 32), and never with a token in the URL.
func TestSendWithoutDeviceAsks(t *testing.T) {
	t.Parallel()
	for room, want := range map[id.RoomID]string{
		"!forbidden:hs.example":    "403 " + apierr.CodeForbidden,
		"!unrecognized:hs.example": "503 " + apierr.CodeCannotEncrypt,
		"!html:hs.example":         "503 " + apierr.CodeCannotEncrypt,
		"!other:hs.example":        "503 " + apierr.CodeCannotEncrypt,
		plainRoom:                  "passed",
	} {
		w := newWorld(t, e2ee.ModeNone)
		c := sendCall(room, "m.room.message", message)
		c.query = "user_id=%40ghost%3Ahs.example&access_token=t&ts=5&format=event"
		_, err := w.do(c)
		if got := outcome(w, err, message); got != want {
			t.Errorf("%s: got %s, want %s", room, got, want)
		}
		if got := w.up.looked; len(got) != 1 || got[0].query != "user_id=%40ghost%3Ahs.example" {
			t.Errorf("%s: asked %+v", room, got)
		}
	}
}

func TestSendDeviceFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	w.devices.err = &e2ee.UpstreamError{Op: "query keys", Cause: errors.New("refused")}
	_, err := w.do(sendCall(plainRoom, "m.room.message", message))
	wantError(t, err, http.StatusBadGateway, apierr.CodeUnknown)
	w.wantNothingUpstream()
}

// What the homeserver accepted is noted although the client has gone.
func TestSendClientGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	ctx, cancel := context.WithCancel(t.Context())
	w.up.respond = func(seen) (int, string) { cancel(); return 200, `{"event_id":"$event"}` }
	c := sendCall(encryptedRoom, "m.room.message", message)
	for _, c.ctx = range []context.Context{ctx, t.Context()} {
		if _, err := w.do(c); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.up.requests(); len(got) != 1 {
		t.Errorf("the homeserver got %d requests, want 1", len(got))
	}
}

// After a failure the same transaction brings the same ciphertext, under the same
// transaction ID; the failure itself is the homeserver's, word for word.
func TestSendRetryAfterFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	w.up.respond = func(seen) (int, string) { return 429, `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":5}` }
	rec, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
	if err != nil || rec.Code != 429 || !strings.Contains(rec.Body.String(), "retry_after_ms") {
		t.Fatalf("got %d %s %v", rec.Code, rec.Body, err)
	}
	w.up.broken = apierr.Unreachable(errors.New("reset"))
	_, err = w.do(sendCall(encryptedRoom, "m.room.message", message))
	wantError(t, err, http.StatusBadGateway, apierr.CodeUnknown)
	w.up.broken, w.up.respond = nil, nil
	if _, err := w.do(sendCall(encryptedRoom, "m.room.message", message)); err != nil {
		t.Fatal(err)
	}
	var got []seen
	looks := 0
	for _, s := range w.up.requests() {
		if s.method == http.MethodPut {
			got = append(got, s)
		} else {
			looks++
		}
	}
	if len(got) != 3 || got[0] != got[1] || got[1] != got[2] {
		t.Errorf("the homeserver got %+v, want the same three times", got)
	}
	if looks != 1 { // after the answer that was lost; what was refused was not sent
		t.Errorf("the room was looked at %d times", looks)
	}
	if diff := cmp.Diff([]string{"sent m.room.message $event"}, w.dev.noted()); diff != "" {
		t.Errorf("engine (-want +got):\n%s", diff)
	}
}

// The message is sent: an answer that the proxy makes nothing of does not make it unsent.
func TestSendAnswerThatNamesNoEvent(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{`{"delay_id":"d"}`, `<html>`, `{"event_id":7}`, strings.Repeat(" ", 256<<10+1) + "{}"} {
		w := newWorld(t, e2ee.ModeProxied)
		w.up.respond = func(seen) (int, string) { return 200, answer }
		rec, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
		if err != nil || rec.Code != http.StatusOK || rec.Body.String() != answer {
			t.Errorf("got %d %.40s %v, want the homeserver's answer", rec.Code, rec.Body, err)
		}
	}
}

// Whatever an engine might make, nothing leaves that is not ciphertext.
func TestSendWithoutCiphertext(t *testing.T) {
	t.Parallel()
	for _, made := range []string{
		``, `{}`, message, `{"algorithm":"m.megolm.v1.aes-sha2"}`, `{"algorithm":"none","ciphertext":"x"}`,
		`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"x","body":"` + canary + `"}`, `null`,
		`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"x","m.mentions":{"user_ids":["@` + canary + `:hs"]}}`,
		`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"x","org.matrix.msc3952.mentions":{}}`,
		`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"x","session_id":{"is":"` + canary + `"}}`,
		`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"x","m.relates_to":{"rel_type":"m.thread","event_id":"$e","quote":"` + canary + `"}}`,
	} {
		w := newWorld(t, e2ee.ModeProxied)
		w.dev.made = &e2ee.Encrypted{Content: []byte(made)}
		_, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
		wantError(t, err, http.StatusServiceUnavailable, apierr.CodeCannotEncrypt)
		w.wantNothingUpstream()
	}
}
