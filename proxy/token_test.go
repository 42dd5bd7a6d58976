package proxy

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/interceptors"
)

func TestReadQueryTakesTheTokenOut(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in, clean, token string
		has, two         bool
	}{
		{in: ""},
		{in: "a=1&b=2", clean: "a=1&b=2"},
		{in: "access_token=x", token: "x", has: true},
		{in: "access_token=x&a=1", clean: "a=1", token: "x", has: true},
		{in: "a=1&access_token=x", clean: "a=1", token: "x", has: true},
		{in: "a=1&access_token=x&b=%26&a=2", clean: "a=1&b=%26&a=2", token: "x", has: true},
		{in: "access%5Ftoken=x%2By&a", clean: "a", token: "x+y", has: true},
		{in: "access_token=x&access_token=x", token: "x", has: true},
		{in: "access_token=x&a=1&access_token=y", clean: "a=1", token: "y", has: true, two: true},
		{in: "access_token=", has: true},
		{in: "a=%7B%22b%22%3A1%7D&a=+&&c", clean: "a=%7B%22b%22%3A1%7D&a=+&&c"},
		// ";" separates parameters for some and is data for others; it becomes data for all.
		{in: "a=1;access_token=x", clean: "a=1%3Baccess_token=x"},
	}
	for _, test := range tests {
		got, err := readQuery(test.in)
		if err != nil || got.clean != test.clean || got.token != test.token || got.hasToken != test.has || got.twoTokens != test.two {
			t.Errorf("%q: got %+v, %v", test.in, got, err)
		}
	}
	for _, bad := range []string{"a=%", "a=%4", "a=%zz", "%=1", "access_token=%zz", "user_id=%", strings.Repeat("a&", maxQueryParams)} {
		if got, err := readQuery(bad); err == nil {
			t.Errorf("%.20q was read as %+v", bad, got)
		}
	}
	q, err := readQuery("user_id=%40b%3Ahs&device_id=D&a=1&org.matrix.msc3202.device_id=D")
	if err != nil || q.user != "@b:hs" || q.device != "D" || q.twoAsserted {
		t.Errorf("assertion: %+v, %v", q, err)
	}
	for _, two := range []string{"user_id=@a:hs&user_id=@b:hs", "device_id=A&org.matrix.msc3202.device_id=B"} {
		if q, err := readQuery(two); err != nil || !q.twoAsserted {
			t.Errorf("%s: %+v, %v", two, q, err)
		}
	}
}

// Attack vector (31): tokens of two users in one request, so that the proxy acts for one
// and the homeserver for the other; or something that is no token at all.
//
// Expected: 401, no call upstream, also on paths that just pass.
func TestAmbiguousTokensAreRefused(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	huge := strings.Repeat("x", 1<<20)
	tests := []struct {
		name, query string
		header      []string
		code        string
	}{
		{"header and query differ", "?access_token=bob", []string{"Authorization: Bearer alice"}, "M_MISSING_TOKEN"},
		{"two in the query", "?access_token=bob&access_token=alice", nil, "M_MISSING_TOKEN"},
		{"two headers", "", []string{"Authorization: Bearer alice", "Authorization: Bearer bob"}, "M_MISSING_TOKEN"},
		{"the same twice in headers", "", []string{"Authorization: Bearer alice", "authorization: Bearer alice"}, "M_MISSING_TOKEN"},
		{"another scheme and the query", "?access_token=bob", []string{"Authorization: Basic YTpi"}, "M_MISSING_TOKEN"},
		{"empty in the header", "", []string{"Authorization: Bearer "}, "M_MISSING_TOKEN"},
		{"scheme alone", "", []string{"Authorization: Bearer"}, "M_MISSING_TOKEN"},
		{"empty in the query", "?access_token=", nil, "M_MISSING_TOKEN"},
		{"empty beside a good one", "?access_token=", []string{"Authorization: Bearer alice"}, "M_MISSING_TOKEN"},
		{"a megabyte", "", []string{"Authorization: Bearer " + huge}, "M_UNKNOWN_TOKEN"},
		{"two in one header", "", []string{"Authorization: Bearer alice, Bearer bob"}, "M_UNKNOWN_TOKEN"},
		{"control characters", "?access_token=ali%00ce", nil, "M_UNKNOWN_TOKEN"},
		{"a line break", "?access_token=alice%0d%0aX-Evil:%201", nil, "M_UNKNOWN_TOKEN"},
		{"other scripts", "?access_token=%C3%A9", nil, "M_UNKNOWN_TOKEN"},
	}
	for _, test := range tests {
		for _, path := range []string{"/_matrix/client/v3/sync", "/_matrix/client/v3/joined_rooms"} {
			a := g.do("GET", path+test.query, "", test.header...)
			if a.StatusCode != http.StatusUnauthorized || a.errcode() != test.code {
				t.Errorf("%s on %s: %d %s", test.name, path, a.StatusCode, a.body)
			}
		}
	}
	for name, header := range map[string][]string{"none": nil, "another scheme": {"Authorization: Basic YTpi"}, "hidden by Connection": {"Authorization: Bearer alice", "Connection: Authorization"}} {
		if a := g.do("GET", "/_matrix/client/v3/sync", "", header...); a.StatusCode != http.StatusUnauthorized || a.errcode() != "M_MISSING_TOKEN" {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
	}
	if got := g.hs.all(); len(got) != 0 || g.hs.whoamis() != 0 {
		t.Errorf("upstream saw %d calls and %d whoamis", len(got), g.hs.whoamis())
	}
}

// A good token works wherever it is, and goes upstream in the header only (a query is
// what other servers' logs keep).
func TestTokenGoesUpstreamInTheHeader(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		query  string
		header []string
	}{
		{"", []string{"Authorization: Bearer alice"}},
		{"", []string{"authorization: bearer alice"}},
		{"", []string{"Authorization: BEARER   alice"}},
		{"?access_token=alice", nil},
		{"?access_token=alice", []string{"Authorization: Bearer alice"}},
		{"?access%5ftoken=alice", nil},
	} {
		g := newRig(t, nil)
		if a := g.do("GET", "/_matrix/client/v3/sync"+test.query, "", test.header...); a.Header.Get("X-Intercepted") != "sync" {
			t.Errorf("%+v: %d %s", test, a.StatusCode, a.body)
		}
		g.do("GET", "/_matrix/client/v3/joined_rooms"+test.query, "", test.header...)
		got := g.hs.all()
		if len(got) != 1 || got[0].Target != "/_matrix/client/v3/joined_rooms" || got[0].Header.Get("Authorization") != "Bearer alice" {
			t.Errorf("%+v: upstream saw %+v", test, got)
		}
	}
}

