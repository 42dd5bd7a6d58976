package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"e2ee-proxy/store"
)

const (
	// dialWait is how long a connection to a replica may take, helloWait the first question.
	dialWait  = 2 * time.Second
	helloWait = 5 * time.Second
	// bodyWait is how long a replica may take to ask for a large body, which is sent only then.
	bodyWait = time.Minute
	// maxHello is how much of its answer is read, in bytes.
	maxHello = 4 << 10
	// protocol is the number of the language that replicas speak with each other.
	protocol = 1
)

var (
	errGone = errors.New("the replica is not among the live ones any more")
	// ErrStranger means that somebody at a replica's URL does not belong to the cluster, or
	// says that we do not.
	ErrStranger = errors.New("the replicas do not recognise each other")
)

// peer is another replica.
type peer struct {
	store.Replica
	proof string
	since time.Time
	// gone ends when it is not among the live ones any more.
	gone context.Context
	end  context.CancelCauseFunc
	// proven reports whether it has shown that it belongs to the cluster.
	proven atomic.Bool
}

func newPeer(r store.Replica, proof string) *peer {
	p := &peer{Replica: r, proof: proof, since: time.Now()}
	p.gone, p.end = context.WithCancelCause(context.Background())
	return p
}

// dialError is the error of a connection that could not be made: nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// newTransport makes a transport to other replicas: HTTP/1.1, no proxies, no redirects, no
// compression. How long they may take is the caller's business.
func newTransport(config *tls.Config) *http.Transport {
	dialer := &net.Dialer{Timeout: dialWait, KeepAlive: 5 * time.Second}
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, &dialError{err}
			}
			return conn, nil
		},
		TLSHandshakeTimeout:    dialWait,
		ExpectContinueTimeout:  bodyWait,
		MaxIdleConns:           4096,
		MaxIdleConnsPerHost:    1024,
		IdleConnTimeout:        30 * time.Second, // shorter than the listener's
		DisableCompression:     true,
		MaxResponseHeaderBytes: 1 << 20,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	if config != nil {
		t.TLSClientConfig = config.Clone()
	}
	return t
}

// helloAnswer is what a replica says of itself.
type helloAnswer struct {
	Replica  string `json:"replica"`
	Protocol int    `json:"protocol"`
	Proof    string `json:"proof,omitempty"`
}

// prove has a replica show that it belongs to the cluster, once.
func (n *Node) prove(ctx context.Context, p *peer) error {
	if p.proven.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, helloWait)
	defer cancel()
	nonce, err := newNonce()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Advertise+pathHello, nil)
	if err != nil {
		return fmt.Errorf("%w: the URL of %s is none", ErrStranger, p.Process)
	}
	req.Header.Set(headerProof, p.proof)
	req.Header.Set(headerNonce, nonce)
	resp, err := n.client.RoundTrip(req)
	if err != nil {
		return helloError(err)
	}
	defer resp.Body.Close() //nolint:errcheck // nothing was written
	var said helloAnswer
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxHello))
	switch {
	case err != nil:
		return &dialError{err}
	case resp.StatusCode == http.StatusForbidden && resp.Header.Get(headerResult) == resultRefused:
		return fmt.Errorf("%w: it has another cluster.secret", ErrStranger)
	case resp.StatusCode == http.StatusServiceUnavailable:
		return &dialError{errors.New("it is busy")}
	case resp.StatusCode != http.StatusOK || json.Unmarshal(raw, &said) != nil || said.Replica == "":
		return fmt.Errorf("%w: something that is no replica answers there", ErrStranger)
	case !sameProof(said.Proof, n.proofs.answer(p.Advertise, nonce)):
		return fmt.Errorf("%w: what answers there does not know the cluster.secret", ErrStranger)
	case said.Protocol != protocol:
		return fmt.Errorf("%w: it speaks version %d of the replicas' protocol, and this one %d", ErrStranger, said.Protocol, protocol)
	case said.Replica != p.Name:
		return &dialError{errGone} // another process has its address now
	}
	p.proven.Store(true)
	return nil
}

// helloError tells a replica that cannot be reached from one that speaks another language.
func helloError(err error) error {
	cert, plain := (*tls.CertificateVerificationError)(nil), tls.RecordHeaderError{}
	authority, host := x509.UnknownAuthorityError{}, x509.HostnameError{}
	var alert tls.AlertError
	switch {
	case errors.As(err, &cert), errors.As(err, &authority), errors.As(err, &host):
		return fmt.Errorf("%w: its certificate is not good for its URL and cluster.tls.ca_file: %w", ErrStranger, err)
	case errors.As(err, &alert):
		return fmt.Errorf("%w: it refuses our certificate: %w", ErrStranger, err)
	case errors.As(err, &plain):
		return fmt.Errorf("%w: it does not speak TLS", ErrStranger)
	}
	return &dialError{err}
}

var (
	errNoRow  = errors.New("this process is not among the replicas")
	errNotOwn = fmt.Errorf("%w: another process answers at the cluster.advertise of this one", ErrStranger)
)

// Join finds this process among the replicas, and asks the others whether they belong to one
// cluster with it, and itself whether its URL leads to it. The listener is served meanwhile. The
// error says which do not belong to it, and why. Those that do not answer are returned: they may
// have died.
func (n *Node) Join(ctx context.Context) (silent []string, err error) {
	live, err := n.o.Directory.Replicas(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the list of replicas: %w", err)
	}
	for _, r := range live {
		if r.Self {
			n.self.Store(&r.Name)
		}
	}
	if n.name() == "" {
		return nil, errNoRow
	}
	failed := make([]error, len(live))
	var asking sync.WaitGroup
	for i, r := range live {
		p := n.peer(r)
		if p == nil {
			p = newPeer(r, n.proofs.toCall(r.Advertise))
		}
		asking.Go(func() { failed[i] = n.prove(ctx, p) })
	}
	asking.Wait()
	for i, r := range live {
		switch {
		case r.Self && errors.Is(failed[i], errGone):
			err = errors.Join(err, errNotOwn)
		case errors.Is(failed[i], ErrStranger):
			err = errors.Join(err, fmt.Errorf("the replica on %s at %s: %w", r.Process, r.Advertise, failed[i]))
		case failed[i] != nil:
			silent = append(silent, r.Process+" at "+r.Advertise)
		}
	}
	return silent, err
}
