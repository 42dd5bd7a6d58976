package apierr_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/apierr"
)

// The constructors are read by people and by programs: statuses and codes are pinned.
func TestErrorConstructors(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	tests := []struct {
		name   string
		err    *apierr.Error
		status int
		code   string
		fields map[string]any
	}{
		{"not JSON", apierr.NotJSON(cause), 400, "M_NOT_JSON", nil},
		{"bad JSON", apierr.BadJSON("x"), 400, "M_BAD_JSON", nil},
		{"too large", apierr.TooLarge(10), 413, "M_TOO_LARGE", nil},
		{"unrecognized", apierr.Unrecognized("x"), 400, "M_UNRECOGNIZED", nil},
		{"not implemented", apierr.NotImplemented("x"), 404, "M_UNRECOGNIZED", nil},
		{"invalid parameter", apierr.InvalidParam("x"), 400, "M_INVALID_PARAM", nil},
		{"missing parameter", apierr.MissingParam("x"), 400, "M_MISSING_PARAM", nil},
		{"not found", apierr.NotFound("x"), 404, "M_NOT_FOUND", nil},
		{"forbidden", apierr.Forbidden("x"), 403, "M_FORBIDDEN", nil},
		{"missing token", apierr.MissingToken(), 401, "M_MISSING_TOKEN", nil},
		{"unknown token", apierr.UnknownToken(false), 401, "M_UNKNOWN_TOKEN", nil},
		{"soft logout", apierr.UnknownToken(true), 401, "M_UNKNOWN_TOKEN", map[string]any{"soft_logout": true}},
		{"limit", apierr.LimitExceeded(1500 * time.Millisecond), 429, "M_LIMIT_EXCEEDED", map[string]any{"retry_after_ms": int64(1500)}},
		{"cannot tell", apierr.CannotEncrypt(false, cause), 503, "DEV.E2EE_PROXY.CANNOT_ENCRYPT", nil},
		{"algorithm unknown", apierr.CannotEncrypt(true, nil), 403, "DEV.E2EE_PROXY.CANNOT_ENCRYPT", nil},
		{"not signed", apierr.DeviceNotSigned("sign it"), 403, "DEV.E2EE_PROXY.DEVICE_NOT_SIGNED", nil},
		{
			"identity changed", apierr.IdentityChanged([]id.UserID{"@a:b"}, "x"), 403, "DEV.E2EE_PROXY.IDENTITY_CHANGED",
			map[string]any{"users": []id.UserID{"@a:b"}},
		},
		{"unreachable", apierr.Unreachable(cause), 502, "M_UNKNOWN", nil},
		{"timed out", apierr.TimedOut(cause), 504, "M_UNKNOWN", nil},
	}
	for _, test := range tests {
		if test.err.Status != test.status || test.err.ErrCode != test.code {
			t.Errorf("%s: got %d %s, want %d %s", test.name, test.err.Status, test.err.ErrCode, test.status, test.code)
		}
		if diff := cmp.Diff(test.fields, test.err.Fields); diff != "" {
			t.Errorf("%s: fields (-want +got):\n%s", test.name, diff)
		}
		if test.err.Text == "" {
			t.Errorf("%s: no text for a person", test.name)
		}
		if strings.Contains(test.err.Public(), "cause") {
			t.Errorf("%s: the public text shows the cause", test.name)
		}
	}
}

func TestErrorKeepsItsCauseForTheLog(t *testing.T) {
	t.Parallel()
	cause := errors.New("dial tcp: refused")
	err := fmt.Errorf("send: %w", apierr.Unreachable(nil).Because(cause).WithHint("Wait."))
	if !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
	if !strings.Contains(err.Error(), "dial tcp: refused") {
		t.Errorf("log text %q lacks the cause", err)
	}
	if !apierr.HasCode(err, apierr.CodeUnknown) || apierr.HasCode(err, apierr.CodeNotFound) {
		t.Error("HasCode does not see through wrapping")
	}
	var e *apierr.Error
	if !errors.As(err, &e) || e.Public() != "The homeserver cannot be reached. Wait." {
		t.Errorf("public text %q", e.Public())
	}
}

func TestRetryAfterIsWholeSecondsAndAtLeastOne(t *testing.T) {
	t.Parallel()
	for after, want := range map[time.Duration]string{0: "1", time.Millisecond: "1", 1001 * time.Millisecond: "2"} {
		if got := apierr.LimitExceeded(after).Header.Get("Retry-After"); got != want {
			t.Errorf("%v: got %q, want %q", after, got, want)
		}
	}
}

func TestFromResponse(t *testing.T) {
	t.Parallel()
	response := func(status int, body string) *http.Response {
		return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"7"}}, Body: io.NopCloser(strings.NewReader(body))}
	}
	got := apierr.FromResponse(response(401, `{"errcode":"M_USER_LOCKED","error":"locked","soft_logout":true}`))
	want := &apierr.Error{
		Status: 401, ErrCode: "M_USER_LOCKED", Text: "locked",
		Fields: map[string]any{"soft_logout": true}, Header: http.Header{"Retry-After": {"7"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, c := range map[string]struct {
		resp *http.Response
		none bool
	}{
		"a website":              {response(404, "<html>secret</html>"), true},
		"a website, found":       {response(200, "<html>secret</html>"), true},
		"what stands before one": {response(502, "<html>secret</html>"), false},
	} {
		got := apierr.FromOther(c.resp, "answer")
		if none := strings.Contains(got.Public(), "no Matrix homeserver"); got.Status != 502 || none != c.none || strings.Contains(got.Error(), "secret") {
			t.Errorf("%s: got %v", name, got)
		}
	}
	for name, resp := range map[string]*http.Response{
		"HTML":          response(500, "<html>secret</html>"),
		"no code":       response(500, `{"error":"secret"}`),
		"not an error":  response(200, `{"errcode":"M_FORBIDDEN"}`),
		"not an object": response(403, `[1]`),
	} {
		if got := apierr.FromResponse(resp); got.Status != 502 || strings.Contains(got.Error(), "secret") {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
