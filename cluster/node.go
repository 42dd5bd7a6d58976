package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// Accounts is what the engine knows of whose an account is.
type Accounts interface {
	// Own makes an account this process's own, if nobody has it, and keeps it until done is
	// called. It is called for each request. The error wraps [store.ErrElsewhere] if the account
	// is another replica's: a [store.ElsewhereError] that names it, unless it is to be asked for.
	Own(ctx context.Context, user id.UserID) (done func(), err error)
}

// Directory is what the database knows of it, and of who lives.
type Directory interface {
	Owner(ctx context.Context, user id.UserID) (store.Owner, error)
	Replicas(ctx context.Context) ([]store.Replica, error)
}

var _ Directory = (*store.DB)(nil)

// Options configures a Node.
type Options struct {
	// Advertise is the base URL at which the others reach this process, as the database has it.
	Advertise string
	// Secret is what all replicas know and nobody else; empty only with TLS.
	Secret secret.String
	// TLS is what the listener is protected with, and how others are called; nil for plain HTTP.
	// Both sides show a certificate.
	TLS *tls.Config

	Accounts  Accounts
	Directory Directory
	// Devices are the engine's. [Node.Devices] returns those of all replicas.
	Devices interceptors.Devices
	// UnknownToken is the engine's too, see [Node.UnknownToken].
	UnknownToken func(ctx context.Context, who interceptors.Identity, softLogout bool) error
	// Look is how often the list of replicas is read; default 1 s.
	Look time.Duration

	Log zerolog.Logger
	// Metrics are what is counted; may be nil.
	Metrics *Metrics
}

// Node is this process as a replica. Create it with [New]; [Node.Join] comes
// before everything else, and [Node.Run] runs beside it.
type Node struct {
	o      Options
	proofs prover
	client *http.Transport
	// self is this process's name among the replicas, which [Node.Join] finds out.
	self atomic.Pointer[string]
	// owners is where accounts were last. It may be wrong: who is asked says so.
	owners *lru.Cache[id.UserID, string]

	mu    sync.Mutex
	peers map[string]*peer // by name; without this process

	warned atomic.Int64 // when a caller was last said to be refused, in seconds
}

// ownersKept is how many accounts of others are remembered.
const ownersKept = 1 << 16

// New makes a Node. Its error lists everything that is missing at once.
func New(o Options) (*Node, error) {
	var errs []error
	var err error
	if o.Advertise == "" {
		errs = append(errs, errors.New("there is no URL of this replica"))
	}
	if o.Secret.IsZero() && o.TLS == nil {
		errs = append(errs, errors.New("there is neither a secret nor TLS for the cluster"))
	}
	if o.Accounts == nil || o.Directory == nil || o.Devices == nil || o.UnknownToken == nil {
		errs = append(errs, errors.New("there are no accounts or no devices"))
	}
	if o.Look <= 0 {
		o.Look = time.Second
	}
	o.Advertise = strings.TrimRight(o.Advertise, "/")
	if o.Metrics == nil {
		o.Metrics, err = NewMetrics(nil)
		errs = append(errs, err)
	}
	owners, err := lru.New[id.UserID, string](ownersKept)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("make a replica: %w", err)
	}
	n := &Node{o: o, proofs: newProver(o.Secret), client: newTransport(o.TLS), owners: owners, peers: make(map[string]*peer)}
	return n, nil
}

// Run keeps the list of replicas up to date until ctx is done.
func (n *Node) Run(ctx context.Context) error {
	tick := time.NewTicker(n.o.Look)
	defer tick.Stop()
	defer n.client.CloseIdleConnections()
	for {
		n.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look reads the list of replicas. Who is not on it any more is waited for no longer. While the
// database does not answer, nothing is known.
func (n *Node) look(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, max(n.o.Look, time.Second))
	defer cancel()
	began := time.Now()
	live, err := n.o.Directory.Replicas(asking)
	if err != nil {
		return // the database's own check says so
	}
	known := make(map[string]bool, len(live))
	for _, r := range live {
		known[r.Name] = true
		n.peer(r)
		if r.Self {
			n.o.Metrics.accounts.Set(float64(r.Accounts))
		}
	}
	n.o.Metrics.replicas.Set(float64(len(live)))
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, p := range n.peers {
		if !known[name] && p.since.Before(began) {
			p.end(errGone)
			delete(n.peers, name)
		}
	}
}

// peer returns what is known of a replica; nil for this process.
func (n *Node) peer(r store.Replica) *peer {
	if r.Self || r.Name == n.name() || r.Name == "" {
		return nil
	}
	r.Advertise = strings.TrimRight(r.Advertise, "/")
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.peers[r.Name]
	if p == nil {
		p = newPeer(r, n.proofs.toCall(r.Advertise))
		n.peers[r.Name] = p
	}
	return p
}

// name returns this process's name among the replicas; empty before it is known.
func (n *Node) name() string {
	if name := n.self.Load(); name != nil {
		return *name
	}
	return ""
}

// named returns a replica that lives.
func (n *Node) named(name string) *peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers[name]
}
