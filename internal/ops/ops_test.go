package ops_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"e2ee-proxy/internal/ops"
)

func get(h http.Handler, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w
}

func quiet(string, error) {}

func TestExactPathsAndMethods(t *testing.T) {
	t.Parallel()
	h := ops.New(prometheus.NewRegistry(), ops.NewReadiness(quiet), nil)
	for _, c := range []struct {
		method, target string
		want           int
	}{
		{"GET", "/livez", 200}, {"HEAD", "/livez", 200}, {"GET", "/readyz", 200}, {"GET", "/metrics", 200}, {"GET", "/livez?verbose", 200},
		{"POST", "/livez", 405}, {"DELETE", "/metrics", 405}, {"OPTIONS", "/readyz", 405}, {"TRACE", "/readyz", 405},
		// attack 41
		{"GET", "/", 404}, {"GET", "/livez/", 404}, {"GET", "//livez", 404}, {"GET", "/%6Civez", 404}, {"GET", "/%2Flivez", 404},
		{"GET", "/./livez", 404}, {"GET", "/x/../metrics", 404}, {"GET", "/LIVEZ", 404}, {"GET", "/metrics%2F", 404}, {"GET", "/debug/pprof/", 404},
		{"POST", "/", 404}, {"BREW", "/x", 404}, {"BREW", "/%6Civez", 404}, {"BREW", "/livez", 405},
		{"GET", "http://ops.test/livez", 200}, {"GET", "http://ops.test", 404}, {"OPTIONS", "*", 404},
	} {
		w := get(h, c.method, c.target)
		if w.Code != c.want {
			t.Errorf("%s %s is %d, want %d", c.method, c.target, w.Code, c.want)
		}
		if c.want == 405 && w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s %s allows %q", c.method, c.target, w.Header().Get("Allow"))
		}
		if h := w.Header(); h.Get("Cache-Control") != "no-store" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: headers %v", c.method, c.target, h)
		}
		if c.want == 200 {
			continue
		}
		var said struct{ ErrCode, Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &said); err != nil || said.ErrCode != "M_UNRECOGNIZED" || said.Error == "" || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %s is no error of Matrix: %v", c.method, c.target, w.Body, err)
		}
	}
}

func TestMetricsAreThoseOfTheRegistry(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "e2ee_proxy_things_total", Help: "Things."})
	reg.MustRegister(c)
	c.Inc()
	body := get(ops.New(reg, ops.NewReadiness(quiet), nil), "GET", "/metrics").Body.String()
	if !strings.Contains(body, "\ne2ee_proxy_things_total 1\n") || strings.Contains(body, "go_") {
		t.Errorf("metrics:\n%s", body)
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var store, homeserver error
		down := errors.New("postgres://secret@host")
		var reported []string
		r := ops.NewReadiness(func(probe string, _ error) { reported = append(reported, probe) },
			ops.Probe{Name: "store", Run: func(context.Context) error { return store }},
			ops.Probe{Name: "homeserver", OnlyFirst: true, Run: func(context.Context) error { return homeserver }})
		h := ops.New(prometheus.NewRegistry(), r, nil)
		step := func(what string, code int, body string) {
			t.Helper()
			w := get(h, "GET", "/readyz")
			if got := strings.TrimSpace(w.Body.String()); w.Code != code || got != body {
				t.Errorf("%s: %d %s, want %d %s", what, w.Code, got, code, body)
			}
		}
		homeserver = down
		step("homeserver not seen yet", 503, `{"ready":false,"checks":{"homeserver":"failing","store":"ok"}}`)
		homeserver = nil
		step("the result is reused for a moment", 503, `{"ready":false,"checks":{"homeserver":"failing","store":"ok"}}`)
		time.Sleep(time.Second)
		step("all well", 200, `{"ready":true,"checks":{"homeserver":"ok","store":"ok"}}`)
		homeserver = down
		time.Sleep(time.Second)
		step("homeserver lost later", 200, `{"ready":true,"checks":{"homeserver":"failing","store":"ok"}}`)
		homeserver, store = nil, down
		time.Sleep(time.Second)
		step("store lost", 503, `{"ready":false,"checks":{"homeserver":"ok","store":"failing"}}`)
		store = nil
		time.Sleep(time.Second)
		r.Drain()
		step("draining", 503, `{"ready":false,"draining":true,"checks":{"homeserver":"ok","store":"ok"}}`)
		if diff := cmp.Diff([]string{"homeserver", "homeserver", "store"}, reported); diff != "" {
			t.Errorf("reported failures (-want +got):\n%s", diff)
		}
	})
}

func TestProbeThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := ops.NewReadiness(quiet, ops.Probe{Name: "store", Run: func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}})
		start := time.Now()
		if report := r.Check(t.Context()); report.Ready {
			t.Error("ready although the store hangs")
		}
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// The metrics say the same as /readyz.
func TestReadinessAsMetrics(t *testing.T) {
	t.Parallel()
	r := ops.NewReadiness(quiet, ops.Probe{Name: "store", Run: func(context.Context) error { return nil }},
		ops.Probe{Name: "homeserver", Run: func(context.Context) error { return errors.New("down") }})
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(r)
	body := get(ops.New(reg, r, nil), "GET", "/metrics").Body.String()
	for _, want := range []string{"e2ee_proxy_ready 0", `e2ee_proxy_check_ok{check="homeserver"} 0`, `e2ee_proxy_check_ok{check="store"} 1`} {
		if !strings.Contains(body, "\n"+want+"\n") {
			t.Errorf("the page has no %s:\n%s", want, body)
		}
	}
}

// A failure that has a word of its own is told by it, and counts as any other.
func TestFailureWithAWord(t *testing.T) {
	t.Parallel()
	h := ops.New(prometheus.NewRegistry(), ops.NewReadiness(quiet, ops.Probe{Name: "homeserver", OnlyFirst: true, Run: func(context.Context) error {
		return fmt.Errorf("ask: %w", &ops.WordedError{Word: "not a homeserver", Err: errors.New("status 404 at https://secret")})
	}}), nil)
	w := get(h, "GET", "/readyz")
	if got, want := strings.TrimSpace(w.Body.String()), `{"ready":false,"checks":{"homeserver":"not a homeserver"}}`; w.Code != 503 || got != want {
		t.Errorf("%d %s, want 503 %s", w.Code, got, want)
	}
}

// Somebody who asks and leaves must not make the others believe in a failure.
func TestAskerWhoLeavesIsNotRemembered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := ops.NewReadiness(func(string, error) { t.Error("a failure was reported") },
			ops.Probe{Name: "store", Run: func(ctx context.Context) error { return ctx.Err() }})
		gone, leave := context.WithCancel(t.Context())
		leave()
		if r.Check(gone).Ready {
			t.Error("ready without having looked")
		}
		if !r.Check(t.Context()).Ready {
			t.Error("the cancelled probe was remembered")
		}
	})
}
