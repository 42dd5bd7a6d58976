package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
)

// Rules of this file:
//   - Who calls is known before a body is read or anything is done.
//   - What another replica hands on is answered here or not at all; it goes no further.

const (
	// maxPeerHeader is the largest header of a request, in bytes: that of a client and ours.
	maxPeerHeader = 1<<20 + 64<<10
	// peerHeaderWait is how long another replica may take to send one.
	peerHeaderWait = 10 * time.Second
	// peerIdle is how long a connection without a request is kept.
	peerIdle = 2 * time.Minute
)

// Requests answers what other replicas hand on.
type Requests interface {
	// ServeForwarded answers a request, whose target, header and client are as the other replica
	// got them. It tells through [Answered], [Moved] or [Broken] which it was before it writes.
	ServeForwarded(w http.ResponseWriter, r *http.Request, f Forwarded, from string)
	// Dropped is told what another replica no longer believes, see [Node.TellDropped].
	Dropped(kind, name string)
}

// Answered marks an answer as one for the client.
func Answered(w http.ResponseWriter) { w.Header()[headerResult] = []string{resultAnswered} }

// Moved says that the account is not this process's own, and that nothing was done.
func Moved(w http.ResponseWriter) {
	w.Header()[headerResult] = []string{resultMoved}
	w.WriteHeader(http.StatusMisdirectedRequest)
}

// Broken says that the account was lost while something was done for it.
func Broken(w http.ResponseWriter) {
	w.Header()[headerResult] = []string{resultBroken}
	w.WriteHeader(http.StatusMisdirectedRequest)
}

// Server is the listener for other replicas. Create it with [Node.Server].
type Server struct {
	n        *Node
	requests Requests
	drain    time.Duration
	active   sync.WaitGroup
	routes   *chi.Mux
	// open reports whether requests are taken; before that only who this is can be asked.
	open atomic.Bool
	// since is when the drain of this process began.
	since atomic.Pointer[time.Time]
}

// Server returns the listener for other replicas. drain is how long requests under way may take
// at the end.
func (n *Node) Server(requests Requests, drain time.Duration) *Server {
	s := &Server{n: n, requests: requests, drain: drain, routes: chi.NewMux()}
	s.routes.Use(s.authenticated)
	s.routes.Get(pathHello, s.hello)
	s.routes.Group(func(r chi.Router) {
		r.Use(s.forUs)
		r.HandleFunc(pathForward, s.forwarded)
		r.Post(pathCall+"{call}", s.called)
		r.Post(pathDropped, s.dropped)
	})
	s.routes.NotFound(noSuchPath)
	s.routes.MethodNotAllowed(noSuchPath)
	return s
}

// Open lets requests in. Until then others learn who this is, so that all replicas can be started
// at the same time.
func (s *Server) Open() { s.open.Store(true) }

// Draining says that the time for the drain runs from now on, although the listener is served for
// longer.
func (s *Server) Draining() {
	now := time.Now()
	s.since.CompareAndSwap(nil, &now)
}

// leastDrain is how long requests may take to finish at the end in any case.
const leastDrain = time.Second

// left returns how much of the time for the drain is left.
func (s *Server) left() time.Duration {
	if since := s.since.Load(); since != nil {
		return max(s.drain-time.Since(*since), leastDrain)
	}
	return s.drain
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.active.Add(1)
	defer s.active.Done()
	s.routes.ServeHTTP(w, r)
}

