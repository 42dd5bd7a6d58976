package ops_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"e2ee-proxy/internal/ops"
	"e2ee-proxy/internal/secret"
)

const opsToken = "0123456789abcdef0123"

// administered returns a handler with calls of administrators, and what was asked.
func administered(token string, fails error) (h *ops.Handler, asked, failed *[]string) {
	asked, failed = new([]string), new([]string)
	do := func(_ context.Context, user, from, limit string) (any, error) {
		*asked = append(*asked, strings.Join([]string{user, from, limit}, " "))
		return map[string]string{"for": user}, fails
	}
	return ops.New(prometheus.NewRegistry(), ops.NewReadiness(quiet), &ops.Admin{
		Token: func() secret.String { return secret.NewString(token) },
		Calls: []ops.AdminCall{
			{Method: http.MethodGet, Path: "/accounts", Do: do}, {Method: http.MethodGet, Path: "/accounts/{userId}", Do: do},
			{Method: http.MethodPost, Path: "/accounts/{userId}/end_sessions", Do: do},
		},
		Fault: func(err error) (int, string, string, bool) {
			return http.StatusNotFound, "M_NOT_FOUND", "There is none.", err.Error() == "none"
		},
		Failed: func(call string, err error) { *failed = append(*failed, call+": "+err.Error()) },
	}), asked, failed
}

func adminGet(h http.Handler, method, target string, authorization ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequestWithContext(context.Background(), method, target, nil)
	req.Header["Authorization"] = authorization
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	return rec
}

// Attack: somebody reaches the operators' listener, where nothing else needs a token, and calls
// what administrators may. Without the token, with another, with two, with its beginning, by
// whatever path, everybody gets 403; where none is set, there is nothing.
func TestAdminNeedsTheToken(t *testing.T) {
	t.Parallel()
	h, asked, _ := administered(opsToken, nil)
	for _, target := range []string{"/admin/accounts", "/admin/accounts/@a:b", "/admin/nothing", "/admin/"} {
		for _, said := range [][]string{
			nil, {""}, {"Bearer "}, {"Bearer " + opsToken[:10]}, {"Bearer " + opsToken + "x"}, {opsToken}, {"Basic " + opsToken}, {"bearer " + opsToken},
			{"Bearer " + opsToken, "Bearer " + opsToken}, {"Bearer wrong", "Bearer " + opsToken},
		} {
			for _, method := range []string{"GET", "POST", "HEAD"} {
				rec := adminGet(h, method, target, said...)
				if rec.Code != http.StatusForbidden || !strings.Contains(rec.Body.String(), "M_FORBIDDEN") || strings.Contains(rec.Body.String(), opsToken) {
					t.Errorf("%s %s with %q: %d %s", method, target, said, rec.Code, rec.Body)
				}
			}
		}
	}
	if rec := adminGet(h, "GET", "/admin/accounts?access_token="+opsToken); rec.Code != http.StatusForbidden {
		t.Errorf("with the token in the query: %d", rec.Code)
	}
	if len(*asked) > 0 {
		t.Errorf("asked %q", *asked)
	}
	off, asked, _ := administered("", nil)
	for _, said := range [][]string{nil, {"Bearer "}, {"Bearer " + opsToken}} {
		if rec := adminGet(off, "GET", "/admin/accounts", said...); rec.Code != http.StatusNotFound || len(*asked) > 0 {
			t.Errorf("without a token set, with %q: %d", said, rec.Code)
		}
	}
}

// With the token the calls answer, each to its method and path; what fails is logged and not shown.
func TestAdminCalls(t *testing.T) {
	t.Parallel()
	h, asked, _ := administered(opsToken, nil)
	for target, want := range map[string]struct {
		method string
		status int
		asked  string
	}{
		"/admin/accounts?from=x&limit=3":      {"GET", 200, " x 3"},
		"/admin/accounts/@a:b":                {"GET", 200, "@a:b  "},
		"/admin/accounts/%40a%2Fc%3Ab":        {"GET", 200, "@a/c:b  "},
		"/admin/accounts/@a:b/end_sessions":   {"POST", 200, "@a:b  "},
		"/admin/accounts/@a:b/end_sessions?x": {"GET", 405, ""},
		"/admin/accounts/":                    {"GET", 404, ""},
		"/admin/nothing":                      {"GET", 404, ""},
		"//admin/accounts":                    {"GET", 404, ""},
	} {
		*asked = nil
		rec := adminGet(h, want.method, target, "Bearer "+opsToken)
		if rec.Code != want.status || strings.Join(*asked, "|") != want.asked || rec.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s, asked %q", target, rec.Code, rec.Body, *asked)
		}
	}
	broken, _, failed := administered(opsToken, errors.New("postgres://secret@host"))
	rec := adminGet(broken, "GET", "/admin/accounts", "Bearer "+opsToken)
	if rec.Code != http.StatusInternalServerError || strings.Contains(rec.Body.String(), "secret") || len(*failed) != 1 {
		t.Errorf("a fault: %d %s, logged %q", rec.Code, rec.Body, *failed)
	}
	none, _, failed := administered(opsToken, errors.New("none"))
	if rec := adminGet(none, "GET", "/admin/accounts/@a:b", "Bearer "+opsToken); rec.Code != http.StatusNotFound || len(*failed) != 0 {
		t.Errorf("no account: %d, logged %q", rec.Code, *failed)
	}
}
