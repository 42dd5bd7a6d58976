package proxy

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
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
		o.Handlers[interceptors.ControlNone] = controlHandlers(t)[interceptors.ControlNone]
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
				a := g.do(other, path, body, "Authorization: Bearer alice")
				check(other+" "+path, a, http.StatusMethodNotAllowed, "M_UNRECOGNIZED")
				if allow := a.Header.Get("Allow"); allow != strings.Join(methods[r.pattern], ", ") {
					t.Errorf("%s allows %q", path, allow)
				}
			}
		}
		if r.maxBody == smallBody {
			check(r.method+" "+path+" with a large body", g.do(r.method, path, strings.Repeat(" ", smallBody+1), "Authorization: Bearer alice"),
				http.StatusRequestEntityTooLarge, apierr.CodeTooLarge)
		}
	}
	for _, path := range []string{"/_e2ee_proxy/v1/elsewhere", "/_e2ee_proxy/v1/keys", "/_e2ee_proxy/v2/status", "/_e2ee_proxy/status", "/_e2ee_proxy",
		"/_e2ee_proxy/v1/st%61tus", "/_e2ee_proxy/v1/status/", "/_e2ee_proxy/v1%2Fstatus", "/_e2ee_proxy/v1/%2e%2E%2fv1/status", "/_e2ee_proxy/v1/status/x",
		"/_e2ee_proxy/v1/warnings/%00/dismiss/x"} {
		for _, method := range []string{"GET", "POST", "PATCH"} {
			check(method+" "+path, g.do(method, path, "", "Authorization: Bearer alice"), http.StatusNotFound, "M_UNRECOGNIZED")
		}
	}
	for _, path := range []string{"/_e2ee_proxy/v1//status", "/_e2ee_proxy/v1/../v1/status", "/_e2ee_proxy/v1/%2e%2e/v1/status", "/_e2ee_proxy/v1/status;x"} {
		check(path, g.do("POST", path, "", "Authorization: Bearer alice"), http.StatusBadRequest, "M_UNRECOGNIZED")
	}
	if got := g.hs.all(); len(got) != 0 {
		t.Errorf("the homeserver saw %+v", got)
	}
}

func controlHandlers(t *testing.T) map[string]interceptors.Handler {
	t.Helper()
	all, err := interceptors.Handlers(interceptors.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// noted is an interceptors.Devices without devices, which records who was looked up.
type noted struct {
	interceptors.Devices
	asked atomic.Int32
}

func (n *noted) Device(context.Context, interceptors.Identity) (interceptors.Device, error) {
	n.asked.Add(1)
	return nil, apierr.Forbidden("There is no such device.")
}

func (n *noted) HeldDevices(context.Context, id.UserID) ([]e2ee.HeldDevice, error) {
	n.asked.Add(1)
	return nil, apierr.Forbidden("There is no such device.")
}

// What the route table decides and what the control API finds by the path that was written
// anew is the same call, for every row and whatever its parameters hold.
func TestControlCallsAreThoseOfTheTable(t *testing.T) {
	t.Parallel()
	devices := &noted{}
	g := newRig(t, func(o *Options) {
		o.Devices = devices
		for name, handler := range controlHandlers(t) {
			if strings.HasPrefix(name, "control.") {
				o.Handlers[name] = handler
			}
		}
	})
	var want int32
	for _, r := range controlRoutes() {
		for _, param := range []string{"@u:hs", "%40u%3Ahs", "a%2Fb", "status", "%7Bx%7D", "a%252Fb", "a*b", "%C3%A9", "x%3Fy%23z"} {
			segs := strings.Split(r.pattern, "/")
			for i := range segs {
				if strings.HasPrefix(segs[i], "{") {
					segs[i] = param
				}
			}
			if !strings.Contains(r.pattern, "/admin/") { // those ask for no device
				want++
			}
			path, body := strings.Join(segs, "/"), ""
			if r.maxBody > 0 {
				body = "{}"
			}
			if a := g.do(r.method, path, body, "Authorization: Bearer alice"); a.StatusCode != http.StatusForbidden || devices.asked.Load() != want {
				t.Errorf("%s %s: %d %s", r.method, path, a.StatusCode, a.body)
			}
		}
	}
	if a := g.do("HEAD", "/_e2ee_proxy/v1/status", "", "Authorization: Bearer alice"); a.StatusCode != http.StatusForbidden {
		t.Errorf("HEAD status: %d", a.StatusCode)
	}
	if a := g.do("OPTIONS", "/_e2ee_proxy/v1/bootstrap", ""); a.StatusCode != http.StatusNoContent {
		t.Errorf("OPTIONS bootstrap: %d", a.StatusCode)
	}
	if got := g.hs.all(); len(got) != 0 {
		t.Errorf("the homeserver saw %+v", got)
	}
}
