package interceptors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// sendCall is a send by PUT.
func sendCall(room id.RoomID, eventType, body string) call {
	return call{
		handler: Send, method: http.MethodPut, pattern: "/rooms/{roomId}/send/{eventType}/{txnId}", body: body,
		params: map[string]string{"roomId": room.String(), "eventType": eventType, "txnId": "t/1"},
	}
}

// postCall is the same without a transaction ID.
func postCall(room id.RoomID, eventType, body string) call {
	c := sendCall(room, eventType, body)
	c.method, c.pattern = http.MethodPost, "/rooms/{roomId}/send/{eventType}"
	delete(c.params, "txnId")
	return c
}

const message = `{"msgtype":"m.text","body":"` + canary + `"}`

func TestSendEncrypts(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v3", "r0", "v1", "unstable", "api/v1"} {
		w := newWorld(t, e2ee.ModeProxied)
		c := sendCall(encryptedRoom, "m.room.message", message)
		c.version, c.query = version, "ts=12&org.matrix.msc4140.delay=5"
		rec, err := w.do(c)
		if err != nil {
			t.Fatal(err)
		}
		want := []seen{{
			http.MethodPut, "/_matrix/client/" + version + "/rooms/%21encrypted:hs.example/send/m.room.encrypted/t%2F1",
			c.query, `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"sealed1","session_id":"s"}`, "application/json",
		}}
		if diff := cmp.Diff(want, w.up.requests(), cmp.AllowUnexported(seen{})); diff != "" {
			t.Errorf("upstream (-want +got):\n%s", diff)
		}
		if rec.Code != http.StatusOK || rec.Body.String() != `{"event_id":"$event"}` {
			t.Errorf("the client got %d %s", rec.Code, rec.Body)
		}
		if diff := cmp.Diff([]string{"sent m.room.message $event"}, w.dev.noted()); diff != "" {
			t.Errorf("engine (-want +got):\n%s", diff)
		}
	}
}

// POST …/send/{type} reaches homeservers too (attack N7): it becomes a PUT with a
// transaction ID that is not used twice.
func TestSendByPost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	paths := map[string]bool{}
	for range 2 {
		if _, err := w.do(postCall(encryptedRoom, "m.room.message", message)); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range w.up.requests() {
		prefix := "/_matrix/client/v3/rooms/%21encrypted:hs.example/send/m.room.encrypted/"
		txn, ok := strings.CutPrefix(s.path, prefix)
		if s.method != http.MethodPut || !ok || len(txn) < 20 {
			t.Errorf("got %s %s", s.method, s.path)
		}
		paths[s.path] = true
	}
	if len(paths) != 2 {
		t.Errorf("got %d transactions, want 2", len(paths))
	}
	w.wantNoClearText()
}

func TestSendIntoPlainRoomIsUnchanged(t *testing.T) {
	t.Parallel()
	// Names twice are the homeserver's business where nothing is encrypted.
	body := ` {"body" : "` + canary + `", "body":1.50} `
	for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeNone, e2ee.ModeForeign, e2ee.ModeUnknown} {
		for _, c := range []call{sendCall(plainRoom, "m.room.message", body), postCall(plainRoom, "m.room.message", body)} {
			w := newWorld(t, mode)
			if _, err := w.do(c); err != nil {
				t.Fatal(err)
			}
			got := w.up.requests()
			if len(got) != 1 || got[0].method != c.method || got[0].body != body || got[0].contentType != "application/x-of-the-client" {
				t.Errorf("mode %v: upstream got %+v", mode, got)
			}
		}
	}
}

