package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"e2ee-proxy/interceptors"
)

// class is what happens to a request that matches a row. The zero value refuses.
type class int

const (
	// classRefuse is answered here and never passed on.
	classRefuse class = iota
	// classIntercept goes to the handler of its key, without which the proxy does not start.
	classIntercept
	// classOptional carries nothing that must be intercepted. It goes to the handler of its
	// key when there is one, and straight through otherwise: encrypted events arrive as they
	// are.
	classOptional
	// classOwn is answered here by the handler of its key; 404 when there is none.
	classOwn
	// classPass goes straight through.
	classPass
	// classConsole is a page for people, by the handler of its key; 404 when there is none. Its
	// requests have a session of the console instead of a token (console.go).
	classConsole
)

// auth is what step 5 does before the request goes on. The zero value demands a user.
type auth int

const (
	// authUser demands a token that the homeserver confirms.
	authUser auth = iota
	// authOptional identifies the user when there is a valid token; with one that the
	// homeserver refuses, the handler gets an Identity that holds the token only.
	authOptional
	// authNone leaves authentication to the homeserver.
	authNone
)

// route is one row of the table.
type route struct {
	method string
	// pattern is the endpoint and its name in logs and metrics.
	pattern  string
	versions versions
	// maxBody is the size limit of the request's body in bytes.
	maxBody int64
	// bodyUse is how the handler holds the body; without a handler it streams.
	bodyUse bodyUse
	lane    lane
	auth    auth
	class   class
	// handler is the key of the interceptor.
	handler string
	// endsSessions reports whether success may end sessions, so cached identities of the user are
	// dropped.
	endsSessions bool
	// bodyAuth reports whether the homeserver authenticates by the body (a password, a refresh
	// token): a 401 then says nothing of the token in the header.
	bodyAuth bool
	// refusalText is the text of a refusal.
	refusalText string

	params   []string
	segments []string // of the pattern
	run      interceptors.Handler
	duration prometheus.Observer
	// answered counts those with the row's own method and status 200, once there was one.
	answered atomic.Pointer[prometheus.Counter]
}

// durationLabel returns the label of the histogram for a request: refused ones do not wait,
// and would make the lanes look quick.
func (r *route) durationLabel() string {
	if r.class == classRefuse {
		return "refused"
	}
	return r.lane.String()
}

// versions is a set of API versions.
type versions uint16

const (
	vAPI1 versions = 1 << iota
	vR0
	v1
	v3
	v4
	vUnstable

	vNone  versions = 0
	vAny            = vAPI1 | vR0 | v1 | v3 | v4 | vUnstable
	vMedia          = vR0 | v1 | v3
)

// versionBit returns the set of one version; empty for an unknown one.
func versionBit(s string) versions {
	switch s {
	case "api/v1":
		return vAPI1
	case "r0":
		return vR0
	case "v1":
		return v1
	case "v3":
		return v3
	case "v4":
		return v4
	case "unstable":
		return vUnstable
	}
	return vNone
}

// table finds the row of a request.
type table struct {
	root *node
	rows []*route
}

type node struct {
	words map[string]*node
	param *node
	rows  []*route // by method; all have one pattern except for the parameters' names
}

// buildTable checks the rows and builds the table.
func buildTable(rows []*route) (*table, error) {
	t := &table{root: &node{}, rows: rows}
	for _, r := range rows {
		at := t.root
		r.segments = strings.Split(strings.TrimPrefix(r.pattern, "/"), "/")
		for _, seg := range r.segments {
			if name, ok := strings.CutPrefix(seg, "{"); ok && seg != versionMark {
				r.params = append(r.params, strings.TrimSuffix(name, "}"))
				if at.param == nil {
					at.param = &node{}
				}
				at = at.param
				continue
			}
			if at.words == nil {
				at.words = make(map[string]*node)
			}
			if at.words[seg] == nil {
				at.words[seg] = &node{}
			}
			at = at.words[seg]
		}
		if len(r.params) > maxParams || strings.Contains(r.pattern, versionMark) != (r.versions != vNone) {
			return nil, fmt.Errorf("route %s %s: parameters or versions do not fit", r.method, r.pattern)
		}
		if slices.ContainsFunc(at.rows, func(o *route) bool { return o.method == r.method && o.versions&r.versions != 0 }) {
			return nil, fmt.Errorf("route %s %s: there are two", r.method, r.pattern)
		}
		at.rows = append(at.rows, r)
	}
	return t, nil
}

// match is the result of a look-up in the table.
type match struct {
	route  *route // nil when no row matches
	values [maxParams]string
	// guarded reports whether the table has the path, in this version, with rows that do not
	// just pass.
	guarded bool
}

