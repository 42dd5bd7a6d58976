package proxy

import (
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/interceptors"
)

// The control API answers nobody without an access token that the homeserver knows, and
// has no calls but those of the table: another method, another path or a body that is too
// large is refused before a handler sees it. Nothing of it ever goes to the homeserver.
func TestControlCallsAreGuarded(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) {
		for _, r := range controlRoutes() {
			o.Handlers[r.handler] = sayName(r.handler)
		}
	})
	methods := make(map[string][]string)
	for _, r := range controlRoutes() {
		methods[r.pattern] = append(methods[r.pattern], r.method)
	}
	check := func(what string, a answer, status int, code string) {
		t.Helper()
		if a.StatusCode != status || a.errcode() != code || a.Header.Get("X-Intercepted") != "" || a.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %s %v", what, a.StatusCode, a.body, a.Header)
		}
	}
	for _, r := range controlRoutes() {
		path, body := fill(r.pattern, ""), ""
		if r.maxBody > 0 {
			body = "{}"
		}
		if a := g.do(r.method, path, body, "Authorization: Bearer alice"); a.Header.Get("X-Intercepted") != r.handler {
			t.Errorf("%s %s is not answered: %d %s", r.method, path, a.StatusCode, a.body)
		}
		check(r.method+" "+path+" without a token", g.do(r.method, path, body), http.StatusUnauthorized, "M_MISSING_TOKEN")
		check(r.method+" "+path+" with a token of nobody's", g.do(r.method, path, body, "Authorization: Bearer nobody"), http.StatusUnauthorized, "M_UNKNOWN_TOKEN")
		for _, other := range []string{"GET", "POST", "PUT", "DELETE", "PATCH"} {
			if !strings.Contains(strings.Join(methods[r.pattern], " "), other) {
				check(other+" "+path, g.do(other, path, "", "Authorization: Bearer alice"), http.StatusNotFound, "M_UNRECOGNIZED")
			}
		}
		if r.maxBody == smallBody {
			check(r.method+" "+path+" with a large body", g.do(r.method, path, strings.Repeat(" ", smallBody+1), "Authorization: Bearer alice"),
				http.StatusRequestEntityTooLarge, interceptors.CodeTooLarge)
		}
	}
	for _, path := range []string{"/_e2ee_proxy/v1/elsewhere", "/_e2ee_proxy/v1/keys", "/_e2ee_proxy/v2/status", "/_e2ee_proxy/status"} {
		check(path, g.do("GET", path, "", "Authorization: Bearer alice"), http.StatusNotFound, "M_UNRECOGNIZED")
	}
	if got := g.hs.all(); len(got) != 0 {
		t.Errorf("the homeserver saw %+v", got)
	}
}
