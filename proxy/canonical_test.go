package proxy

import (
	"net/http"
	"path"
	"regexp"
	"strings"
	"testing"
)

// resolve returns what steps 3 and 4 make of a request line: the row, whether it goes to a
// handler, and the path that goes upstream.
func resolve(tab *table, method, requestURI string) (r *route, upstream string, err error) {
	var t target
	if err := t.parse(requestURI); err != nil {
		return nil, "", err
	}
	m, err := tab.find(method, &t)
	if err != nil {
		return nil, "", err
	}
	if m.route != nil {
		return m.route, m.route.path(t.version, &m.values), nil
	}
	upstream, err = t.unlisted(method, m.guarded)
	return nil, upstream, err
}

// What passes is written anew: decoded once, encoded once.
func TestCanonicalPathsPass(t *testing.T) {
	t.Parallel()
	tab := testTable(t)
	tests := []struct{ method, in, out string }{
		{"GET", "/_matrix/client/versions", "/_matrix/client/versions"},
		{"PUT", "/_matrix/client/v3/rooms/!a:hs/send/m.room.message/t1", "/_matrix/client/v3/rooms/%21a%3Ahs/send/m.room.message/t1"},
		{"PUT", "/_matrix/client/v3/rooms/%21a%3Ahs/send/m%2Eroom.message/t%201", "/_matrix/client/v3/rooms/%21a%3Ahs/send/m.room.message/t%201"},
		{"PUT", "/_matrix/client/api/v1/rooms/!a:hs/send/x/t", "/_matrix/client/api/v1/rooms/%21a%3Ahs/send/x/t"},
		// An empty state key may have its slash or not.
		{"PUT", "/_matrix/client/v3/rooms/!a:hs/state/m.room.name/", "/_matrix/client/v3/rooms/%21a%3Ahs/state/m.room.name/"},
		{"PUT", "/_matrix/client/v3/rooms/!a:hs/state/m.room.name", "/_matrix/client/v3/rooms/%21a%3Ahs/state/m.room.name"},
		// State keys of bridges hold URLs.
		{"PUT", "/_matrix/client/v3/rooms/!a:hs/state/uk.half-shot.bridge/irc%3A%2F%2Fnet%2F%23c", "/_matrix/client/v3/rooms/%21a%3Ahs/state/uk.half-shot.bridge/irc%3A%2F%2Fnet%2F%23c"},
		// Event IDs of room version 3 hold slashes, historical user IDs too.
		{"GET", "/_matrix/client/v3/rooms/!a:hs/event/$ab%2Fcd+e", "/_matrix/client/v3/rooms/%21a%3Ahs/event/%24ab%2Fcd%2Be"},
		{"GET", "/_matrix/client/v3/profile/@a%2Fb:hs", "/_matrix/client/v3/profile/%40a%2Fb%3Ahs"},
		// What is encoded twice is data, and stays so.
		{"PUT", "/_matrix/client/v3/rooms/!a:hs/send/m%252Eroom/t", "/_matrix/client/v3/rooms/%21a%3Ahs/send/m%252Eroom/t"},
		// Bytes of other scripts, encoded or not, and semicolons as data.
		{"GET", "/_matrix/client/v3/directory/room/%23café:hs", "/_matrix/client/v3/directory/room/%23caf%C3%A9%3Ahs"},
		{"GET", "/_matrix/client/v3/directory/room/%23caf%c3%a9%3Bx:hs", "/_matrix/client/v3/directory/room/%23caf%C3%A9%3Bx%3Ahs"},
		// A path that no row fits.
		{"GET", "/_matrix/client/unstable/org.example/thing/@a:b", "/_matrix/client/unstable/org.example/thing/%40a%3Ab"},
		{"POST", "/_matrix/client/unstable/org.matrix.msc4108/rendezvous", "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"},
		{"GET", "/_matrix/client/v9/future", "/_matrix/client/v9/future"},
		{"GET", "/_matrix/client/v3/rooms/!a:hs/novelty", "/_matrix/client/v3/rooms/%21a%3Ahs/novelty"},
		{"POST", "/_synapse/client/new_user_consent", "/_synapse/client/new_user_consent"},
		{"POST", "/_synapse/client/oidc/callback", "/_synapse/client/oidc/callback"},
		{"PUT", "/_synapse/client/rendezvous/01-ab", "/_synapse/client/rendezvous/01-ab"},
		{"GET", "/_matrix/media/unstable/fi.mau.msc2246/config", "/_matrix/media/unstable/fi.mau.msc2246/config"},
		// Per cent signs as data.
		{"PUT", "/_matrix/client/v3/user/@a:b/rooms/!a:hs/tags/u.50%25", "/_matrix/client/v3/user/%40a%3Ab/rooms/%21a%3Ahs/tags/u.50%25"},
		{"PUT", "/_matrix/client/v3/rooms/!a:hs/state/org.example/x%252Fy", "/_matrix/client/v3/rooms/%21a%3Ahs/state/org.example/x%252Fy"},
		{"GET", "/_matrix/client/v3/pushrules/", "/_matrix/client/v3/pushrules/"},
		{"GET", "/.well-known/matrix/novelty", "/.well-known/matrix/novelty"},
		{"GET", "/_matrix/static/client/login/style.css", "/_matrix/static/client/login/style.css"},
		{"OPTIONS", "/_matrix/client/v3/rooms/!a:hs/send/x/t", "/_matrix/client/v3/rooms/%21a%3Ahs/send/x/t"},
		{"HEAD", "/_matrix/client/v3/joined_rooms", "/_matrix/client/v3/joined_rooms"},
	}
	for _, test := range tests {
		if _, got, err := resolve(tab, test.method, test.in); err != nil || got != test.out {
			t.Errorf("%s %s: got %q, %v; want %q", test.method, test.in, got, err, test.out)
		}
	}
}

