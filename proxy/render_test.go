package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
)

// failing returns a rig whose send handler fails like this.
func failing(t *testing.T, f func(x *interceptors.Exchange) error) *rig {
	return newRig(t, func(o *Options) { o.Handlers[interceptors.Send] = f })
}

func (g *rig) send() answer {
	return g.do("PUT", "/_matrix/client/v3/rooms/!secretroom:hs/send/m.room.message/secrettxn?secretquery=1", `{"body":"secretbody"}`, "Authorization: Bearer alice")
}

// The client is told what was meant for it, and nothing else.
func TestErrorsAreRendered(t *testing.T) {
	t.Parallel()
	cause := errors.New("secretcause in /var/lib")
	for _, test := range []struct {
		name   string
		err    error
		status int
		want   string // a part of the body
	}{
		{"public", apierr.Forbidden("No."), 403, `"errcode":"M_FORBIDDEN","error":"No."`},
		{"wrapped", fmt.Errorf("send: %w", apierr.NotFound("Not there.").Because(cause).WithHint("Look elsewhere.")), 404, `"error":"Not there. Look elsewhere."`},
		{"fields", apierr.IdentityChanged([]id.UserID{"@b:hs"}, "Changed."), 403, `"users":["@b:hs"]`},
		{"cannot encrypt", apierr.CannotEncrypt(false, cause), 503, `"errcode":"DEV.E2EE_PROXY.CANNOT_ENCRYPT"`},
		{"soft logout", apierr.UnknownToken(true), 401, `"soft_logout":true`},
		{"a code in the fields does not win", &apierr.Error{Status: 400, ErrCode: "M_A", Text: "a", Fields: map[string]any{"errcode": "M_B"}}, 400, `"errcode":"M_A"`},
		{"no status", &apierr.Error{ErrCode: "M_A", Text: "a"}, 500, `"errcode":"M_A"`},
		{"fields that are no JSON", &apierr.Error{Status: 400, ErrCode: "M_A", Fields: map[string]any{"x": func() {}}}, 400, `"errcode":"M_UNKNOWN"`},
		{"unknown", cause, 500, `"errcode":"M_UNKNOWN"`},
		{"deadline", fmt.Errorf("claim: %w", context.DeadlineExceeded), 504, `"errcode":"M_UNKNOWN"`},
		{"their own cancel", context.Canceled, 500, `"errcode":"M_UNKNOWN"`},
	} {
		g := failing(t, func(*interceptors.Exchange) error { return test.err })
		a := g.send()
		if a.StatusCode != test.status || !strings.Contains(a.body, test.want) || strings.Contains(a.body, "secret") {
			t.Errorf("%s: %d %s", test.name, a.StatusCode, a.body)
		}
		h := map[string]string{"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS", "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization", "Content-Type": "application/json"}
		for name, want := range h {
			if a.Header.Get(name) != want {
				t.Errorf("%s: %s: %q", test.name, name, a.Header.Get(name))
			}
		}
	}
	g := failing(t, func(*interceptors.Exchange) error { return cause })
	a := g.send()
	_, after, ok := strings.Cut(a.body, "under request ")
	id, _, _ := strings.Cut(after, ".")
	if !ok || !strings.Contains(g.log.String(), `"request_id":"`+id+`"`) || !strings.Contains(g.log.String(), "secretcause") {
		t.Errorf("the cause cannot be found by the request ID: %s, log %s", a.body, g.log)
	}
}

// A bug in a handler is that request's error, and its panic's value stays unsaid.
func TestHandlerThatPanics(t *testing.T) {
	t.Parallel()
	g := failing(t, func(*interceptors.Exchange) error { panic("secretvalue") })
	if a := g.send(); a.StatusCode != 500 || a.errcode() != "M_UNKNOWN" || strings.Contains(a.body, "secret") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if log := g.log.String(); strings.Contains(log, "secretvalue") || !strings.Contains(log, "TestHandlerThatPanics") {
		t.Errorf("log: %s", log)
	}
}

// An error after the response has begun breaks the connection.
func TestErrorAfterTheBeginning(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"error": func() error { return apierr.NotFound("late") },
		"panic": func() error { panic("late") },
	} {
		g := failing(t, func(x *interceptors.Exchange) error {
			x.Writer.WriteHeader(200)
			_, _ = io.WriteString(x.Writer, `{"half":`)
			_ = http.NewResponseController(x.Writer).Flush()
			return fail()
		})
		req, err := http.NewRequest("PUT", g.front.URL+"/_matrix/client/v3/rooms/!r:hs/send/x/t", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer alice")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if body, err := io.ReadAll(resp.Body); err == nil || strings.Contains(string(body), "late") {
			t.Errorf("%s: taken for whole: %q", name, body)
		}
		_ = resp.Body.Close()
	}
}

