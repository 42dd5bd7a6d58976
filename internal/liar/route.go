package liar

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// call is a request that found its route.
type call struct {
	*Request
	params []string
	user   *user
	device *device
}

type handler func(s *Server, c *call) Reply

type route struct {
	method  string
	pattern []string // path segments after the version; "*" is a parameter
	open    bool     // needs no token
	handle  handler
}

func on(method, pattern string, handle handler) route {
	return route{method: method, pattern: strings.Split(pattern, "/"), handle: handle}
}

func openOn(method, pattern string, handle handler) route {
	r := on(method, pattern, handle)
	r.open = true
	return r
}

func allRoutes() []route {
	return slices.Concat(accountRoutes(), keyRoutes(), signingRoutes(), backupRoutes(), roomRoutes(), readRoutes(), otherRoutes())
}

// answer finds the route of a request and runs it with the lock held.
func (s *Server) answer(r *Request) Reply {
	segments := strings.Split(strings.TrimPrefix(r.Path, "/_matrix/client/"), "/")
	if r.Path == "/_matrix/client/versions" {
		return OK(map[string]any{"versions": []string{"v1.1", "v1.6", "v1.11", "v1.12", "v1.15"}})
	}
	if reply, ok := s.media(r); ok {
		return reply
	}
	if !strings.HasPrefix(r.Path, "/_matrix/client/") || len(segments) < 2 {
		return Failure(http.StatusNotFound, "M_UNRECOGNIZED", "Unrecognized request")
	}
	known := false
	for _, rt := range s.routes {
		params, ok := rt.match(segments[1:])
		if !ok {
			continue
		}
		if rt.method != r.Method {
			known = true
			continue
		}
		return s.run(rt, &call{Request: r, params: params})
	}
	if known {
		return Failure(http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "Unrecognized request")
	}
	return Failure(http.StatusNotFound, "M_UNRECOGNIZED", "Unrecognized request")
}

func (s *Server) run(rt route, c *call) Reply {
	if len(c.Body) > 0 && !json.Valid(c.Body) {
		return Failure(http.StatusBadRequest, "M_NOT_JSON", "Content not JSON.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.device = s.tokens[c.Token()]; c.device != nil {
		c.user = c.device.user
	} else if !rt.open {
		return Failure(http.StatusUnauthorized, "M_UNKNOWN_TOKEN", "Unrecognised access token")
	}
	reply := rt.handle(s, c)
	// Encoded while the lock is held: the answer may be made of the state itself.
	reply.Body = encode(reply.Body)
	return reply
}

func (rt route) match(segments []string) ([]string, bool) {
	if len(segments) != len(rt.pattern) {
		return nil, false
	}
	var params []string
	for i, want := range rt.pattern {
		got, err := url.PathUnescape(segments[i])
		if err != nil {
			return nil, false
		}
		if want == "*" {
			params = append(params, got)
		} else if want != got {
			return nil, false
		}
	}
	return params, true
}

// once runs a request with a transaction ID, or returns the answer of the first time.
func (s *Server) once(c *call, do func() any) any {
	key := c.device.user.id + "\x00" + c.device.id + "\x00" + c.Path
	if before, ok := s.txns[key]; ok {
		return before
	}
	s.txns[key] = do()
	return s.txns[key]
}

// body decodes the request's body; members of the wrong type stay zero.
func body[T any](c *call) T {
	var v T
	// A test sees what the client sent wrong in the server's state.
	_ = json.Unmarshal(c.Body, &v)
	return v
}

var empty = map[string]any{}

func nothing(*Server, *call) Reply { return OK(empty) }