// What could mean two things is refused, and so is what no client needs.
func TestAmbiguousPathsAreRefused(t *testing.T) {
	t.Parallel()
	tab := testTable(t)
	for _, test := range []struct{ method, in string }{
		{"GET", ""},
		{"GET", "*"},
		{"GET", "/"},
		{"GET", "http://hs/_matrix/client/versions"},
		{"GET", "_matrix/client/versions"},
		{"GET", "//_matrix/client/versions"},
		{"GET", "/_matrix//client/versions"},
		{"GET", "/_matrix/./client/versions"},
		{"GET", "/_matrix/%2e/client/versions"},
		{"GET", "/_matrix/x/../client/versions"},
		{"GET", "/_matrix/x/%2E./client/versions"},
		{"GET", "/_matrix/client/versions/"},
		{"GET", "/_matrix/client/versions;x=1"},
		{"GET", "/_matrix/client/versions#x"},
		{"GET", `/_matrix\client/versions`},
		{"GET", "/_matrix/client/%76ersions"},
		{"GET", "/_MATRIX/client/versions"},
		{"GET", "/_matrix/Client/versions"},
		{"GET", "/_matrix/client/v3/profile/@a:b%00"},
		{"GET", "/_matrix/client/v3/profile/@a:b%0d%0aX:1"},
		{"GET", "/_matrix/client/v3/profile/%ff"},
		{"GET", "/_matrix/client/v3/profile/%zz"},
		{"GET", "/_matrix/client/v3/profile/%4"},
		{"GET", "/_matrix/client/v3/profile/.."},
		{"GET", "/_matrix/client/v3/profile/x%2F..%2F..%2Fsync"},
		{"GET", "/_matrix/client/v3/profile/x%5C..%5Csync"},
		{"GET", "/_matrix/client/v3/rooms/%21a%2Fb/messages"},
		{"GET", "/_matrix/client/v3/rooms/%2521a:b/messages"},
		{"GET", "/_matrix/client/v3/rooms/a:b/messages"},
		{"GET", "/_matrix/media/v3/download/a%2Fb/x"},
		{"GET", "/_matrix/media/v3/download/a/b%2Fc"},
		{"GET", "/_matrix/client/v3/rooms/!a:hs/send/m.room.message"},
		{"GET", "/_matrix/client/v3/rooms/!a:hs/redact/x"},
		{"GET", "/_matrix/client/v3/rooms/!a:hs%5Cx/messages"},
		{"GET", "/_matrix/client/v3/rooms/!a:hs%252Fx/messages"},
		{"GET", "/_matrix/client/v3/profile/x%252F..%252Fsync"},
		{"GET", "/_matrix/media/v3/rooms/!a:hs/send/m.room.message"},
		{"GET", "/_synapse/client/x%2Frooms/send"},
		{"POST", "/_matrix/media/v3/org.example/send/x"},
		{"POST", "/_matrix/media/v9/create"},
		{"PATCH", "/_synapse/client/rooms"},
		{"GET", "/_matrix/federation/v1/state/x"},
		{"GET", "/_synapse/admin/v1/users"},
		{"GET", "/_dendrite/admin/x"},
		{"GET", "/elsewhere"},
		{"POST", "/.well-known/matrix/client"},
		{"PUT", "/_matrix/static/x"},
		{"GET", "/" + strings.Repeat("a/", maxSegments+1)},
		{"GET", "/_matrix/client/v3/profile/" + strings.Repeat("a", maxPathBytes)},
	} {
		if r, got, err := resolve(tab, test.method, test.in); err == nil {
			t.Errorf("%s %s passes as %q (%v)", test.method, test.in, got, r)
		}
	}
}

