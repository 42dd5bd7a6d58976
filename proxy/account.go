package proxy

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"e2ee-proxy/cluster"
	"e2ee-proxy/internal/budget"
)

// requestID names a request in the log. Clients cannot choose it.
type requestID struct {
	prefix string
	n      uint64
	given  string
}

// givenID is the ID of a request that was named by another process of the cluster.
func givenID(id string) requestID { return requestID{given: id} }

func (id requestID) String() string {
	if id.given != "" {
		return id.given
	}
	b := make([]byte, 0, 32)
	b = append(append(b, id.prefix...), '-')
	return string(strconv.AppendUint(b, id.n, 36))
}

// account logs a request in one line and counts it. The line has the route's pattern, and a
// hash of the user; never a path, a query, a token or a body.
func (p *Proxy) account(q *request, took time.Duration) {
	status := q.w.status
	if status == 0 {
		status = http.StatusOK // net/http sends 200 for a handler that wrote nothing
	}
	route := q.route
	if route == nil {
		route = p.refused
	}
	method := methodName(q.r.Method)
	p.metrics.count(route, method, status)
	route.duration.Observe(took.Seconds())

	event := p.log.Info()
	if status >= http.StatusInternalServerError {
		event = p.log.Warn()
	}
	event = event.Str("request_id", q.id.String()).Str("route", route.pattern).Str("method", method).
		Int("status", status).Dur("duration_ms", took).Int64("bytes", q.w.bytes)
	if q.who.UserID != "" {
		sum := p.identities.hash([]byte("user\x00" + string(q.who.UserID)))
		event = event.Str("user", hex.EncodeToString(sum[:6]))
	}
	if q.local {
		event = event.Bool("local", true)
	}
	if q.from != "" {
		event = event.Str("forwarded_from", q.from)
	}
	if q.to != "" {
		event = event.Str("forwarded_to", q.to)
	}
	switch {
	case q.err == nil:
	case status == statusClientGone: // clients do that all the time, and nothing has failed
		event = event.Str("reason", "the client left")
	default:
		event = event.AnErr("error", q.err)
	}
	event.Msg("request")
}

// methodName returns a method for a label, so that clients cannot choose labels.
func methodName(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions:
		return method
	}
	return "other"
}

// durationBuckets returns the bounds in seconds that docs/gateway.md uses: quick,
// noticeable, slow, and longer than clients wait. The duration of a single route is in the
// log: a histogram by route had 3,300 lines that nobody read.
func durationBuckets() []float64 { return []float64{.01, .1, .5, 1, 5, 30} }

// metrics are the counters of the proxy. Labels are routes, methods, statuses and lanes
// only.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	lookups  *prometheus.CounterVec
}

// count counts a request. Nearly all of a row are of its own method and answered with 200: their
// counter need not be looked for.
func (m *metrics) count(r *route, method string, status int) {
	if method != r.method || status != http.StatusOK {
		m.requests.WithLabelValues(r.pattern, method, strconv.Itoa(status)).Inc()
		return
	}
	ok := r.answered.Load()
	if ok == nil {
		found := m.requests.WithLabelValues(r.pattern, method, strconv.Itoa(status))
		ok = &found
		r.answered.Store(ok)
	}
	(*ok).Inc()
}

func newMetrics(reg prometheus.Registerer, limits *limiter, memory *budget.Budget) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_requests_total",
			Help: "Requests by route pattern, method and status; 499 is a client that left.",
		}, []string{"route", "method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "e2ee_proxy_request_duration_seconds",
			Help:    "Time from the request's header to the end of the response, by what requests wait for.",
			Buckets: durationBuckets(),
		}, []string{"lane"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_identity_lookups_total",
			Help: "Look-ups of access tokens: from the cache, from the one that replicas share, by whoami, refused or failed.",
		}, []string{"result"}),
	}
	all := []prometheus.Collector{m.requests, m.duration, m.lookups, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "e2ee_proxy_body_memory_bytes",
		Help: "Memory set aside for request bodies that are taken apart.",
	}, func() float64 { return float64(memory.Taken()) })}
	for l := range lanes {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "e2ee_proxy_requests_in_flight",
			Help:        "Requests being answered, by what they wait for.",
			ConstLabels: prometheus.Labels{"lane": l.String()},
		}, func() float64 { return float64(limits.total[l].Load()) }))
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// recorder is the response writer of the steps. It records what was sent, moves the
// connection's write deadline along with the progress, and lets browsers read answers.
type recorder struct {
	http.ResponseWriter
	conn http.ResponseController
	// idle is how long one write may take.
	idle time.Duration
	// strict reports whether a deadline that passes ends the request, also while nothing is
	// written (HTTP/2), so that there is one only while something is.
	strict   bool
	deadline time.Time
	// quick reports whether the client took the last large piece at once.
	quick bool
	// allowOrigin adds Access-Control-Allow-Origin to an answer without it.
	allowOrigin bool
	// forPeer marks the answer as one for the client of another process.
	forPeer bool
	status  int
	bytes   int64
	// clientGone reports whether the client did not take a part of the answer.
	clientGone bool
}

const (
	// writeChunk is how much has to be sent within one idle time, in bytes, and quickChunk how much
	// when the client has taken as much as that in a hundredth of the time: it is cheaper.
	writeChunk = 64 << 10
	quickChunk = 4 * writeChunk
)

// begin begins to record what is written to another.
func (w *recorder) begin(to http.ResponseWriter, strict bool, idle time.Duration, now time.Time) {
	w.ResponseWriter, w.conn, w.idle, w.strict = to, *http.NewResponseController(to), idle, strict
	if !w.strict {
		w.extend(now)
	}
}

// Unwrap serves http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if status >= 200 {
		if w.status != 0 {
			return
		}
		w.status = status
		if w.allowOrigin && len(w.Header()["Access-Control-Allow-Origin"]) == 0 {
			w.Header().Set("Access-Control-Allow-Origin", "*")
		}
		if w.forPeer {
			cluster.Answered(w)
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	done := 0
	defer w.rest()
	for {
		began := time.Now()
		w.extend(began)
		size := writeChunk
		if w.quick {
			size = quickChunk
		}
		chunk := b[done:min(len(b), done+size)]
		n, err := w.ResponseWriter.Write(chunk)
		if n >= writeChunk {
			w.quick = time.Since(began) < w.idle/100
		}
		done += n
		w.bytes += int64(n)
		w.clientGone = w.clientGone || err != nil
		if err != nil || done >= len(b) {
			return done, err //nolint:wrapcheck // an io.Writer passes errors on
		}
	}
}

// FlushError serves http.ResponseController.
func (w *recorder) FlushError() error {
	w.extend(time.Now())
	defer w.rest()
	return w.conn.Flush() //nolint:wrapcheck // as above
}

// rest takes the write deadline away until something is written again, where it has to go.
func (w *recorder) rest() {
	if w.strict && !w.deadline.IsZero() {
		w.deadline = time.Time{}
		_ = w.conn.SetWriteDeadline(time.Time{}) // as below
	}
}

// extend moves the write deadline. It is cheap: the connection is only told when a tenth of
// the time has passed.
func (w *recorder) extend(now time.Time) {
	if at := now.Add(w.idle); at.Sub(w.deadline) > w.idle/10 {
		w.deadline = at
		_ = w.conn.SetWriteDeadline(at) // not every connection has deadlines; then there is none
	}
}

// counter numbers requests.
type counter struct{ n atomic.Uint64 }

func (c *counter) next() uint64 { return c.n.Add(1) }