// Attack vector (33): more query parameters than software that limits them will read.
func TestTooManyParametersAreRefused(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	for n, want := range map[int]int{9_999: http.StatusOK, 10_000: http.StatusBadRequest} {
		target := "/_matrix/client/v3/joined_rooms?" + strings.Repeat("a&", n) + "access_token=alice"
		if a := g.do("GET", target, ""); a.StatusCode != want {
			t.Errorf("%d and a token: got %d", n, a.StatusCode)
		}
	}
}

// Single sign-on is not a Matrix endpoint: its query has its own meaning. Only an access
// token does not go up in it either.
func TestSingleSignOnKeepsItsQuery(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"code=a;b&state=c":                        "code=a;b&state=c",
		"code=%zz&state=%":                        "code=%zz&state=%",
		"a=1&access_token=x;b=2&access%5Ftoken=y": "a=1;b=2",
		"access_token=x&&a":                       "a",
		"a&access_token":                          "a",
		"code=a;b&state=c&access_token=x":         "code=a;b&state=c",
		"id_token=x&access_tokens=y":              "id_token=x&access_tokens=y",
		"access_token=x":                          "",
	} {
		g := newRig(t, nil)
		const path = "/_synapse/client/oidc/callback"
		g.do("GET", path+"?"+query, "")
		if want != "" {
			want = "?" + want
		}
		if got := g.hs.all(); len(got) != 1 || got[0].Target != path+want {
			t.Errorf("%s: upstream saw %+v", query, got)
		}
	}
}

