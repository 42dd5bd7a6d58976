package ops

import (
	"encoding/json"
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves the three endpoints, and those of administrators. Create it with [New].
type Handler struct {
	routes *chi.Mux
	ready  *Readiness
}

// New makes a Handler for the metrics of one registry, and the calls of administrators, nil for
// none.
func New(metrics prometheus.Gatherer, ready *Readiness, admin *Admin) *Handler {
	h := &Handler{routes: chi.NewMux(), ready: ready}
	figures := promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.HTTPErrorOnError,
		MaxRequestsInFlight: 4,
	})
	h.routes.Use(uncached)
	h.routes.NotFound(notFound)
	h.routes.MethodNotAllowed(h.notAllowed)
	for path, serve := range map[string]http.HandlerFunc{"/livez": live, "/readyz": h.serveReady, "/metrics": figures.ServeHTTP} {
		h.routes.Get(path, serve)
		h.routes.Head(path, serve)
	}
	if admin != nil {
		admin.route(h.routes)
	}
	return h
}

// ServeHTTP matches paths byte by byte: an encoded, doubled or trailing slash is
// another path, and other paths do not exist (attack 41).
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.routes.ServeHTTP(w, r) }

// uncached sets headers against caching and content sniffing.
func uncached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	writeError(w, http.StatusNotFound, errUnrecognized, "There is no such path; there are /livez, /readyz and /metrics.")
}

// notAllowed also gets methods that chi does not know, whatever the path.
func (h *Handler) notAllowed(w http.ResponseWriter, r *http.Request) {
	if !h.routes.Match(chi.NewRouteContext(), http.MethodGet, r.URL.EscapedPath()) {
		notFound(w, r)
		return
	}
	w.Header().Set("Allow", "GET, HEAD")
	writeError(w, http.StatusMethodNotAllowed, errUnrecognized, "This path can only be read: use GET.")
}

// Codes of errors.
const (
	errUnrecognized = "M_UNRECOGNIZED"
	errForbidden    = "M_FORBIDDEN"
)

// writeError answers with a Matrix error, as everything else of this program does.
func writeError(w http.ResponseWriter, status int, code, text string) {
	writeJSON(w, status, struct {
		ErrCode string `json:"errcode"`
		Error   string `json:"error"`
	}{code, text})
}

// live answers that the process runs, and nothing else, so that a homeserver that is down
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
	// An error here means that the client has gone away.
	_, _ = w.Write(append(body, '\n'))
}
