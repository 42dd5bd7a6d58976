package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/interceptors"
)

func testTable(t testing.TB) *table {
	t.Helper()
	tab, err := buildTable(allRoutes())
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

// fill makes a path of a pattern.
func fill(pattern, version string) string {
	r := strings.NewReplacer(versionMark, version, "{roomId}", "!r:hs", "{roomIdOrAlias}", "%23a:hs", "{userId}", "@u:hs", "{eventId}", "$e")
	path := r.Replace(pattern)
	segs := strings.Split(path, "/")
	for i, s := range segs {
		if strings.HasPrefix(s, "{") {
			segs[i] = strings.Trim(s, "{}")
		}
	}
	return strings.Join(segs, "/")
}

// The table says what may pass, so no line of it changes by accident. A change shows as
// a change of testdata/routes.golden.
func TestTableIsPinned(t *testing.T) {
	t.Parallel()
	handlers, err := interceptors.Handlers(interceptors.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, r := range allRoutes() {
		r.run = handlers[r.handler]
		fmt.Fprintf(&b, "%-6s %s versions=%s body=%d %s lane=%s auth=%d class=%d handler=%s ends=%t\n",
			r.method, r.pattern, versionNames(r.versions), r.maxBody, r.bodyHandling(), r.lane, r.auth, r.class, r.handler, r.endsSessions)
	}
	const file = "testdata/routes.golden"
	if os.Getenv("E2EE_PROXY_UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf("the table has changed; if it should, run with E2EE_PROXY_UPDATE_GOLDEN=1 (-want +got):\n%s", diff)
	}
}

func versionNames(v versions) string {
	var names []string
	for _, s := range []string{"api/v1", "r0", "v1", "v3", "v4", "unstable"} {
		if v&versionBit(s) != 0 {
			names = append(names, s)
		}
	}
	return strings.Join(names, ",")
}

// Every endpoint of Matrix 1.19 has a row of its own.
func TestTableCoversTheSpec(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/endpoints-1.19.txt")
	if err != nil {
		t.Fatal(err)
	}
	tab := testTable(t)
	n := 0
	for line := range strings.Lines(string(raw)) {
		method, path, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		n++
		var at target
		if err := at.parse(fill(path, "1")); err != nil { // only room_keys/version/{version} has one here
			t.Errorf("%s %s: %v", method, path, err)
			continue
		}
		if m, err := tab.find(method, &at); err != nil || m.route == nil || m.route.class == classRefuse {
			t.Errorf("%s %s: route %v, error %v", method, path, m.route, err)
		}
	}
	if n != 164 {
		t.Errorf("%d endpoints in the list, and the specification has 164", n)
	}
}

// Every row is found under its own path in each of its versions, and what is written
// for the homeserver is the same endpoint again.
func TestEveryRowFindsItself(t *testing.T) {
	t.Parallel()
	tab := testTable(t)
	for _, r := range tab.rows {
		all := []string{""}
		if r.versions != vNone {
			all = strings.Split(versionNames(r.versions), ",")
		}
		for _, version := range all {
			var at target
			if err := at.parse(fill(r.pattern, version)); err != nil {
				t.Errorf("%s %s: %v", r.method, r.pattern, err)
				continue
			}
			m, err := tab.find(r.method, &at)
			if err != nil || m.route != r {
				t.Errorf("%s %s in %q finds %+v, %v", r.method, r.pattern, version, m.route, err)
				continue
			}
			var again target
			if err := again.parse(r.path(version, &m.values)); err != nil {
				t.Errorf("%s %s: written as %q: %v", r.method, r.pattern, r.path(version, &m.values), err)
			} else if m2, err := tab.find(r.method, &again); err != nil || m2 != m || again.version != version {
				t.Errorf("%s %s: written as %q, which is %+v", r.method, r.pattern, r.path(version, &m.values), m2)
			}
		}
	}
}

// A row that only passes could be a way round, so each of those that write is listed
// here with what it could carry; none of it is an event of a room.
func TestWritesThatPassAreNotRoomEvents(t *testing.T) {
	t.Parallel()
	harmless := []string{
		"/read_markers", "/receipt/", "/typing/", "/report", "/subscription", "/account_data/", "/tags/",
		"/room_keys/", "/directory/list/", "/delayed_events",
	}
	for _, r := range allRoutes() {
		if r.method == "GET" || r.class != classPass && r.class != classOptional {
			continue
		}
		if !strings.Contains(r.pattern, "room") && !strings.Contains(r.pattern, "delayed") {
			continue
		}
		if !slices.ContainsFunc(harmless, func(s string) bool { return strings.Contains(r.pattern+"/", s) }) && !strings.Contains(r.pattern, "publicRooms") && !strings.Contains(r.pattern, "directory/room") {
			t.Errorf("%s %s passes", r.method, r.pattern)
		}
	}
}

func TestNewNamesEverythingThatIsMissing(t *testing.T) {
	t.Parallel()
	if _, err := New(Options{}); err == nil || !strings.Contains(err.Error(), "homeserver") || !strings.Contains(err.Error(), "hash") || !strings.Contains(err.Error(), "devices") {
		t.Errorf("got %v", err)
	}
	base := &url.URL{Scheme: "http", Host: "hs.test"}
	handlers := requiredHandlers()
	delete(handlers, interceptors.Send)
	delete(handlers, interceptors.Sync)
	handlers["sned"] = sayName("sned")
	_, err := New(Options{Homeserver: base, Hash: testHash, Devices: noDevices{}, Handlers: handlers})
	if err == nil {
		t.Fatal("started without handlers that must be there")
	}
	for _, want := range []string{`"send"`, `"sync"`, `"sned"`} {
		if strings.Count(err.Error(), want) != 1 {
			t.Errorf("%s is not named once in %v", want, err)
		}
	}
	for _, bad := range []string{"ftp://hs", "http://u:p@hs", "http://", "http://hs?x=1", "http://hs#x"} {
		u, err := url.Parse(bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(Options{Homeserver: u, Hash: testHash, Devices: noDevices{}, Handlers: requiredHandlers()}); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
	if _, err := New(Options{Homeserver: base, Hash: testHash, Devices: noDevices{}, Handlers: requiredHandlers(), CAFile: "testdata/missing.pem"}); err == nil {
		t.Error("started without the CA file that was named")
	}
	if _, err := New(Options{Homeserver: base, Hash: testHash, Devices: noDevices{}, Handlers: requiredHandlers(), CAFile: "testdata/routes.golden"}); err == nil {
		t.Error("started with a CA file that has no certificate")
	}
}

// The handlers of package interceptors are those that the table asks for.
func TestHandlersFitTheTable(t *testing.T) {
	t.Parallel()
	handlers, err := interceptors.Handlers(interceptors.Options{})
	if err != nil {
		t.Fatal(err)
	}
	newRig(t, func(o *Options) { o.Handlers = handlers })
}

// Report: a request with a bad parameter in its path is refused with words that do not say
// which. Expected: it is named.
func TestBadPathParameterIsNamed(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	for target, want := range map[string]string{
		"/_matrix/client/v3/rooms/alias/messages":            "{roomId}",
		"/_matrix/client/v3/rooms/!r:hs%2Fx/messages":        "{roomId}",
		"/_matrix/client/v3/user/@u:hs/filter/a%2Fb":         "{filterId}",
		"/_matrix/client/v3/profile/@u:hs%00":                "{userId}",
		"/_matrix/client/v3/rooms/!r:hs/event/x%2F..%2Fy":    "{eventId}",
		"/_matrix/client/v3/directory/room/%23a%2Frooms%2Fb": "{roomAlias}",
	} {
		a := g.do("GET", target, "", "Authorization: Bearer alice")
		if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, want) {
			t.Errorf("%s: got %d %s, want it to name %s", target, a.StatusCode, a.body, want)
		}
	}
}

// Optional handlers take over what otherwise passes.
func TestOptionalHandlerTakesOver(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) { o.Handlers["messages"] = sayName("messages") })
	a := g.do("GET", "/_matrix/client/v3/rooms/!r:hs/messages", "", "Authorization: Bearer alice")
	if a.Header.Get("X-Intercepted") != "messages" {
		t.Errorf("got %d %s", a.StatusCode, a.body)
	}
	if a := g.do("GET", "/_matrix/client/v3/rooms/!r:hs/event/$e", "", "Authorization: Bearer alice"); a.StatusCode != http.StatusOK {
		t.Errorf("an event does not pass: %d", a.StatusCode)
	}
	if got := g.hs.all(); len(got) != 1 || got[0].Target != "/_matrix/client/v3/rooms/%21r%3Ahs/event/%24e" {
		t.Errorf("upstream saw %+v", got)
	}
	if a := g.do("GET", "/_e2ee_proxy/v1/status", "", "Authorization: Bearer alice"); a.StatusCode != http.StatusNotFound || a.errcode() != "M_UNRECOGNIZED" {
		t.Errorf("a control call without a handler: %d %s", a.StatusCode, a.body)
	}
}

// bodyHandling returns the name of how a row holds the body, for the pinned table.
func (r *route) bodyHandling() string {
	switch {
	case r.maxBody == noBody:
		return "none"
	case r.run == nil:
		return "streamed"
	}
	switch r.bodyUse {
	case bodySpooled:
		return "spooled"
	case bodyPassed:
		return "passed"
	case bodyPeeked:
		return "peeked"
	case bodyEdited:
		return "edited"
	case bodyStreamed:
		return "changed as it streams"
	case bodyDecoded:
	}
	return "decoded"
}