// Attack vector: a program that puts its access token into the URL (shoutrrr, matrix-webhook
// and purple-matrix do) has it written into the homeserver's log, and into those of every
// server between, where whoever reads logs finds it. The specification gives such tokens up
// (MSC4127).
//
// Expected: the proxy takes the token, and neither its own log nor any request to the
// homeserver has it in a URL: not on any route, not where a handler asks by itself, not on
// paths that nobody knows.
func TestTokensInTheQueryGoNoFurther(t *testing.T) {
	t.Parallel()
	both := func(x *interceptors.Exchange) error {
		resp, err := x.Upstream.Do(x, interceptors.Change{})
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		return x.Upstream.Forward(x)
	}
	handlers, err := interceptors.Handlers(interceptors.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := newRig(t, func(o *Options) {
		for name := range handlers {
			o.Handlers[name] = both
		}
	})
	const token = "token-of-carol"
	g.hs.tokens[token] = `{"user_id":"@carol:hs","device_id":"CAROL"}`
	paths := map[string]string{ // path to method
		"/_matrix/client/v3/nobody/knows/this":             "GET",
		"/_matrix/client/unstable/org.example/write":       "POST",
		"/_matrix/media/v3/nobody/knows":                   "GET",
		"/_matrix/static/client/login/style.css":           "GET",
		"/_synapse/client/pick_idp":                        "GET",
		"/_synapse/client/oidc/callback":                   "POST",
		"/.well-known/matrix/nobody":                       "GET",
		"/_matrix/client/v3/rooms/!r:hs/nobody/knows/this": "GET",
	}
	for _, r := range allRoutes() {
		for _, version := range append(strings.Split(versionNames(r.versions), ","), "") {
			if version != "" || r.versions == vNone {
				paths[r.method+" "+fill(r.pattern, version)] = r.method
			}
		}
	}
	for path, method := range paths {
		_, after, ok := strings.Cut(path, " ")
		if ok {
			path = after
		}
		for _, query := range []string{
			"access_token=" + token, "a=1&access_token=" + token + "&b=2", "access%5Ftoken=" + token, "%61ccess_token=" + token + "&access_token=" + token,
		} {
			r := inProcess(method, path+"?"+query, "")
			r.Header.Del("Authorization")
			g.serveInProcess(r)
		}
	}
	got := g.hs.all()
	g.hs.mu.Lock()
	all := slices.Clone(g.hs.requests)
	g.hs.mu.Unlock()
	for _, s := range all {
		if strings.Contains(s.Target, token) || strings.Contains(strings.ToLower(s.Target), "token=") || strings.Contains(s.Header.Get("Referer"), token) {
			t.Errorf("upstream saw %s %s", s.Method, s.Target)
		}
		if s.Header.Get("Authorization") != "Bearer "+token && !strings.HasPrefix(s.Target, "/_synapse/") {
			t.Errorf("%s %s came without the token", s.Method, s.Target)
		}
	}
	if len(got) < 4*len(paths)*3/4 {
		t.Errorf("only %d requests for %d paths came up: the test tests too little", len(got), len(paths))
	}
	if log := g.log.String(); strings.Contains(log, token) || strings.Contains(log, "access_token") {
		t.Error("the token is in the log")
	}
}

// FuzzQuery holds: what goes upstream has no access token, and of everything else what
// the client sent, as every reader of it would read it.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"", "a=1&access_token=x&b=2", "access%5Ftoken=%78&&a", "a=1;access_token=x", "a=%", "user_id=@a:hs&user_id=@b:hs"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := readQuery(raw)
		if err != nil {
			return
		}
		want, err := url.ParseQuery(strings.ReplaceAll(raw, ";", "%3B"))
		if err != nil {
			t.Fatalf("%q was accepted: %v", raw, err)
		}
		if tokens := want["access_token"]; q.hasToken != (len(tokens) > 0) || q.hasToken && q.token != tokens[len(tokens)-1] {
			t.Fatalf("%q: token %q, want one of %q", raw, q.token, tokens)
		}
		delete(want, "access_token")
		got, err := url.ParseQuery(q.clean)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("%q became %q: %v (-want +got):\n%s", raw, q.clean, err, diff)
		}
	})
}

// The marks that an earlier version put on sync tokens never go to the homeserver, whichever way the query is
// written; everything else in it stays as it was.
func TestMarksOnTokensStayHere(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"since=s1.e2ee-proxy.3&timeout=0":         "since=s1&timeout=0",
		"from=a%2Fb.e2ee-proxy.3&to=s2&dir=b":     "from=a%2Fb&to=s2&dir=b",
		"%73ince=s1%2Ee2ee-proxy.3":               "%73ince=s1",
		"filter=x.e2ee-proxy.3&since=s1":          "filter=x.e2ee-proxy.3&since=s1",
		"since=s1.e2ee-proxy.&from=s1.e2ee-proxy": "since=s1.e2ee-proxy.&from=s1.e2ee-proxy",
		"since=s1": "since=s1", "": "",
	} {
		if got := withoutMarks(query); got != want {
			t.Errorf("%q goes up as %q, want %q", query, got, want)
		}
	}
	g := newRig(t, nil)
	g.do("GET", "/_matrix/client/v3/rooms/!r:hs/messages?from=s1.e2ee-proxy.3&dir=b", "", "Authorization: Bearer alice")
	if all := g.hs.all(); len(all) == 0 || strings.Contains(all[len(all)-1].Target, "e2ee-proxy") || !strings.Contains(all[len(all)-1].Target, "from=s1&") {
		t.Errorf("the homeserver got %+v", all)
	}
}
