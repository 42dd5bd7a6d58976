package liar

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
)

// ServerName is the server part of user IDs.
const ServerName = "liar.test"

// Server is the homeserver. Its exported methods may be called at any time from any
// goroutine.
type Server struct {
	// URL is the base URL of the Client-Server API.
	URL string

	routes []route

	mu       sync.Mutex
	requests []*Request
	hooks    []*hook
	changed  chan struct{} // closed and replaced at every change
	state
}

// tb is what of a test a server needs.
type tb interface {
	Helper()
	Cleanup(f func())
}

// New starts a server that ends with the test.
func New(t tb) *Server {
	t.Helper()
	return start(t, &Server{state: newState()})
}

func start(t tb, s *Server) *Server {
	s.changed, s.routes = make(chan struct{}), allRoutes()
	h := httptest.NewServer(s)
	s.URL = h.URL
	t.Cleanup(func() {
		// Parked syncs would keep Close waiting.
		h.CloseClientConnections()
		h.Close()
	})
	return s
}

// Request is a request as it came.
type Request struct {
	Method string
	// Path is still percent-encoded, exactly as it came.
	Path   string
	Query  string
	Header http.Header
	Body   []byte
	// UserID and DeviceID own the access token; empty when it has no owner.
	UserID, DeviceID string

	done <-chan struct{} // closed when the client has gone
}

// JSON decodes the body; members of the wrong type stay zero.
func (r *Request) JSON(v any) error { return json.Unmarshal(r.Body, v) }

// Token returns the access token of the header or the query.
func (r *Request) Token() string {
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return token
	}
	return r.query().Get("access_token")
}

func (r *Request) query() url.Values {
	// What cannot be parsed is left out, as net/http does.
	q, _ := url.ParseQuery(r.Query)
	return q
}

// Requests returns the requests so far for which match is true; all when it is nil.
func (s *Server) Requests(match Match) []*Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*Request
	for _, r := range s.requests {
		if match == nil || match(r) {
			found = append(found, r)
		}
	}
	return found
}

// PlaintextSeen reports whether canary was in any request so far: in its path or query (as
// it came or percent-decoded), its headers or its body.
func (s *Server) PlaintextSeen(canary string) bool {
	return len(s.Requests(func(r *Request) bool { return r.contains(canary) })) > 0
}

func (r *Request) contains(text string) bool {
	places := []string{r.Path, r.Query, string(r.Body)}
	for _, encoded := range []string{r.Path, r.Query, string(r.Body)} {
		if decoded, err := url.QueryUnescape(encoded); err == nil {
			places = append(places, decoded)
		}
	}
	for name, values := range r.Header {
		places = append(places, name, strings.Join(values, "\n"))
	}
	for _, place := range places {
		if strings.Contains(place, text) {
			return true
		}
	}
	return false
}

// ServeHTTP records the request and answers it through the hooks that match.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the client has gone
	}
	path, query, _ := strings.Cut(req.RequestURI, "?")
	r := &Request{
		Method: req.Method, Path: path, Query: query,
		Header: req.Header.Clone(), Body: body, done: req.Context().Done(),
	}
	s.mu.Lock()
	if d := s.tokens[r.Token()]; d != nil {
		r.UserID, r.DeviceID = d.user.id, d.id
	}
	s.requests = append(s.requests, r)
	answer := func() Reply { return s.answer(r) }
	for _, h := range s.hooks {
		if h.match(r) {
			next := answer
			answer = func() Reply { return h.run(r, next) }
		}
	}
	s.mu.Unlock()
	answer().write(w)
}

// Reply is an answer of the server. Hooks may change it.
type Reply struct {
	Status int
	Header http.Header
	// Body is a []byte that is sent as it is, or anything that encodes to JSON.
	Body any
	// Cut closes the connection without an answer.
	Cut bool
}

// OK returns a successful answer.
func OK(body any) Reply { return Reply{Status: http.StatusOK, Body: body} }

// Failure returns a Matrix error.
func Failure(status int, errcode, message string) Reply {
	return Reply{Status: status, Body: map[string]any{"errcode": errcode, "error": message}}
}

func (r Reply) write(w http.ResponseWriter) {
	if r.Cut {
		if h, ok := w.(http.Hijacker); ok {
			if conn, _, err := h.Hijack(); err == nil {
				conn.Close()
				return
			}
		}
		return
	}
	raw, isBytes := r.Body.([]byte)
	if !isBytes {
		var buf bytes.Buffer
		if err := json.NewEncoder(&buf).Encode(r.Body); err != nil {
			http.Error(w, "the test's answer is not JSON: "+err.Error(), http.StatusInternalServerError)
			return
		}
		raw = buf.Bytes()
	}
	w.Header().Set("Content-Type", "application/json")
	maps.Copy(w.Header(), r.Header)
	w.WriteHeader(r.Status)
	// A client that has gone is no concern of the server's.
	_, _ = w.Write(raw)
}

// bumpPosition wakes parked syncs because something changed, and returns the change's position.
// The caller holds the lock.
func (s *Server) bumpPosition() int64 {
	s.pos++
	close(s.changed)
	s.changed = make(chan struct{})
	return s.pos
}
