package control

import (
	"errors"
	"net/http"
	"slices"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// A call is done only when the path that is seen here is that of the call which package
// proxy decided on: should the two ever differ, nothing is done.
func TestControlCallsMustAgree(t *testing.T) {
	t.Parallel()
	calls := (&api{}).calls()
	names := []string{None}
	for _, k := range calls {
		names = append(names, k.name)
	}
	for _, decided := range names {
		for _, k := range calls {
			if decided == k.name {
				continue
			}
			w, c := controlWorld(t, e2ee.ModeProxied)
			rec, err := w.do(callOf(decided, k.method, k.path[1:], `{"confirm":true}`))
			if public := (*apierr.Error)(nil); err == nil || errors.As(err, &public) || len(c.asked) > 0 || rec.Body.Len() > 0 {
				t.Errorf("decided %s, found %s: %v, asked %q", decided, k.name, err, c.asked)
			}
		}
	}
}

// What is no call is refused in the form of Matrix, whatever its name is: 404 for the path,
// 405 with what is allowed for the method.
func TestControlRefusesWhatIsNoCall(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "bootstrap", 405, "POST"},
		{"POST", "recovery_key", 405, "GET, DELETE"},
		{"PATCH", "recovery_key", 405, "GET, DELETE"},
		{"DELETE", "users/{userId}/devices/{deviceId}/override", 405, "PUT"},
		{"HEAD", "bootstrap", 405, "POST"},
		{"BREW", "bootstrap", 405, "POST"},
		{"BREW", "elsewhere", 404, ""},
		{"GET", "elsewhere", 404, ""},
		{"GET", "status/", 404, ""},
		{"GET", "users", 404, ""},
		{"GET", "STATUS", 404, ""},
		{"GET", "", 404, ""},
	} {
		for _, decided := range []string{None, Status} {
			w, c := controlWorld(t, e2ee.ModeProxied)
			_, err := w.do(callOf(decided, tt.method, tt.path, ""))
			e := shown(t, err, tt.status, apierr.CodeUnrecognized)
			if allow := e.Header.Get("Allow"); allow != tt.allow || len(c.asked) > 0 {
				t.Errorf("%s %s allows %q, asked %q", tt.method, tt.path, allow, c.asked)
			}
		}
	}
}

// No two calls are one, and each needs a proxied device but those that tell whether there is
// one.
func TestControlCalls(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, k := range (&api{}).calls() {
		if at := k.method + " " + k.path; seen[at] || seen[k.name] || k.do == nil {
			t.Errorf("%s %s is there twice, or does nothing", k.name, at)
		} else {
			seen[at], seen[k.name] = true, true
		}
		if k.anyToken != (k.name == Status || k.name == Checkup) {
			t.Errorf("%s answers for any token: %t", k.name, k.anyToken)
		}
		if !slices.Contains([]string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete}, k.method) {
			t.Errorf("%s has the method %s, of which a refusal knows nothing", k.name, k.method)
		}
	}
}
