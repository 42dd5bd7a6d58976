package interceptors

import (
	"flag"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"e2ee-proxy/interceptors/internal/rewrite"
)

var specCheckout = flag.String("spec", "", "a checkout of the Matrix specification, of which testdata/places-1.19.txt is written anew")

const placesFile = "testdata/places-1.19.txt"

// specPlace is a place of events in the answer of an endpoint.
type specPlace struct {
	method, path string
	kind         string // event, stripped (state), or data: account data and the like
	at           string
}

// placesOfSpec reads the specification's places.
func placesOfSpec(t *testing.T) []specPlace {
	t.Helper()
	var all []specPlace
	for _, line := range dataLines(t, placesFile) {
		f := strings.Fields(line)
		if len(f) != 4 {
			t.Fatalf("%s: %q", placesFile, line)
		}
		all = append(all, specPlace{f[0], f[1], f[2], strings.TrimPrefix(f[3], ".")})
	}
	return all
}

func dataLines(t *testing.T, file string) []string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines
}

// handlersOfRoutes returns the name of the handler of each row of the route table, by method
// and pattern.
func handlersOfRoutes(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, line := range dataLines(t, "../proxy/testdata/routes.golden") {
		f := strings.Fields(line)
		_, handler, _ := strings.Cut(line, " handler=")
		handler, _, _ = strings.Cut(handler, " ")
		out[f[0]+" "+f[1]] = handler
	}
	return out
}

// pattern returns the pattern in the route table of an endpoint of the specification.
func (p *specPlace) pattern() string {
	steps := strings.Split(p.path, "/")
	if len(steps) > 3 && steps[1] == "_matrix" {
		steps[3] = "{version}"
	}
	return p.method + " " + strings.Join(steps, "/")
}

// allShapes returns the shapes of all endpoints with events, by their handlers' names.
func allShapes() map[string]rewrite.Shape {
	all := readShapes()
	all[Sync], _ = syncShape()
	return all
}

// placeIn returns the place of a shape that a path of the specification leads to, as a scan
// finds it: a name of its own counts before {}.
func placeIn(s *rewrite.Shape, at string) *rewrite.Place {
	var found *rewrite.Place
	names := -1
	for i := range s.Places {
		p := &s.Places[i]
		if len(strings.Split(p.Path, "/")) != len(strings.Split(at, "/")) {
			continue
		}
		if ok, err := path.Match(strings.NewReplacer("*", `\*`, "{}", "*").Replace(p.Path), at); err != nil || !ok {
			continue
		}
		if n := len(strings.ReplaceAll(p.Path, "{}", "")); n > names {
			found, names = p, n
		}
	}
	return found
}

// kindsFor are the treatments that are right for what the specification says is at a place.
func kindsFor(kind string) []rewrite.Kind {
	switch kind {
	case "event":
		return []rewrite.Kind{rewrite.Timeline, rewrite.Mixed, rewrite.State}
	case "stripped":
		return []rewrite.Kind{rewrite.Stripped, rewrite.State}
	}
	return []rewrite.Kind{rewrite.Other, rewrite.AccountData, rewrite.Mixed}
}

