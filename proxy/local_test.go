package proxy

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/secret"
)

// heldOnly is an interceptors.Devices that has one device of Alice's.
type heldOnly struct{ interceptors.Devices }

func (heldOnly) HeldIdentity(_ context.Context, user id.UserID, device id.DeviceID) (interceptors.Identity, error) {
	if user != "@alice:hs" || device != "" && device != "ALICE" {
		return interceptors.Identity{}, apierr.NotFound("There is no such device.")
	}
	return interceptors.Identity{UserID: user, DeviceID: "ALICE", Token: secret.NewString("alice"), Held: true}, nil
}

// sayWho is a handler that answers with who asks, and how.
func sayWho(x *interceptors.Exchange) error {
	h := x.Writer.Header()
	h.Set("X-User", string(x.Identity.UserID))
	h.Set("X-Device", string(x.Identity.DeviceID))
	h.Set("X-Query", x.Request.URL.RawQuery)
	if x.Identity.Held {
		h.Set("X-Held", "yes")
	}
	return x.WriteJSON(struct{}{})
}

func localRig(t *testing.T) *rig {
	return newRig(t, func(o *Options) {
		o.Devices = heldOnly{}
		for _, r := range controlRoutes() {
			o.Handlers[r.handler] = sayWho
		}
	})
}

func (g *rig) local(method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/", strings.NewReader(body))
	r.RequestURI, r.RemoteAddr = target, "@"
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	g.proxy.Local().ServeHTTP(w, r)
	return w
}

// The query of the local socket says for whom a call is; the homeserver is not asked whose a
// token is, since there is none.
func TestLocalCalls(t *testing.T) {
	t.Parallel()
	g := localRig(t)
	for target, want := range map[string]string{
		"status?user=@alice:hs":                         "@alice:hs ALICE yes",
		"status?user=%40alice%3Ahs&device=ALICE&wait=5": "@alice:hs ALICE yes wait=5",
		"devices?user=@bob:hs":                          "@bob:hs yes",
	} {
		a := g.local("GET", "/_e2ee_proxy/v1/"+target, "")
		h := a.Header()
		got := strings.Join(strings.Fields(h.Get("X-User")+" "+h.Get("X-Device")+" "+h.Get("X-Held")+" "+h.Get("X-Query")), " ")
		if a.Code != http.StatusOK || got != want {
			t.Errorf("%s: %d %q, want %q", target, a.Code, got, want)
		}
	}
	for target, want := range map[string]int{
		"status":                             http.StatusBadRequest,
		"status?user=":                       http.StatusBadRequest,
		"status?user=@alice:hs&user=@bob:hs": http.StatusBadRequest,
		"status?user=@alice:hs&device=A&device=B":  http.StatusBadRequest,
		"status?user=@bob:hs":                      http.StatusNotFound,
		"status?user=@alice:hs&device=OTHER":       http.StatusNotFound,
		"status?user=@alice:hs&access_token=alice": http.StatusBadRequest,
		"elsewhere?user=@alice:hs":                 http.StatusNotFound,
	} {
		if a := g.local("GET", "/_e2ee_proxy/v1/"+target, ""); a.Code != want || a.Header().Get("X-User") != "" {
			t.Errorf("%s: %d %s, want %d", target, a.Code, a.Body, want)
		}
	}
	if a := g.local("GET", "/_e2ee_proxy/v1/status?user=@alice:hs", "", "Authorization: Bearer alice"); a.Code != http.StatusBadRequest {
		t.Errorf("with an access token: %d", a.Code)
	}
	if n := g.hs.whoamis(); n != 0 {
		t.Errorf("the homeserver was asked %d times whose a token is", n)
	}
}

// Attack: a client names another user in the query, as the local socket reads it. Only that
// listener does: for everybody else the token decides, and without one nobody is asked for.
func TestOnlyTheLocalSocketReadsTheUser(t *testing.T) {
	t.Parallel()
	g := localRig(t)
	const target = "/_e2ee_proxy/v1/status?user=@alice:hs&device=ALICE"
	if a := g.do("GET", target, ""); a.StatusCode != http.StatusUnauthorized || a.errcode() != "M_MISSING_TOKEN" {
		t.Errorf("without a token: %d %s", a.StatusCode, a.body)
	}
	a := g.do("GET", target, "", "Authorization: Bearer bob")
	if a.StatusCode != http.StatusOK || a.Header.Get("X-User") != "@bob:hs" || a.Header.Get("X-Held") != "" {
		t.Errorf("with the token of another: %d %v", a.StatusCode, a.Header)
	}
}

// Attack: whoever may open the local socket uses it as a way to the homeserver in somebody's
// name. There is nothing on it but the control API, whatever the path.
func TestNothingElseIsOnTheLocalSocket(t *testing.T) {
	t.Parallel()
	g := localRig(t)
	for _, r := range allRoutes() {
		if r.class == classOwn {
			continue
		}
		for _, version := range []string{"v3", "v1", "r0", "unstable"} {
			a := g.local(r.method, fill(r.pattern, version)+"?user=@alice:hs", "")
			if a.Code/100 != 4 || a.Header().Get("X-Intercepted") != "" {
				t.Errorf("%s %s: %d %s", r.method, r.pattern, a.Code, a.Body)
			}
		}
	}
	for _, target := range []string{"/_matrix/client/v3/new", "/_matrix/client/v3/sync", "/", "/_synapse/client/x", "http://elsewhere/_matrix/client/versions"} {
		if a := g.local("GET", target, ""); a.Code/100 != 4 {
			t.Errorf("%s: %d %s", target, a.Code, a.Body)
		}
	}
	if got := g.hs.all(); len(got) != 0 {
		t.Errorf("the homeserver saw %+v", got)
	}
}