// What goes where, for every mode, room and kind of event.
func TestSendDecisions(t *testing.T) {
	t.Parallel()
	const (
		reaction  = `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$e","key":"+"},"shortcode":"plus"}`
		redaction = `{"redacts":"$e","reason":"spam"}`
		megolmed  = `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"theirs"}`
	)
	const passed, sealed = "passed", "sealed"
	const cannot = "503 " + CodeCannotEncrypt
	const refused = "403 " + CodeCannotEncrypt
	for _, tt := range []struct {
		mode            e2ee.Mode
		room            id.RoomID
		eventType, body string
		want            string
	}{
		{e2ee.ModeProxied, encryptedRoom, "m.room.message", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.sticker", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "org.example.any", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.key.verification.ready", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.room.encryption", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.room.member", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "M.REACTION", reaction, sealed},
		// requirement 19.5, and nothing rides along
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", reaction, passed},
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", reaction[:len(reaction)-1] + `,"body":"` + canary + `"}`, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", reaction[:len(reaction)-1] + `,"com.beeper.reaction.shortcode":["` + canary + `"]}`, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", `{"m.relates_to":{"rel_type":"m.replace","event_id":"$e"}}`, sealed},
		// requirement 19.6
		{e2ee.ModeProxied, encryptedRoom, "m.room.redaction", redaction, passed},
		{e2ee.ModeProxied, encryptedRoom, "m.room.redaction", message, "400 M_BAD_JSON"},
		{e2ee.ModeProxied, encryptedRoom, "m.room.encrypted", megolmed, "403 M_FORBIDDEN"},
		// requirement 20.2, 20.6
		{e2ee.ModeProxied, unsupportedRoom, "m.room.message", message, refused},
		{e2ee.ModeProxied, unsupportedRoom, "m.reaction", reaction, refused},
		{e2ee.ModeProxied, unknownRoom, "m.room.message", message, cannot},
		{e2ee.ModeProxied, unknownRoom, "m.reaction", reaction, cannot},
		{e2ee.ModeProxied, unknownRoom, "m.room.redaction", redaction, cannot},
		// a token without a device
		{e2ee.ModeNone, encryptedRoom, "m.room.message", message, refused},
		{e2ee.ModeNone, encryptedRoom, "m.reaction", reaction, passed},
		{e2ee.ModeNone, encryptedRoom, "m.reaction", message, refused},
		{e2ee.ModeNone, encryptedRoom, "m.room.encrypted", megolmed, passed},
		{e2ee.ModeNone, unknownRoom, "m.room.encrypted", megolmed, cannot},
		{e2ee.ModeNone, unsupportedRoom, "m.room.message", message, refused},
		// a device of which nothing is known
		{e2ee.ModeUnknown, encryptedRoom, "m.room.message", message, cannot},
		{e2ee.ModeUnknown, encryptedRoom, "m.room.encrypted", megolmed, cannot},
		{e2ee.ModeUnknown, unknownRoom, "m.room.message", message, cannot},
		{e2ee.Mode(99), encryptedRoom, "m.room.message", message, cannot},
		// a client that encrypts for itself
		{e2ee.ModeForeign, encryptedRoom, "m.room.encrypted", megolmed, passed},
		{e2ee.ModeForeign, encryptedRoom, "m.room.message", message, passed},
		{e2ee.ModeForeign, unknownRoom, "m.room.encrypted", megolmed, passed},
	} {
		for _, c := range []call{sendCall(tt.room, tt.eventType, tt.body), postCall(tt.room, tt.eventType, tt.body)} {
			name := fmt.Sprintf("%s %v %s %s", c.method, tt.mode, tt.room, tt.eventType)
			w := newWorld(t, tt.mode)
			_, err := w.do(c)
			if got := outcome(w, err, tt.body); got != tt.want {
				t.Errorf("%s %s: got %s, want %s", name, tt.body, got, tt.want)
			}
			if tt.mode != e2ee.ModeForeign {
				w.wantNoClearText()
			}
		}
	}
}

