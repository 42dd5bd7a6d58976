package interceptors

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// Report: while a room key is shared the homeserver answers with 429 or 502, and the client
// is told that it cannot be determined for whom to encrypt, or that the proxy has too much to
// do. People looked for the fault in the wrong place.
//
// Expected: the homeserver is named, with its status and what it was asked; how long it asks
// to wait is passed on exactly; and it is said that nothing was sent.
func TestHomeserverFailsWhileAKeyIsShared(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		up     e2ee.UpstreamError
		status int
		code   string
		says   []string
		ms     int64
		header string
	}{
		{e2ee.UpstreamError{Op: "send to devices", Status: 429, ErrCode: apierr.CodeLimitExceeded, RetryAfter: 1234 * time.Millisecond}, 429, apierr.CodeLimitExceeded, []string{"The homeserver limits"}, 1234, "2"},
		{e2ee.UpstreamError{Op: "send to devices", Status: 429, ErrCode: apierr.CodeLimitExceeded, RetryAfter: 200 * time.Millisecond}, 429, apierr.CodeLimitExceeded, []string{"The homeserver limits"}, 200, "1"},
		{e2ee.UpstreamError{Op: "claim one-time keys", Status: 429}, 429, apierr.CodeLimitExceeded, []string{"The homeserver limits"}, 1000, "1"},
		{e2ee.UpstreamError{Op: "send to devices", Status: 502}, 502, apierr.CodeUnknown, []string{"status 502", "send to devices"}, 0, "5"},
		{e2ee.UpstreamError{Op: "query device keys", Status: 500, ErrCode: apierr.CodeUnknown}, 502, apierr.CodeUnknown, []string{"status 500", "query device keys"}, 0, "5"},
	} {
		for _, err := range []error{
			fmt.Errorf("deliver the room key: %w", &tt.up),
			fmt.Errorf("%w: %w", e2ee.ErrCannotEncrypt, &tt.up),
		} {
			w := newWorld(t, e2ee.ModeProxied)
			w.dev.encryptErr = err
			_, got := w.do(sendCall(encryptedRoom, typeMessage, message))
			e := shown(t, got, tt.status, tt.code)
			for _, part := range append(tt.says, "not sent") {
				if !strings.Contains(e.Public(), part) {
					t.Errorf("%v: %q does not say %q", err, e.Public(), part)
				}
			}
			if ms, _ := e.Fields["retry_after_ms"].(int64); ms != tt.ms || e.Header.Get("Retry-After") != tt.header {
				t.Errorf("%v: wait %d ms, %q", err, ms, e.Header.Get("Retry-After"))
			}
		}
		control := shown(t, controlError(fmt.Errorf("%w: %w", e2ee.ErrCannotEncrypt, &tt.up)), tt.status, tt.code)
		if !strings.Contains(control.Public(), tt.says[0]) || strings.Contains(control.Public(), "not sent") {
			t.Errorf("the control API says %q", control.Public())
		}
	}
	none := &e2ee.UpstreamError{Op: "send to devices", Cause: context.DeadlineExceeded}
	if e := shown(t, engineError(none), http.StatusGatewayTimeout, apierr.CodeUnknown); !strings.Contains(e.Text, "homeserver") {
		t.Errorf("no answer is told as %q", e.Text)
	}
}

// Report: something in front of the homeserver answers 429 with a page of HTML, and the
// client is told that the homeserver cannot be reached, so that it tries again at once.
//
// Expected: it is a 429, with the time to wait; any other page is told as what it is, with
// its status, and nothing of it is shown.
func TestLimitWithoutMatrixError(t *testing.T) {
	t.Parallel()
	page := func(status int) *http.Response {
		return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"7"}}, Body: io.NopCloser(strings.NewReader("<html>" + canary + "</html>"))}
	}
	e := shown(t, apierr.FromResponse(page(429)), 429, apierr.CodeLimitExceeded)
	if e.Fields["retry_after_ms"] != int64(7000) || e.Header.Get("Retry-After") != "7" || !strings.Contains(e.Text, "homeserver") {
		t.Errorf("got %+v", e)
	}
	e = shown(t, apierr.FromResponse(page(503)), 502, apierr.CodeUnknown)
	if !strings.Contains(e.Text, "status 503") || strings.Contains(e.Public(), "reached") {
		t.Errorf("got %q", e.Public())
	}
}

// Report: a misspelt member or a bad parameter of the control API is refused with words that
// name neither.
//
// Expected: they are named, and what the call takes is said; but never a name that could be
// a secret in the wrong place, and nothing of either in the log.
func TestControlNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"confrim":true}`:                         `unknown. It is "confrim". This call takes password, auth, confirm.`,
		`{"Confirm":true}`:                         `unknown. It is "Confirm".`,
		`{"confirm":true,"confirm":true}`:          `twice there. It is "confirm".`,
		`{"confirm":"yes"}`:                        `of the wrong kind. It is "confirm".`,
		`{"password":{"is":"x"}}`:                  `of the wrong kind. It is "password".`,
		`{"` + canary + `":true}`:                  `unknown. This call takes`,
		`{"EsTk 5r3k abcd":true}`:                  `unknown. This call takes`,
		`{"` + strings.Repeat("a", 33) + `":true}`: `unknown. This call takes`,
	} {
		w, _ := controlWorld(t, e2ee.ModeProxied)
		_, err := w.do(callOf(ControlReset, http.MethodPost, "reset", body))
		e := shown(t, err, http.StatusBadRequest, apierr.CodeBadJSON)
		if !strings.Contains(e.Public(), want) {
			t.Errorf("%s: %q does not say %q", body, e.Public(), want)
		}
		if strings.Contains(e.Error(), "confrim") {
			t.Errorf("the log says %q", e.Error())
		}
	}
	w, _ := controlWorld(t, e2ee.ModeProxied)
	_, err := w.do(callOf(ControlRestoreKeys, http.MethodPost, "keys/restore", `{"x":1}`))
	if e := shown(t, err, http.StatusBadRequest, apierr.CodeBadJSON); !strings.Contains(e.Public(), `It is "x". This call takes no members.`) {
		t.Errorf("got %q", e.Public())
	}
	c := callOf(ControlUser, http.MethodGet, "users/{userId}", "")
	c.params = map[string]string{"userId": "bob"}
	_, err = w.do(c)
	if e := shown(t, err, http.StatusBadRequest, apierr.CodeInvalidParam); !strings.Contains(e.Public(), "{userId}") {
		t.Errorf("got %q", e.Public())
	}
}