// Serve answers other replicas until ctx is done, and then until what is under way has ended. It
// returns when no handler runs any more.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: peerHeaderWait,
		IdleTimeout:       peerIdle,
		MaxHeaderBytes:    maxPeerHeader,
		ErrorLog:          log.New(io.Discard, "", 0),
		BaseContext:       func(net.Listener) context.Context { return requests },
		Protocols:         new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	if s.n.o.TLS != nil {
		server.TLSConfig = s.n.o.TLS.Clone()
		server.TLSConfig.ClientAuth, server.TLSConfig.ClientCAs = tls.RequireAndVerifyClientCert, s.n.o.TLS.RootCAs
	}
	served := make(chan error, 1)
	go func() { // ends with Shutdown or Close below
		if server.TLSConfig != nil {
			served <- server.ServeTLS(ln, "", "")
			return
		}
		served <- server.Serve(ln)
	}()
	select {
	case err := <-served:
		return fmt.Errorf("serve other replicas: %w", err)
	case <-ctx.Done():
	}
	finishing, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.left())
	defer cancel()
	err := server.Shutdown(finishing)
	if err != nil {
		err = errors.Join(fmt.Errorf("drain the cluster's listener: %w", err), server.Close())
		cut()
	}
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve other replicas: %w", serr))
	}
	s.active.Wait()
	return err
}

// refusedEvery is how often the log says that somebody was refused, in seconds.
const refusedEvery = 10

// authenticated lets nobody in who has not shown that it belongs to the cluster. With TLS the
// connection would not be there without a certificate.
func (s *Server) authenticated(next http.Handler) http.Handler {
	n := s.n
	want := n.proofs.toCall(n.o.Advertise)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		knows := !n.proofs.on() || sameProof(r.Header.Get(headerProof), want)
		if knows && (n.proofs.on() || r.TLS != nil && len(r.TLS.VerifiedChains) > 0) {
			next.ServeHTTP(w, r)
			return
		}
		n.o.Metrics.refused.Inc()
		now := time.Now().Unix()
		if last := n.warned.Load(); now-last >= refusedEvery && n.warned.CompareAndSwap(last, now) {
			n.o.Log.Warn().Str("address", r.RemoteAddr).
				Msg("refused who called the cluster's listener: it has another cluster.secret, or calls this replica by another URL than cluster.advertise")
		}
		w.Header().Set(headerResult, resultRefused)
		refuse(w, http.StatusForbidden, "M_FORBIDDEN", "This is for replicas of one cluster only.")
	})
}

func (s *Server) hello(w http.ResponseWriter, r *http.Request) {
	n := s.n
	name := n.name()
	if name == "" {
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "This replica is starting.")
		return
	}
	writeJSON(w, http.StatusOK, helloAnswer{
		Replica: name, Protocol: protocol, Proof: n.proofs.answer(n.o.Advertise, r.Header.Get(headerNonce)),
	})
}

// forUs passes on what is meant for this process.
func (s *Server) forUs(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(headerTo) != s.n.name() || !s.open.Load() {
			Moved(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// forwarded puts a request back as the other replica got it, and has it answered.
func (s *Server) forwarded(w http.ResponseWriter, r *http.Request) {
	h := r.Header
	target, id, from := h.Get(headerTarget), h.Get(headerRequest), h.Get(headerFrom)
	if target == "" || !isName(id) || !isName(from) {
		refuse(w, http.StatusBadRequest, "M_UNRECOGNIZED", "A request that is handed on has a target and names.")
		return
	}
	f := Forwarded{RequestID: id, Again: h.Get(headerAgain) != "", Target: target, Host: h.Get(headerHost), Client: h.Get(headerClient)}
	r.RequestURI, r.Host, r.RemoteAddr = f.Target, f.Host, f.Client
	h.Del("Expect") // its answer was for the other replica
	removeOwn(h)
	s.requests.ServeForwarded(w, r, f, from)
}

// isName reports whether a text can be the name of a request or of a replica, which go into the
// log.
func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func noSuchPath(w http.ResponseWriter, _ *http.Request) {
	refuse(w, http.StatusNotFound, "M_UNRECOGNIZED", "There is no such call between replicas.")
}

// refuse answers with a Matrix error, as everything else of this program does.
func refuse(w http.ResponseWriter, status int, code, text string) {
	writeJSON(w, status, struct {
		ErrCode string `json:"errcode"`
		Error   string `json:"error"`
	}{code, text})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // an error here means that the caller has gone away
}