// Requirement 19.10: an endpoint of the specification returns events, and the proxy passes them
// as they come. Each place where the answer to an endpoint of Matrix 1.19 can hold an event is
// rewritten, and in the way that is right for what stands there. There is no exception. The list
// of places is made of the specification's OpenAPI files, see CONTRIBUTING.
func TestPlacesOfTheSpec(t *testing.T) {
	t.Parallel()
	if *specCheckout != "" {
		head := "# Every place of events in a successful answer of the Client-Server API of Matrix 1.19:\n" +
			"# method, path, what stands there, and where. It is made of the specification's OpenAPI\n" +
			"# files, see CONTRIBUTING.\n"
		if err := os.WriteFile(placesFile, []byte(head+strings.Join(placesInSpec(t, *specCheckout), "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	places, routes, shapes := placesOfSpec(t), handlersOfRoutes(t), allShapes()
	if len(places) != 44 {
		t.Errorf("%d places in the list, and the specification has 44", len(places))
	}
	for _, p := range places {
		handler, ok := routes[p.pattern()]
		if !ok {
			t.Errorf("%s has no row in the route table", p.pattern())
			continue
		}
		shape, ok := shapes[handler]
		if !ok {
			t.Errorf("%s %s is passed as it comes (handler %q), and has events at %s", p.method, p.path, handler, p.at)
			continue
		}
		switch place := placeIn(&shape, p.at); {
		case place == nil:
			t.Errorf("%s %s is not rewritten at %s", p.method, p.path, p.at)
		case !slices.Contains(kindsFor(p.kind), place.Kind):
			t.Errorf("%s %s at %s: %s is treated as kind %d", p.method, p.path, p.at, p.kind, place.Kind)
		}
	}
}

// beyondSpec are the places that are rewritten and that the specification's files do not have,
// with the reason.
func beyondSpec() map[string]string {
	out := map[string]string{
		Relations + " original_event":   "servers before Matrix 1.4",
		RoomInitialSync + " presence/*": "in the specification before 1.0, and in Synapse",
		RoomInitialSync + " receipts/*": "the same",
		Sync + " {}/events/*":           "lists that are not known",
	}
	for _, section := range syncSections {
		room := Sync + " rooms/" + section.name + "/{}/"
		for _, part := range syncParts {
			why := "what is not known is judged as well"
			switch part.name {
			case "org.matrix.msc4222.state_after":
				why = "MSC4222, before Matrix 1.16"
			case "sticky", "msc4354_sticky":
				why = "MSC4354"
			case "{}":
			default:
				why = "a list of another section"
			}
			out[room+part.name+"/events/*"] = why
		}
	}
	return out
}

// Every place that is rewritten is in the specification's list, or there is a reason. A place
// that has a wrong name would be in neither.
func TestPlacesBeyondTheSpec(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	routes := handlersOfRoutes(t)
	for _, p := range placesOfSpec(t) {
		shape := allShapes()[routes[p.pattern()]]
		if place := placeIn(&shape, p.at); place != nil {
			known[routes[p.pattern()]+" "+place.Path] = true
		}
	}
	reasons := beyondSpec()
	for handler, shape := range allShapes() {
		for i := range shape.Places {
			if name := handler + " " + shape.Places[i].Path; !known[name] && reasons[name] == "" {
				t.Errorf("%s: why is it rewritten?", name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(reasons)) {
		handler, at, _ := strings.Cut(name, " ")
		shape := allShapes()[handler]
		if !slices.ContainsFunc(shape.Places, func(p rewrite.Place) bool { return p.Path == at }) {
			t.Errorf("%s is not rewritten, and has a reason", name)
		}
	}
}

// No route has a handler of reads that has no shape, and no shape is without a route.
func TestEveryShapeHasARoute(t *testing.T) {
	t.Parallel()
	handlers := slices.Collect(maps.Values(handlersOfRoutes(t)))
	for name := range allShapes() {
		if !slices.Contains(handlers, name) {
			t.Errorf("no route leads to %s", name)
		}
	}
}

// besideSpec are the routes that pass as they come and that the specification does not have, with
// what they answer with.
func besideSpec() map[string]string {
	const client = " /_matrix/client/{version}/"
	return map[string]string{
		"GET" + client + "io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription": "whether a thread is followed",
		"GET" + client + "im.nheko.summary/rooms/{roomIdOrAlias}/summary":                  "a summary, whose algorithm is a text and no event",
		"GET" + client + "org.matrix.msc4140/delayed_events":                               "what the user will send, which may be in clear or was refused",
		"GET" + client + "org.matrix.msc4140/delayed_events/{delayId}":                     "the same",
		"POST" + client + "org.matrix.msc4140/delayed_events/{delayId}":                    "nothing",
		"POST" + client + "org.matrix.msc4140/delayed_events/{delayId}/{action}":           "nothing",
		"GET" + client + "login/cas/redirect":                                              "a login",
		"GET" + client + "login/cas/ticket":                                                "a login",
		"POST" + client + "org.matrix.msc3882/login/get_token":                             "a login",
		"GET" + client + "auth/{authType}/fallback/web":                                    "a page",
		"POST" + client + "auth/{authType}/fallback/web":                                   "a page",
		"GET" + client + "pushrules":                                                       "rules",
		"GET" + client + "pushrules/global":                                                "rules",
		"GET" + client + "pushrules/global/{kind}/":                                        "rules",
		"GET /_matrix/static/client/login/":                                                "a page",
		"GET /_matrix/federation/v1/version":                                               "a version",
	}
}

// A route that the specification's files do not have passes as it comes. Each that gives an answer
// has a reason why there is no event in it; so a new one cannot be forgotten here.
func TestRoutesBesideTheSpecHoldNoEvents(t *testing.T) {
	t.Parallel()
	shape := regexp.MustCompile(`\{[^}]*\}`)
	known := map[string]bool{}
	for _, line := range dataLines(t, "../proxy/testdata/endpoints-1.19.txt") {
		method, at, _ := strings.Cut(line, " ")
		known[shape.ReplaceAllString((&specPlace{method: method, path: at}).pattern(), "{}")] = true
	}
	reasons := besideSpec()
	passing := map[string]bool{}
	for _, line := range dataLines(t, "../proxy/testdata/routes.golden") {
		f := strings.Fields(line)
		name := f[0] + " " + f[1]
		refused := strings.Contains(line, " class=0 ")
		if refused || f[0] != "GET" && f[0] != "POST" || !strings.Contains(line, " handler= ") || known[shape.ReplaceAllString(name, "{}")] {
			continue
		}
		passing[name] = true
		if reasons[name] == "" {
			t.Errorf("%s passes as it comes: can there be events in its answer?", name)
		}
	}
	for name := range reasons {
		if !passing[name] {
			t.Errorf("%s has a reason, and does not pass", name)
		}
	}
}
