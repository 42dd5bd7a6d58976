package interceptors

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/rewrite"
)

const theNotice = "$known:e2ee-proxy.invalid"

// What relates a message to a notice is taken out of it, since nobody else has that
// event; what says nothing without it is refused. Nothing that names a notice goes up.
func TestSendsThatRelateToNotices(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		eventType, body, want string // want is empty when it is refused
	}{
		{"m.room.message", `{"body":"hi","m.relates_to":{"m.in_reply_to":{"event_id":"$known:e2ee-proxy.invalid"}}}`, `{"body":"hi"}`},
		{"m.room.message", `{"body":"hi","m.relates_to":{"m.in_reply_to":{"event_id":"$known:e2ee-proxy.in\u0076alid"}}}`, `{"body":"hi"}`},
		{"m.room.message", `{"body":"hi","m.relates_to":{"rel_type":"m.thread","event_id":"$known:e2ee-proxy.invalid","m.in_reply_to":{"event_id":"$e"}}}`, `{"body":"hi"}`},
		{
			"m.room.message", `{"body":"hi","m.relates_to":{"rel_type":"m.thread","event_id":"$e","m.in_reply_to":{"event_id":"$known:e2ee-proxy.invalid"}}}`,
			`{"body":"hi","m.relates_to":{"rel_type":"m.thread","event_id":"$e"}}`,
		},
		{"m.room.message", `{"body":"see $known:e2ee-proxy.invalid"}`, `{"body":"see $known:e2ee-proxy.invalid"}`},
		{"m.room.message", `{"body":"\u00e9","m.relates_to":{"m.in_reply_to":{"event_id":"$e"}}}`, `{"body":"\u00e9","m.relates_to":{"m.in_reply_to":{"event_id":"$e"}}}`},
		{"m.room.message", `{"body":"* hi","m.new_content":{},"m.relates_to":{"rel_type":"m.replace","event_id":"$known:e2ee-proxy.invalid"}}`, ""},
		{"m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$known:e2ee-proxy.invalid","key":"👍"}}`, ""},
		{"m.room.redaction", `{"redacts":"$known:e2ee-proxy.invalid"}`, ""},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		_, err := w.do(call{
			handler: Send, method: http.MethodPut, pattern: "/rooms/{roomId}/send/{eventType}/{txnId}", body: tt.body,
			params: map[string]string{"roomId": encryptedRoom.String(), "eventType": tt.eventType, "txnId": "1"},
		})
		if tt.want == "" {
			wantError(t, err, http.StatusForbidden, apierr.CodeForbidden)
			w.wantNothingUpstream()
			continue
		}
		if err != nil || len(w.dev.outgoing) != 1 || w.dev.outgoing[0] != tt.want {
			t.Errorf("%s became %q, %v; want %s", tt.body, w.dev.outgoing, err, tt.want)
		}
	}
}

// before sets the homeserver's answer about the event before a notice: an event, or nothing
// useful.
func (w *world) before(answer string) {
	w.up.respond = func(s seen) (int, string) {
		if strings.HasSuffix(s.path, "/messages") {
			if s.method != http.MethodGet || s.query != "dir=b&from=s7_1&limit=1" || s.body != "" {
				w.t.Errorf("asked %+v", s)
			}
			return http.StatusOK, answer
		}
		return http.StatusOK, `{}`
	}
}

// told returns the requests that changed something, without those that asked.
func (w *world) told() []seen {
	return slices.DeleteFunc(w.up.requests(), func(s seen) bool { return strings.HasSuffix(s.path, "/messages") })
}

// Who has read up to a notice has read what stands before it.
func TestReadMarkersOnNotices(t *testing.T) {
	t.Parallel()
	const event, nothing = `{"chunk":[{"event_id":"$b\"efore"}]}`, `{"chunk":[]}`
	for _, tt := range []struct{ before, body, want string }{
		{event, `{"m.fully_read":"$a","m.read":"$a"}`, `{"m.fully_read":"$a","m.read":"$a"}`},
		{event, `{"m.fully_read":"$known:e2ee-proxy.invalid","m.read":"$a"}`, `{"m.fully_read":"$b\"efore","m.read":"$a"}`},
		{nothing, `{"m.fully_read":"$known:e2ee-proxy.invalid","m.read":"$a"}`, `{"m.read":"$a"}`},
		{event, `{"m.fully_read":"$other:e2ee-proxy.invalid","m.read":"$a"}`, `{"m.read":"$a"}`},
		{nothing, `{"m.fully_read":"$a","m.read.private":"$known:e2ee-proxy.invalid"}`, `{"m.fully_read":"$a"}`},
		{nothing, `{"m.fully_read":"$known:e2ee-proxy.invalid","m.read":"$known:e2ee-proxy.invali\u0064"}`, ""},
		{`{"chunk":[{"event_id":"$x:e2ee-proxy.invalid"}]}`, `{"m.read":"$known:e2ee-proxy.invali\u0064"}`, ""},
		{`<html>`, `{"m.read":"$known:e2ee-proxy.invali\u0064"}`, ""},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		w.before(tt.before)
		out, err := w.do(call{
			handler: ReadMarkers, method: http.MethodPost, pattern: "/rooms/{roomId}/read_markers", body: tt.body,
			params: map[string]string{"roomId": encryptedRoom.String()},
		})
		if err != nil || out.Code != http.StatusOK {
			t.Fatalf("%s: %d, %v", tt.body, out.Code, err)
		}
		got := w.told()
		if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || got[0].body != tt.want) {
			t.Errorf("%s became %+v, want %s", tt.body, got, tt.want)
		}
	}
}

// Requests about a notice are answered here: those who do not exist are not found.
func TestRequestsAboutNotices(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method, pattern, event, want, code string
	}{
		{"GET", "/rooms/{roomId}/event/{eventId}", theNotice, `{"event_id":"$known:e2ee-proxy.invalid"}`, ""},
		{"GET", "/rooms/{roomId}/event/{eventId}", "$other:e2ee-proxy.invalid", "", apierr.CodeNotFound},
		{
			"GET", "/rooms/{roomId}/context/{eventId}", theNotice,
			`{"event":{"event_id":"$known:e2ee-proxy.invalid"},"events_before":[],"events_after":[],"state":[]}`, "",
		},
		{"GET", "/rooms/{roomId}/relations/{eventId}", theNotice, `{"chunk":[]}`, ""},
		{"POST", "/rooms/{roomId}/receipt/{receiptType}/{eventId}", "$other:e2ee-proxy.invalid", `{}`, ""},
		{"PUT", "/rooms/{roomId}/redact/{eventId}/{txnId}", theNotice, "", apierr.CodeForbidden},
		{"POST", "/rooms/{roomId}/report/{eventId}", theNotice, "", apierr.CodeNotFound},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		rec, req := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), tt.method, "/", http.NoBody)
		params := map[string]string{"roomId": encryptedRoom.String(), "eventId": tt.event}
		if !IsNoticeName(tt.event) {
			t.Fatalf("%s is not taken for a notice", tt.event)
		}
		err := AnswerNotice(&Exchange{
			Writer: rec, Request: req, Upstream: w.up, Devices: w.devices, Identity: w.who,
			Endpoint: Endpoint{Pattern: "/_matrix/client/{version}" + tt.pattern, Version: "v3", Params: params},
		})
		w.wantNothingUpstream()
		switch {
		case tt.code == apierr.CodeForbidden:
			wantError(t, err, http.StatusForbidden, tt.code)
		case tt.code != "":
			wantError(t, err, http.StatusNotFound, tt.code)
		case err != nil || rec.Body.String() != tt.want:
			t.Errorf("%s %s: %s, %v; want %s", tt.method, tt.pattern, rec.Body, err, tt.want)
		}
	}
}

// A receipt for a notice goes up for the last event that the client was shown before it, with
// all that the client said beside; where that cannot be told, nothing goes up.
func TestReceiptsForNotices(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ before, want string }{
		{`{"chunk":[{"event_id":"$before"}]}`, "/_matrix/client/v3/rooms/%21encrypted:hs.example/receipt/m.read/$before"},
		{`{"chunk":[]}`, ""},
		{`{"chunk":[{"event_id":""}]}`, ""},
		{`{"chunk":"none"}`, ""},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		w.before(tt.before)
		w.handlers = map[string]Handler{"notice": AnswerNotice}
		out, err := w.do(call{
			handler: "notice", method: http.MethodPost, pattern: "/rooms/{roomId}/receipt/{receiptType}/{eventId}", body: `{"thread_id":"main"}`,
			params: map[string]string{"roomId": encryptedRoom.String(), "receiptType": "m.read", "eventId": theNotice},
		})
		if err != nil || out.Code != http.StatusOK || out.Body.String() != `{}` {
			t.Errorf("%s: %d %s, %v", tt.before, out.Code, out.Body, err)
		}
		got := w.told()
		if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 1 || got[0].method != http.MethodPost || got[0].path != tt.want || got[0].body != `{"thread_id":"main"}`) {
			t.Errorf("%s: the homeserver was told %+v, want %s", tt.before, got, tt.want)
		}
	}
}

// The first look would miss names that do not have in them what it looks for.
func TestFirstLookAtNames(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`{"sender":"` + e2ee.NoticeSender.String() + `"}`: true,
		`{"sender":"@warnings:e2ee\u002dproxy.invalid"}`:  true,
		`{"sender":"@bob:hs.example"}`:                    false,
	} {
		if rewrite.MayNameNotice([]byte(text)) != want {
			t.Errorf("%s: want %v", text, want)
		}
	}
}
