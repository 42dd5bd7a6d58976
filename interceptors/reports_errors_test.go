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
	"e2ee-proxy/interceptors/internal/engineerr"
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
	}
	none := &e2ee.UpstreamError{Op: "send to devices", Cause: context.DeadlineExceeded}
	if e := shown(t, engineerr.For(none), http.StatusGatewayTimeout, apierr.CodeUnknown); !strings.Contains(e.Text, "homeserver") {
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