// outcome sums up what became of a send.
func outcome(w *world, err error, body string) string {
	got := w.up.requests()
	e, failed := errors.AsType[*Error](err)
	switch {
	case failed && len(got) == 0:
		return fmt.Sprintf("%d %s", e.Status, e.ErrCode)
	case err == nil && len(got) == 1 && got[0].body == body && !strings.Contains(got[0].path, "m.room.encrypted") == !strings.Contains(body, "ciphertext"):
		return "passed"
	case err == nil && len(got) == 1 && strings.Contains(got[0].body, `"ciphertext":"sealed1"`):
		return "sealed"
	}
	return fmt.Sprintf("%v, upstream %+v", err, got)
}

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
		{room: plainRoom, body: ``, status: 400, code: CodeNotJSON},
		{room: plainRoom, body: `{`, status: 400, code: CodeNotJSON},
		{room: plainRoom, body: `{} {}`, status: 400, code: CodeNotJSON},
		{room: plainRoom, body: `{"body":'x'}`, status: 400, code: CodeNotJSON},
		{room: plainRoom, body: `{"body":NaN}`, status: 400, code: CodeNotJSON},
		{room: plainRoom, body: "\xef\xbb\xbf{}", status: 400, code: CodeNotJSON},
		{room: plainRoom, body: `[1]`, status: 400, code: CodeBadJSON},
		{room: plainRoom, body: `"` + canary + `"`, status: 400, code: CodeBadJSON},
		{room: plainRoom, body: `null`, status: 400, code: CodeBadJSON},
		{room: plainRoom, body: message, maxBody: 10, status: 413, code: CodeTooLarge},
		{room: encryptedRoom, body: `{`, status: 400, code: CodeNotJSON},
		{room: encryptedRoom, body: `[]`, status: 400, code: CodeBadJSON},
		{room: encryptedRoom, body: deep, maxBody: 1 << 20, status: 400, code: CodeNotJSON},
		{room: encryptedRoom, body: `{"body":"` + canary + `","body":"b"}`, status: 400, code: CodeBadJSON},
		{room: encryptedRoom, body: `{"a":{"b":1,"\u0062":2}}`, status: 400, code: CodeBadJSON},
		{room: encryptedRoom, body: "{\"body\":\"\xff\"}", status: 400, code: CodeBadJSON},
		{room: encryptedRoom, body: `{"body":"\ud800"}`, status: 400, code: CodeBadJSON},
		{room: unknownRoom, body: `{`, status: 400, code: CodeNotJSON},
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
		wantError(t, err, http.StatusBadRequest, CodeInvalidParam)
		w.wantNothingUpstream()
	}
}

// Reasons why the engine does not encrypt, and what the client is told (design §6).
func TestSendRefusals(t *testing.T) {
	t.Parallel()
	upstream := func(status int, code string) error {
		return fmt.Errorf("share the key: %w", &e2ee.UpstreamError{Op: "query keys", Status: status, ErrCode: code})
	}
	for _, tt := range []struct {
		lookup, encrypt error
		status          int
		code            string
	}{
		{encrypt: e2ee.ErrCannotEncrypt, status: 503, code: CodeCannotEncrypt},
		{encrypt: e2ee.ErrClosed, status: 503, code: CodeCannotEncrypt},
		{encrypt: fmt.Errorf("x: %w", e2ee.ErrUnsupportedAlgorithm), status: 403, code: CodeCannotEncrypt},
		{encrypt: e2ee.ErrDeviceNotSigned, status: 403, code: CodeDeviceNotSigned},
		{encrypt: e2ee.ErrKeysReplaced, status: 403, code: CodeCannotEncrypt},
		{encrypt: e2ee.ErrNotProxied, status: 403, code: CodeCannotEncrypt},
		{encrypt: &e2ee.IdentityChangedError{Users: []id.UserID{bob}}, status: 403, code: CodeIdentityChanged},
		{encrypt: upstream(0, ""), status: 502, code: CodeUnknown},
		{encrypt: &e2ee.UpstreamError{Cause: context.DeadlineExceeded}, status: 504, code: CodeUnknown},
		{encrypt: upstream(500, "M_UNKNOWN"), status: 503, code: CodeCannotEncrypt},
		{encrypt: upstream(401, "M_UNKNOWN_TOKEN"), status: 401, code: CodeUnknownToken},
		{encrypt: upstream(401, "M_USER_LOCKED"), status: 401, code: CodeUserLocked},
		{encrypt: upstream(429, "M_LIMIT_EXCEEDED"), status: 429, code: CodeLimitExceeded},
		// "A room whose encryption cannot be read": 503, whatever the reason
		{lookup: upstream(0, ""), status: 503, code: CodeCannotEncrypt},
		{lookup: upstream(500, ""), status: 503, code: CodeCannotEncrypt},
		{lookup: upstream(404, "M_UNRECOGNIZED"), status: 503, code: CodeCannotEncrypt},
		{lookup: errors.New("the database is away"), status: 503, code: CodeCannotEncrypt},
		{lookup: context.DeadlineExceeded, status: 503, code: CodeCannotEncrypt},
		{lookup: e2ee.ErrUnsupportedAlgorithm, status: 403, code: CodeCannotEncrypt},
		// … except where the homeserver says why, to the client
		{lookup: upstream(401, "M_UNKNOWN_TOKEN"), status: 401, code: CodeUnknownToken},
		{lookup: upstream(403, "M_FORBIDDEN"), status: 403, code: CodeForbidden},
		{lookup: upstream(429, "M_LIMIT_EXCEEDED"), status: 429, code: CodeLimitExceeded},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		w.dev.lookupErr, w.dev.encryptErr = tt.lookup, tt.encrypt
		_, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
		e := wantError(t, err, tt.status, tt.code)
		if e.Public() == "" {
			t.Errorf("%v: no text", err)
		}
		w.wantNothingUpstream()
	}
}

func TestSendDeviceFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	w.devices.err = &e2ee.UpstreamError{Op: "query keys", Cause: errors.New("refused")}
	_, err := w.do(sendCall(plainRoom, "m.room.message", message))
	wantError(t, err, http.StatusBadGateway, CodeUnknown)
	w.wantNothingUpstream()
}

// The words a person reads when somebody's identity was reset (requirement 1.12, 26.1).
func TestIdentityChangedText(t *testing.T) {
	t.Parallel()
	got := engineError(&e2ee.IdentityChangedError{Users: []id.UserID{"@c:x", bob}, Lost: []id.UserID{bob}})
	e := wantError(t, got, http.StatusForbidden, CodeIdentityChanged)
	fields, err := json.Marshal(e.Fields)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"users":["@bob:hs.example","@c:x"],"verification_lost":["@bob:hs.example"]}`
	if diff := cmp.Diff(want, string(fields)); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	text := e.Public()
	for _, part := range []string{"@bob:hs.example", "@c:x", "digital identity", "not sent", "acknowledge", "withdraw_verification"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
	for _, part := range []string{"cross-sign", "master key"} {
		if strings.Contains(text, part) {
			t.Errorf("%q says %q to a person", text, part)
		}
	}
}

// A repetition of a confirmed transaction is answered here (requirement 19.11).
func TestSendRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	for range 2 {
		rec, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
		if err != nil || rec.Code != http.StatusOK || rec.Body.String() != `{"event_id":"$event"}` {
			t.Fatalf("got %d %s %v", rec.Code, rec.Body, err)
		}
	}
	if got := w.up.requests(); len(got) != 1 {
		t.Errorf("the homeserver got %d requests, want 1", len(got))
	}
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
	w.up.broken = Unreachable(errors.New("reset"))
	_, err = w.do(sendCall(encryptedRoom, "m.room.message", message))
	wantError(t, err, http.StatusBadGateway, CodeUnknown)
	w.up.broken, w.up.respond = nil, nil
	if _, err := w.do(sendCall(encryptedRoom, "m.room.message", message)); err != nil {
		t.Fatal(err)
	}
	got := w.up.requests()
	if len(got) != 3 || got[0] != got[1] || got[1] != got[2] {
		t.Errorf("the homeserver got %+v, want the same three times", got)
	}
	if diff := cmp.Diff([]string{"sent m.room.message $event"}, w.dev.noted()); diff != "" {
		t.Errorf("engine (-want +got):\n%s", diff)
	}
}

// The message is sent: what the proxy cannot note of it does not make it unsent.
func TestSendAnswerThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{`{"event_id":"$event"}`, `{"delay_id":"d"}`, `<html>`, `{"event_id":7}`, strings.Repeat(" ", maxAnswer+1) + "{}"} {
		w := newWorld(t, e2ee.ModeProxied)
		w.dev.sentErr = errors.New("disk full")
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
	} {
		w := newWorld(t, e2ee.ModeProxied)
		w.dev.made = &e2ee.Encrypted{Content: []byte(made)}
		_, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
		wantError(t, err, http.StatusServiceUnavailable, CodeCannotEncrypt)
		w.wantNothingUpstream()
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		mode e2ee.Mode
		room id.RoomID
		body string
		want string // error code; empty when it passes
	}{
		{e2ee.ModeProxied, encryptedRoom, `{"reason":"spam"}`, ""},
		{e2ee.ModeProxied, encryptedRoom, ``, ""},
		{e2ee.ModeProxied, encryptedRoom, ` {} `, ""},
		{e2ee.ModeProxied, encryptedRoom, message, CodeBadJSON},
		{e2ee.ModeProxied, encryptedRoom, `{"reason":"a","reason":"` + canary + `"}`, CodeBadJSON},
		{e2ee.ModeProxied, encryptedRoom, `{`, CodeNotJSON},
		{e2ee.ModeProxied, unknownRoom, `{"reason":"spam"}`, ""},
		{e2ee.ModeProxied, unknownRoom, message, CodeBadJSON},
		{e2ee.ModeNone, encryptedRoom, message, CodeBadJSON},
		{e2ee.ModeProxied, plainRoom, `{"org.example":1}`, ""},
		{e2ee.ModeForeign, encryptedRoom, `{"org.example":1}`, ""},
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

// FuzzSend: whatever a client sends into an encrypted room, the homeserver gets
// ciphertext, or a reaction or redaction that says nothing else, or nothing.
func FuzzSend(f *testing.F) {
	for _, body := range []string{
		message, `{}`, `{"a":1,"a":2}`, `{"m.relates_to":{"rel_type":"m.annotation"}}`, `{"redacts":"$e"}`,
		`{"body":"\ud800"}`, "\xff", `{"body":1e400}`, `[{}]`, `{"m.relates_to":{"rel_type":"m.annotation","rel_type":"x"}}`,
	} {
		for _, eventType := range []string{"m.room.message", "m.reaction", "m.room.redaction", "m.room.encrypted"} {
			f.Add(eventType, body)
		}
	}
	f.Fuzz(func(t *testing.T, eventType, body string) {
		w := newWorld(t, e2ee.ModeProxied)
		_, err := w.do(sendCall(encryptedRoom, eventType, body))
		got := w.up.requests()
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok || len(got) > 0 {
				t.Fatalf("got %v after %+v", err, got)
			}
			return
		}
		var content map[string]json.RawMessage
		if len(got) != 1 || json.Unmarshal([]byte(got[0].body), &content) != nil {
			t.Fatalf("upstream got %+v", got)
		}
		allowed := []string{"algorithm", "ciphertext", "session_id"}
		switch {
		case strings.Contains(got[0].path, "/m.reaction/"):
			allowed = []string{"m.relates_to", "shortcode", "com.beeper.reaction.shortcode"}
		case strings.Contains(got[0].path, "/m.room.redaction/"):
			allowed = []string{"redacts", "reason", "with_rel_types", "org.matrix.msc3912.with_rel_types", "org.matrix.msc3912.with_relations"}
		}
		for name := range content {
			if !strings.Contains(" "+strings.Join(allowed, " ")+" ", " "+name+" ") {
				t.Fatalf("%q reached the homeserver in %+v", name, got)
			}
		}
	})
}