// Browsers may call the proxy's own endpoints, and read its refusals; what passes has the
// homeserver's word on it.
func TestPreflight(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) { o.Handlers[interceptors.ControlStatus] = readAll })
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Access-Control-Allow-Origin", "https://theirs.test")
		}
	})
	for path, want := range map[string]string{
		"/_e2ee_proxy/v1/status":                        "*",
		"/_e2ee_proxy/v1/users/@a:hs/acknowledge":       "*",
		"/_e2ee_proxy/v1/elsewhere":                     "*",
		"/_matrix/client/v3/rooms/!r:hs/SEND/x":         "*",
		"/_matrix/client/v3/rooms/!r:hs/batch_send":     "*",
		"/_matrix/client/v3/rooms/!r:hs/send/x/t":       "https://theirs.test",
		"/_matrix/client/v3/sync":                       "https://theirs.test",
		"/_matrix/client/v3/joined_rooms":               "https://theirs.test",
		"/_matrix/client/unstable/org.example/whatever": "https://theirs.test",
	} {
		a := g.do("OPTIONS", path, "", "Origin: https://app.test", "Access-Control-Request-Method: PUT")
		if a.Header.Get("Access-Control-Allow-Origin") != want || a.StatusCode >= 300 {
			t.Errorf("%s: %d %v", path, a.StatusCode, a.Header)
		}
	}
	g.hs.Close()
	if a := g.do("OPTIONS", "/_matrix/client/v3/joined_rooms", ""); a.Header.Get("Access-Control-Allow-Origin") != "*" || a.StatusCode >= 300 {
		t.Errorf("without a homeserver: %d %v", a.StatusCode, a.Header)
	}
	if a := g.do("GET", "/_matrix/client/v3/joined_rooms", ""); a.Header.Get("Access-Control-Allow-Origin") != "*" || a.StatusCode != 502 {
		t.Errorf("without a homeserver: %d %v", a.StatusCode, a.Header)
	}
	if a := g.do("GET", "/_e2ee_proxy/v1/status", ""); a.StatusCode != 401 || a.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("without a token: %d %v", a.StatusCode, a.Header)
	}
}

// One line for each request: the route's pattern and no secret (attack 59).
func TestOneLogLineWithoutSecrets(t *testing.T) {
	t.Parallel()
	g := failing(t, readAll)
	g.send()
	g.do("GET", "/_matrix/client/v3/profile/@secretuser:hs?secretquery=1", "", "Authorization: Bearer secrettoken")
	g.do("GET", "/_matrix/client/v3/secretpath/x?access_token=secrettoken", "")
	g.do("PUT", "/_matrix/client/v3/rooms/!secretroom:hs/send//secret", "{}")
	g.do("SECRET", "/", "")
	eventually(t, "five lines are there", func() bool { return strings.Count(g.log.String(), "\n") == 5 })
	log := g.log.String()
	for _, bad := range []string{"secret", "SECRET", "alice", "!r"} {
		if strings.Contains(log, bad) {
			t.Errorf("the log has %q:\n%s", bad, log)
		}
	}
	for _, want := range []string{
		`"route":"/_matrix/client/{version}/rooms/{roomId}/send/{eventType}/{txnId}","method":"PUT","status":200`,
		`"route":"/_matrix/client/{version}/profile/{userId}","method":"GET","status":200`,
		`"route":"other","method":"GET","status":200`,
		`"route":"refused","method":"PUT","status":400`,
		`"route":"refused","method":"other","status":400`,
		`"user":"`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s:\n%s", want, log)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	g := failing(t, readAll)
	g.send()
	g.send()
	g.do("GET", "/_matrix/client/v3/one", "")
	g.do("GET", "/_matrix/client/v3/two", "")
	g.do("BREW", "/_matrix/client/v3/two", "")
	eventually(t, "all are counted", func() bool {
		n, err := testutil.GatherAndCount(g.reg, "e2ee_proxy_requests_total")
		return err == nil && n == 3 && g.proxy.limiter.total[laneSend].Load() == 0
	})
	want := `# HELP e2ee_proxy_requests_total Requests by route pattern, method and status; 499 is a client that left.
# TYPE e2ee_proxy_requests_total counter
e2ee_proxy_requests_total{code="200",method="GET",route="other"} 2
e2ee_proxy_requests_total{code="200",method="PUT",route="/_matrix/client/{version}/rooms/{roomId}/send/{eventType}/{txnId}"} 2
e2ee_proxy_requests_total{code="400",method="other",route="refused"} 1
# HELP e2ee_proxy_identity_lookups_total Look-ups of access tokens: from the cache, from the one that replicas share, by whoami, refused or failed.
# TYPE e2ee_proxy_identity_lookups_total counter
e2ee_proxy_identity_lookups_total{result="cached"} 1
e2ee_proxy_identity_lookups_total{result="confirmed"} 1
`
	if err := testutil.GatherAndCompare(g.reg, strings.NewReader(want), "e2ee_proxy_requests_total", "e2ee_proxy_identity_lookups_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(g.reg); err != nil || len(problems) > 0 {
		t.Error(cmp.Diff(nil, problems), err)
	}
	if _, err := New(Options{Homeserver: g.proxy.base, Handlers: requiredHandlers(), Devices: noDevices{}, Hash: testHash, Metrics: g.reg}); err == nil {
		t.Error("two proxies share their metrics")
	}
}
