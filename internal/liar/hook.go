package liar

import (
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"sync"
)

// Match chooses requests.
type Match func(r *Request) bool

// Hook answers a request in the server's place. next returns the server's answer (with the
// hooks that were set before); a hook may call it or not, before or after what it does
// itself, and change the answer.
type Hook func(r *Request, next func() Reply) Reply

type hook struct {
	match Match
	run   Hook
}

// Intercept lets a hook answer the requests that match, until remove is called. Later
// hooks come before earlier ones.
func (s *Server) Intercept(match Match, run Hook) (remove func()) {
	h := &hook{match: match, run: run}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks = append(s.hooks, h)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hooks = slices.DeleteFunc(s.hooks, func(other *hook) bool { return other == h })
	}
}

// Is chooses by method (any when empty) and by a regular expression that is searched
// for in the percent-decoded path.
func Is(method, path string) Match {
	re := regexp.MustCompile(path)
	return func(r *Request) bool {
		decoded, err := url.PathUnescape(r.Path)
		if err != nil {
			decoded = r.Path
		}
		return (method == "" || r.Method == method) && re.MatchString(decoded)
	}
}

// Of chooses the requests of one user among those that match.
func Of(user string, match Match) Match {
	return func(r *Request) bool { return r.UserID == user && match(r) }
}

// Fail answers with a Matrix error and does nothing.
func Fail(status int, errcode string) Hook {
	return func(*Request, func() Reply) Reply { return Failure(status, errcode, "as the test wants it") }
}

// Cut closes the connection and does nothing.
func Cut(*Request, func() Reply) Reply { return Reply{Cut: true} }

// CutAfter does what was asked and then closes the connection without an answer.
func CutAfter(_ *Request, next func() Reply) Reply {
	next()
	return Reply{Cut: true}
}

// Nth runs a hook for the n-th request only, counted from 1; for all others the
// server answers.
func Nth(n int, run Hook) Hook {
	var mu sync.Mutex
	seen := 0
	return func(r *Request, next func() Reply) Reply {
		mu.Lock()
		seen++
		now := seen == n
		mu.Unlock()
		if now {
			return run(r, next)
		}
		return next()
	}
}

// First runs a hook for the first n requests only.
func First(n int, run Hook) Hook {
	var mu sync.Mutex
	seen := 0
	return func(r *Request, next func() Reply) Reply {
		mu.Lock()
		seen++
		now := seen <= n
		mu.Unlock()
		if now {
			return run(r, next)
		}
		return next()
	}
}

// Remembered answers a request from memory when one with the same query was answered
// before, as Synapse does for two minutes with an initial sync.
func Remembered() Hook {
	var mu sync.Mutex
	said := make(map[string]Reply)
	return func(r *Request, next func() Reply) Reply {
		key := r.UserID + " " + r.Path + "?" + r.Query
		mu.Lock()
		reply, ok := said[key]
		mu.Unlock()
		if ok {
			return reply
		}
		reply = next()
		mu.Lock()
		defer mu.Unlock()
		said[key] = reply
		return reply
	}
}

// Edit changes successful answers on their way, decoded as JSON.
func Edit(change func(r *Request, body map[string]any)) Hook {
	return func(r *Request, next func() Reply) Reply {
		reply := next()
		if reply.Status != 200 {
			return reply
		}
		raw, err := json.Marshal(reply.Body)
		if err != nil {
			return Failure(500, "M_UNKNOWN", err.Error())
		}
		var body map[string]any
		if err := json.Unmarshal(raw, &body); err != nil {
			return Failure(500, "M_UNKNOWN", err.Error())
		}
		change(r, body)
		reply.Body = body
		return reply
	}
}

// Gate holds requests until the test lets them go.
type Gate struct {
	arrived chan *Request
	open    chan struct{}
	once    sync.Once
}

// NewGate makes a closed gate.
func NewGate() *Gate {
	return &Gate{arrived: make(chan *Request, 1000), open: make(chan struct{})}
}

// Arrived returns the requests that came to the gate, in order.
func (g *Gate) Arrived() <-chan *Request { return g.arrived }

// Open lets all held and all later requests pass.
func (g *Gate) Open() { g.once.Do(func() { close(g.open) }) }

// Before returns a hook that holds requests before the server does what they ask.
func (g *Gate) Before(r *Request, next func() Reply) Reply {
	if !g.wait(r) {
		return Reply{Cut: true}
	}
	return next()
}

// After returns a hook that holds answers: the server has done what was asked.
func (g *Gate) After(r *Request, next func() Reply) Reply {
	reply := next()
	if !g.wait(r) {
		return Reply{Cut: true}
	}
	return reply
}

func (g *Gate) wait(r *Request) bool {
	g.arrived <- r
	select {
	case <-g.open:
		return true
	case <-r.done:
		return false
	}
}
