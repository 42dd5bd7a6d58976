package interceptors

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"maunium.net/go/mautrix/id"
)

// seen is a request as the homeserver got it.
type seen struct {
	method, path, query, body, contentType string
}

// fakeUpstream records what would have gone to the homeserver.
type fakeUpstream struct {
	mu  sync.Mutex
	got []seen
	// looked are the requests that ask whether a room is encrypted; they are not in got.
	looked []seen
	// unknown is a room whose encryption is asked of respond.
	unknown id.RoomID
	// respond makes the answer; nil answers as a homeserver that accepts everything.
	respond func(s seen) (int, string)
	// versions is the answer to GET versions, which is not in got; empty: only the
	// specification's.
	versions string
	// broken is the error of every request.
	broken error
	// types are the content types of answers, by the path; others are application/json.
	types map[string]string
	// unannounced says that no answer tells its length.
	unannounced bool
	// tokens are the Authorization headers of all requests.
	tokens []string
	// arrived, when set, is called with each request before it is answered.
	arrived func(s seen)
}

func (u *fakeUpstream) requests() []seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.got)
}

func (u *fakeUpstream) Do(x *Exchange, c Change) (*http.Response, error) {
	method, pattern, query := x.Request.Method, x.Endpoint.Pattern, x.Request.URL.RawQuery
	if c.Method != "" {
		method = c.Method
	}
	if c.Pattern != "" {
		pattern = c.Pattern
	}
	if c.Query != nil {
		query = c.Query.Encode()
	}
	params := maps.Clone(x.Endpoint.Params)
	maps.Copy(params, c.Params)
	params["version"] = x.Endpoint.Version
	body, contentType := c.Body, "application/json"
	switch {
	case body != nil:
	case c.Stream != nil:
		contentType = c.ContentType
		var err error
		if body, err = io.ReadAll(c.Stream); err != nil {
			return nil, err
		}
		if c.Length >= 0 && int64(len(body)) != c.Length {
			return nil, fmt.Errorf("body of %d bytes announced as %d", len(body), c.Length)
		}
	default:
		contentType = x.Request.Header.Get("Content-Type")
		var err error
		if body, err = io.ReadAll(x.Request.Body); err != nil {
			return nil, err
		}
		if x.Request.ContentLength >= 0 && int64(len(body)) != x.Request.ContentLength {
			return nil, fmt.Errorf("body of %d bytes announced as %d", len(body), x.Request.ContentLength)
		}
	}
	s := seen{method, fill(pattern, params), query, string(body), contentType}
	if resp := u.lookUp(s); resp != nil {
		return resp, nil
	}
	u.mu.Lock()
	u.got = append(u.got, s)
	u.tokens = append(u.tokens, x.Request.Header.Get("Authorization"))
	u.mu.Unlock()
	if u.arrived != nil {
		u.arrived(s)
	}
	if err := x.Request.Context().Err(); err != nil {
		return nil, err
	}
	if u.broken != nil {
		return nil, u.broken
	}
	status, answer := http.StatusOK, `{"event_id":"$event"}`
	if u.respond != nil {
		status, answer = u.respond(s)
	}
	resp := answerWith(status, answer)
	if u.unannounced {
		resp.ContentLength = -1
	}
	if kind, ok := u.types[s.path]; ok {
		resp.Header.Set("Content-Type", kind)
	}
	return resp, nil
}

func answerWith(status int, answer string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}, "Etag": {`"1"`}},
		Body: io.NopCloser(strings.NewReader(answer)), ContentLength: int64(len(answer)),
	}
}

// lookUp answers requests that handlers make by themselves: for a room's encryption, by the
// room's name, and for the homeserver's features.
func (u *fakeUpstream) lookUp(s seen) *http.Response {
	if s.path == "/_matrix/client/versions" && s.method == http.MethodGet && s.body == "" {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.looked = append(u.looked, s)
		switch u.versions {
		case "":
			return answerWith(200, `{"versions":["v1.11"]}`)
		case "broken":
			return answerWith(502, `<html>`)
		}
		return answerWith(200, u.versions)
	}
	room, ok := strings.CutPrefix(s.path, "/_matrix/client/v3/rooms/%21")
	room, ask := strings.CutSuffix(room, ":hs.example/state/m.room.encryption")
	if !ok || !ask || s.method != http.MethodGet || s.body != "" || u.unknown == id.RoomID("!"+room+":hs.example") {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.looked = append(u.looked, s)
	switch room {
	case "plain":
		return answerWith(404, `{"errcode":"M_NOT_FOUND","error":"Event not found."}`)
	case "encrypted":
		return answerWith(200, encryptionContent)
	case "unsupported":
		return answerWith(200, `{"algorithm":"m.new"}`)
	case "forbidden":
		return answerWith(403, `{"errcode":"M_FORBIDDEN","error":"not in it"}`)
	case "unrecognized":
		return answerWith(404, `{"errcode":"M_UNRECOGNIZED"}`)
	case "html":
		return answerWith(200, `<html>`)
	}
	return answerWith(500, `{"errcode":"M_UNKNOWN"}`)
}

func (u *fakeUpstream) Forward(x *Exchange) error {
	resp, err := u.Do(x, Change{})
	if err != nil {
		return err
	}
	return u.Relay(x, resp)
}

func (u *fakeUpstream) Relay(x *Exchange, resp *http.Response) error {
	maps.Copy(x.Writer.Header(), resp.Header)
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.ContentLength >= 0 && int64(len(raw)) != resp.ContentLength {
		return fmt.Errorf("answer of %d bytes announced as %d", len(raw), resp.ContentLength)
	}
	x.Writer.WriteHeader(resp.StatusCode)
	_, err = x.Writer.Write(raw)
	return err
}

// fill writes a path from its pattern, with each parameter encoded.
func fill(pattern string, params map[string]string) string {
	segments := strings.Split(pattern, "/")
	for i, s := range segments {
		if name, ok := strings.CutPrefix(s, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			value, ok := params[name]
			if !ok {
				return "missing parameter " + name
			}
			if name != "version" {
				value = url.PathEscape(value)
			}
			segments[i] = value
		}
	}
	return strings.Join(segments, "/")
}