// roomWrite finds a write to a room in a path, as careless software would read it.
var roomWrite = regexp.MustCompile(`^/(_matrix/client/(api/v1|[^/]+|unstable/[^/]+)|(_matrix/media|_synapse/client)(/.*)?)/rooms/[^/]+/(send|state|redact|batch_send|import)(/|$)`)

// careless reads a path as the most careless software between client and homeserver
// might: it decodes twice, drops parameters of segments, resolves dots and backslashes,
// merges slashes, and ignores case. A parameter that holds a slash becomes two segments.
func careless(p string) string {
	for range 2 {
		b := make([]byte, 0, len(p))
		for i := 0; i < len(p); i++ {
			if p[i] == '%' && i+2 < len(p) && unhex(p[i+1]) >= 0 && unhex(p[i+2]) >= 0 {
				b = append(b, byte(unhex(p[i+1])<<4|unhex(p[i+2])))
				i += 2
			} else {
				b = append(b, p[i])
			}
		}
		p = string(b)
	}
	p = strings.ReplaceAll(p, `\`, "/")
	p, _, _ = strings.Cut(p, "\x00")
	p, _, _ = strings.Cut(p, "#")
	p, _, _ = strings.Cut(p, "?")
	segs := strings.Split(p, "/")
	for i := range segs {
		segs[i], _, _ = strings.Cut(segs[i], ";")
	}
	return strings.ToLower(path.Clean("/" + strings.Join(segs, "/")))
}

// FuzzTarget holds two properties: what is accepted is written as something that is
// accepted again as the same endpoint, byte for byte; and no write that could be taken
// for an event of a room goes to the homeserver without a handler.
func FuzzTarget(f *testing.F) {
	for _, r := range allRoutes() {
		f.Add(fill(r.pattern, "v3"))
	}
	for _, p := range attackPaths() {
		f.Add(p)
	}
	tab, err := buildTable(allRoutes())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodPatch} {
			r, up, err := resolve(tab, method, uri)
			if err != nil {
				continue
			}
			r2, up2, err := resolve(tab, method, up)
			if err != nil || r2 != r || up2 != up {
				t.Fatalf("%s %q is written as %q, and that as %q (%v)", method, uri, up, up2, err)
			}
			if method == http.MethodGet || r != nil && r.class != classPass && r.class != classOptional {
				continue
			}
			for _, p := range []string{uri, up} {
				if roomWrite.MatchString(careless(p)) {
					t.Fatalf("%s %q passes without a handler as %q", method, uri, up)
				}
			}
		}
	})
}

// Attack: a client asks for the keys of devices, claims one-time keys or sends to devices on a
// path that the proxy does not know, such as one of a later proposal. Nobody would filter it.
func TestQuestionsAboutKeysOnUnknownPathsAreRefused(t *testing.T) {
	t.Parallel()
	tab := testTable(t)
	for _, path := range []string{
		"/_matrix/client/unstable/org.matrix.msc9999/keys/query",
		"/_matrix/client/unstable/org.matrix.msc9999/keys/claim",
		"/_matrix/client/unstable/org.example.keys/Keys/CLAIM/x",
		"/_matrix/client/v3/keys/query/x",
		"/_matrix/client/v3/x/keys%2Fquery",
		"/_matrix/client/v3/x/keys%252Fclaim",
		"/_matrix/client/unstable/org.matrix.msc9999/sendToDevice/m.room.encrypted/t1",
		"/_synapse/client/keys/query",
	} {
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			if r, up, err := resolve(tab, method, path); err == nil {
				t.Errorf("%s %s goes to %v, %s", method, path, r, up)
			}
		}
	}
	for _, path := range []string{"/_matrix/client/unstable/org.example/keys/thing", "/_matrix/client/unstable/org.example/claim"} {
		if _, _, err := resolve(tab, "POST", path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
