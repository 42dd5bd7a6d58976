package ops

import (
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves the three endpoints. Create it with [New].
type Handler struct {
	ready   *Readiness
	metrics http.Handler
}

// New makes a Handler that shows the metrics of one registry.
func New(metrics prometheus.Gatherer, ready *Readiness) *Handler {
	return &Handler{ready: ready, metrics: promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.HTTPErrorOnError,
		MaxRequestsInFlight: 4,
	})}
}

// ServeHTTP matches paths byte by byte: an encoded, doubled or trailing slash is
// another path, and other paths do not exist (attack 41).
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var serve http.HandlerFunc
	switch r.URL.EscapedPath() {
	case "/livez":
		serve = live
	case "/readyz":
		serve = h.serveReady
	case "/metrics":
		serve = h.metrics.ServeHTTP
	default:
		http.Error(w, "not found; there are /livez, /readyz and /metrics", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	serve(w, r)
}

// live says that the process answers; nothing else, so that a homeserver that is down
// never gets the proxy restarted.
func live(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, struct {
		Live bool `json:"live"`
	}{true})
}

func (h *Handler) serveReady(w http.ResponseWriter, r *http.Request) {
	report := h.ready.Check(r.Context())
	status := http.StatusOK
	if !report.Ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, report)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that does not wait for the answer is no error of ours.
	_, _ = w.Write(append(body, '\n'))
}
