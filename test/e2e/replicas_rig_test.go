package e2e

import (
	"context"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"sync"
	"testing"

	"e2ee-proxy/internal/testproxy"
	"e2ee-proxy/internal/testredis"
)

// replicas are several proxies on one PostgreSQL and one Redis, before one homeserver.
type replicas struct {
	t   *testing.T
	all []*testproxy.Proxy
}

// startReplicas starts n proxies, one after the other as a rolling start would.
func startReplicas(t *testing.T, homeserver string, n int) *replicas {
	t.Helper()
	c, cache := newCluster(t), testredis.Start(t).URL()
	r := &replicas{t: t}
	for range n {
		r.all = append(r.all, testproxy.Start(t, homeserver, testproxy.Options{Config: c.settings(t) + fmt.Sprintf("redis: {url: %q}\n", cache)}))
	}
	return r
}

// RoundTrip sends a request to any of the replicas, as a load balancer does that does not
// know yet which of them are gone. Every answer is one that a client takes or repeats.
func (r *replicas) RoundTrip(req *http.Request) (*http.Response, error) {
	to := r.all[mathrand.IntN(len(r.all))]
	there := req.Clone(req.Context())
	there.URL.Host = to.URL[len("http://"):]
	resp, err := http.DefaultTransport.RoundTrip(there)
	if err == nil && resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
		r.t.Errorf("%s is answered with %d, which no client repeats", req.Method, resp.StatusCode)
	}
	return resp, err
}

// shooter kills replicas and starts them again.
type shooter struct {
	of *replicas

	mu   sync.Mutex
	dead map[*testproxy.Proxy]bool
	wait sync.WaitGroup
}

// fire kills one of those that live and starts it again beside what goes on. Mostly the others
// live meanwhile, now and then one of them; else there would be nobody to go on.
func (s *shooter) fire(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var alive []*testproxy.Proxy
	for _, p := range s.of.all {
		if !s.dead[p] {
			alive = append(alive, p)
		}
	}
	if len(alive) < len(s.of.all) && (len(alive) < 2 || mathrand.IntN(10) > 0) {
		return false
	}
	victim := alive[mathrand.IntN(len(alive))]
	s.dead[victim] = true
	victim.Kill()
	s.wait.Go(func() {
		if err := victim.Start(ctx); err != nil && ctx.Err() == nil {
			s.of.t.Errorf("a replica does not come back: %v", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.dead, victim)
	})
	return true
}
