package interceptors

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

var updateRoutes = flag.Bool("update-routes", false, "write what the control room answers to each route")

// whenLeft are parts of the routes that answer whoever has left the room.
var whenLeft = []string{
	"/join", "summary", "/forget", "/state", "/leave", "/report", "/typing", "/receipt", "/read_markers", "/tags", "/account_data",
}

// roomRoute is one row of the table of routes that can name a room.
type roomRoute struct{ method, pattern string }

// roomRoutes are all of them, of the table that package proxy pins; those that are refused whatever
// they name are not.
func roomRoutes(t *testing.T) (all []roomRoute) {
	t.Helper()
	table, err := os.ReadFile("../proxy/testdata/routes.golden")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(table), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 3 || strings.Contains(line, " class=0 ") || !strings.Contains(fields[1], "/{roomId") && !strings.Contains(fields[1], "/pushrules/") {
			continue
		}
		if strings.Contains(fields[1], "/pushrules/") && !strings.Contains(fields[1], "{ruleId}") {
			continue
		}
		all = append(all, roomRoute{fields[0], fields[1]})
	}
	return all
}

// paramsOf gives each parameter of a pattern a value that there could be.
func paramsOf(pattern, room, event string) map[string]string {
	params := map[string]string{}
	for _, found := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(pattern, -1) {
		value, ok := map[string]string{
			"version": "v3", "roomId": room, "roomIdOrAlias": room, "ruleId": room, "eventId": event, "userId": string(alice),
			"eventType": "m.room.name", "stateKey": "", "type": "m.fully_read", "tag": "m.favourite", "receiptType": "m.read", "txnId": "t1",
		}[found[1]]
		if !ok {
			value = "x"
		}
		if found[1] != "version" {
			params[found[1]] = value
		}
	}
	return params
}

// Whatever of Matrix names the control room is answered here, in the form that clients know: a JSON
// object with what the endpoint has, or an error with a code and words. The list of the answers is
// testdata/controlroom_routes.golden, for reading; a new route is a new line in it. Nothing goes to the
// homeserver, also not from somebody who has no such room, has left it, or names another's.
func TestEveryRouteOfTheControlRoom(t *testing.T) {
	t.Parallel()
	routes := roomRoutes(t)
	if len(routes) < 60 {
		t.Fatalf("%d routes", len(routes))
	}
	var b strings.Builder
	for _, route := range routes {
		fmt.Fprintf(&b, "%-6s %s: %s\n", route.method, strings.TrimPrefix(route.pattern, "/_matrix/client/{version}"), answerOfRoom(t, route, "own"))
		if strings.Contains(route.pattern, "{userId}") {
			if got := answerOfRoom(t, route, "of another user"); got != "403 M_FORBIDDEN" {
				t.Errorf("%s %s of another user: %s", route.method, route.pattern, got)
			}
		}
		for _, who := range []string{"left", "other's", "none"} {
			got := answerOfRoom(t, route, who)
			allowed := who == "left" && slices.ContainsFunc(whenLeft, func(part string) bool { return strings.Contains(route.pattern, part) })
			if !allowed && !strings.HasPrefix(got, "403 M_FORBIDDEN") && !strings.HasPrefix(got, "404 M_NOT_FOUND") {
				t.Errorf("%s %s, room %s: %s", route.method, route.pattern, who, got)
			}
		}
	}
	const file = "testdata/controlroom_routes.golden"
	if *updateRoutes {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); diff != "" {
		t.Errorf("the answers have changed; if they should, run with -update-routes (-want +got):\n%s", diff)
	}
}

// answerOfRoom returns the status of an answer, with the names of its members or the code of the error.
func answerOfRoom(t *testing.T, route roomRoute, whose string) string {
	t.Helper()
	w := newReadWorld(t, e2ee.ModeProxied)
	room := w.withRoom("proxy@1", "me@2", "proxy@3")
	room.view.Left = whose == "left"
	name, event := string(room.view.ID()), string(room.view.Lines[1].ID)
	if whose == "other's" {
		name = string(e2ee.ControlRoomOf(bob))
	}
	if whose == "none" {
		w.dev.room = nil
	}
	rec := httptest.NewRecorder()
	body := `{}`
	if route.method == http.MethodGet {
		body = ""
	}
	params := paramsOf(route.pattern, name, event)
	if whose == "of another user" {
		params["userId"] = string(bob)
	}
	err := w.w.handlers[OwnNames](&Exchange{
		Writer: rec, Request: httptest.NewRequestWithContext(t.Context(), route.method, "/?dir=b&ts=2", strings.NewReader(body)),
		Upstream: w.w.up, Devices: readDevices{dev: w.dev}, Identity: w.w.who,
		Endpoint: Endpoint{Pattern: route.pattern, Version: "v3", Params: params},
	})
	if all := w.w.up.requests(); len(all) > 0 {
		t.Errorf("%s %s reaches the homeserver: %+v", route.method, route.pattern, all)
	}
	if said, ok := errors.AsType[*apierr.Error](err); ok {
		if said.Text == "" {
			t.Errorf("%s %s: an error without words", route.method, route.pattern)
		}
		return fmt.Sprint(said.Status, " ", said.ErrCode)
	}
	if err != nil {
		t.Fatalf("%s %s: %v", route.method, route.pattern, err)
	}
	raw := rec.Body.Bytes()
	if strings.HasSuffix(route.pattern, "/state") {
		var list []json.RawMessage
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatalf("%s %s: %s", route.method, route.pattern, raw)
		}
		return fmt.Sprintf("%d, %d events", rec.Code, len(list))
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		t.Fatalf("%s %s: %s", route.method, route.pattern, raw)
	}
	var names []string
	for name := range object {
		names = append(names, name)
	}
	slices.Sort(names)
	return fmt.Sprint(rec.Code, " ", names)
}
