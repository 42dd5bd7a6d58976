package control

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

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
		_, err := w.do(callOf(Reset, http.MethodPost, "reset", body))
		e := shown(t, err, http.StatusBadRequest, apierr.CodeBadJSON)
		if !strings.Contains(e.Public(), want) {
			t.Errorf("%s: %q does not say %q", body, e.Public(), want)
		}
		if strings.Contains(e.Error(), "confrim") {
			t.Errorf("the log says %q", e.Error())
		}
	}
	w, _ := controlWorld(t, e2ee.ModeProxied)
	_, err := w.do(callOf(RestoreKeys, http.MethodPost, "keys/restore", `{"x":1}`))
	if e := shown(t, err, http.StatusBadRequest, apierr.CodeBadJSON); !strings.Contains(e.Public(), `It is "x". This call takes no members.`) {
		t.Errorf("got %q", e.Public())
	}
	c := callOf(User, http.MethodGet, "users/{userId}", "")
	c.params = map[string]string{"userId": "bob"}
	_, err = w.do(c)
	if e := shown(t, err, http.StatusBadRequest, apierr.CodeInvalidParam); !strings.Contains(e.Public(), "{userId}") {
		t.Errorf("got %q", e.Public())
	}
}

// Report: the homeserver answers with 429 or 502 while a call is done, and the client is told
// that the proxy has too much to do. People looked for the fault in the wrong place.
//
// Expected: the homeserver is named, and nothing is said of a message that nobody sent.
func TestHomeserverFailsDuringACall(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		up     e2ee.UpstreamError
		status int
		code   string
		says   []string
	}{
		{e2ee.UpstreamError{Op: "send to devices", Status: 429, ErrCode: apierr.CodeLimitExceeded, RetryAfter: 1234 * time.Millisecond}, 429, apierr.CodeLimitExceeded, []string{"The homeserver limits"}},
		{e2ee.UpstreamError{Op: "send to devices", Status: 429, ErrCode: apierr.CodeLimitExceeded, RetryAfter: 200 * time.Millisecond}, 429, apierr.CodeLimitExceeded, []string{"The homeserver limits"}},
		{e2ee.UpstreamError{Op: "claim one-time keys", Status: 429}, 429, apierr.CodeLimitExceeded, []string{"The homeserver limits"}},
		{e2ee.UpstreamError{Op: "send to devices", Status: 502}, 502, apierr.CodeUnknown, []string{"status 502", "send to devices"}},
		{e2ee.UpstreamError{Op: "query device keys", Status: 500, ErrCode: apierr.CodeUnknown}, 502, apierr.CodeUnknown, []string{"status 500", "query device keys"}},
	} {
		e := shown(t, clientError(fmt.Errorf("%w: %w", e2ee.ErrCannotEncrypt, &tt.up)), tt.status, tt.code)
		if !strings.Contains(e.Public(), tt.says[0]) || strings.Contains(e.Public(), "not sent") {
			t.Errorf("the client is told %q", e.Public())
		}
	}
}