// find looks up a split target. A path that matches a row but has a parameter that is not
// valid in its place is an error.
func (t *table) find(method string, at *target) (match, error) {
	var m match
	n, count := t.root, 0
	for _, seg := range at.segments() {
		if next := n.words[seg]; next != nil {
			n = next
			continue
		}
		if n.param == nil || count == maxParams {
			return m, nil
		}
		n = n.param
		m.values[count] = seg
		count++
	}
	if method == http.MethodHead {
		method = http.MethodGet
	}
	bit := versionBit(at.version)
	for _, r := range n.rows {
		if r.versions != vNone && r.versions&bit == 0 {
			continue
		}
		m.guarded = m.guarded || r.class != classPass
		if r.method != method && (method != http.MethodOptions || r.class == classRefuse) {
			continue
		}
		m.route = r
		for i, name := range r.params {
			value, err := decode(m.values[i])
			if err == nil {
				err = checkParam(name, value)
			}
			if err != nil {
				return m, fmt.Errorf("%w: {%s}", err, name)
			}
			m.values[i] = value
		}
		break
	}
	return m, nil
}

// path builds the path of a row.
func (r *route) path(version string, values *[maxParams]string) string {
	b := make([]byte, 0, 192)
	i := 0
	for _, seg := range r.segments {
		b = append(b, '/')
		switch {
		case seg == versionMark:
			b = append(b, version...)
		case seg != "" && seg[0] == '{':
			b = appendSegment(b, values[i])
			i++
		default:
			b = append(b, seg...)
		}
	}
	return string(b)
}

// buildPath builds the path of a pattern with parameters by name. They must pass the same
// checks as a client's.
func buildPath(pattern, version string, params map[string]string) (string, error) {
	b := make([]byte, 0, 192)
	for seg := range strings.SplitSeq(strings.TrimPrefix(pattern, "/"), "/") {
		b = append(b, '/')
		name, ok := strings.CutPrefix(seg, "{")
		switch {
		case seg == versionMark:
			if versionBit(version) == 0 {
				return "", errParam
			}
			b = append(b, version...)
		case ok:
			name = strings.TrimSuffix(name, "}")
			value, has := params[name]
			if !has {
				return "", fmt.Errorf("%w: %s is missing", errParam, name)
			}
			if err := checkParam(name, value); err != nil {
				return "", err
			}
			b = appendSegment(b, value)
		default:
			b = append(b, seg...)
		}
	}
	return string(b), nil
}

// unlisted decides about a path that matches no row, and rebuilds it. Reads pass, so that
// new endpoints work; writes pass unless they could reach a room, or the homeserver's files,
// which are uploaded in clear on paths that are not known. That holds in every part
// of the homeserver's URL space: software behind it need not be what the name says.
func (t *target) unlisted(method string, guarded bool) (string, error) {
	switch {
	case t.area() == areaNone:
		return "", errNotHere
	case t.plainEscapes:
		return "", errAmbiguous
	case t.segs[t.n-1] == "":
		return "", errEmptySegment
	}
	b := make([]byte, 0, 192)
	var words roomWords
	files := false
	for i, seg := range t.segments() {
		b = append(b, '/')
		if seg == versionMark {
			b = append(b, t.version...)
			continue
		}
		value, err := decode(seg)
		if err != nil {
			return "", err
		}
		if err := checkParam("", value); err != nil {
			return "", err
		}
		if interceptors.IsOwnName(value) {
			return "", errNotHere
		}
		b = appendSegment(b, value)
		if i > 1 {
			words.add(value)
			files = files || strings.EqualFold(value, "media")
		}
	}
	reads := method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
	if !reads && (t.area() == areaMedia || files) {
		return "", errFilePath
	}
	if words.refuses(reads) || guarded && !reads {
		return "", errRoomPath
	}
	switch t.area() {
	case areaClient, areaMedia:
		if !reads && t.version == "" {
			return "", errRoomPath
		}
		return string(b), nil
	case areaSSO: // it has no versions
		return string(b), nil
	case areaReadOnly:
		if reads {
			return string(b), nil
		}
	case areaNone:
	}
	return "", errNotHere
}

var (
	errRoomPath = errors.New("the path could reach a room and is not an endpoint that this proxy knows")
	errFilePath = errors.New("the path could take a file and is not an endpoint that this proxy knows")
	errNotHere  = errors.New("there is no such endpoint")
)

// area is a part of the homeserver's URL space. The zero value does not pass.
type area int

const (
	areaNone area = iota
	areaClient
	areaMedia
	areaSSO
	areaReadOnly
)

func (t *target) area() area {
	if t.n < 2 {
		return areaNone
	}
	switch t.segs[0] + "/" + t.segs[1] {
	case "_matrix/client":
		return areaClient
	case "_matrix/media":
		return areaMedia
	case "_synapse/client":
		return areaSSO
	case "_matrix/static", ".well-known/matrix":
		return areaReadOnly
	}
	return areaNone
}
