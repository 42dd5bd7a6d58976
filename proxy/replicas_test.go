package proxy

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/cluster"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// ledger is what the database says: who lives, and who has which account.
type ledger struct {
	mu     sync.Mutex
	live   map[string]store.Replica
	owners map[id.UserID]string
	asked  int
}

func newLedger() *ledger {
	return &ledger{live: make(map[string]store.Replica), owners: make(map[id.UserID]string)}
}

func (l *ledger) give(user id.UserID, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.owners[user] = to
}

// die says that a replica lives no longer.
func (l *ledger) die(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.live, name)
}

// view is the ledger as one replica's engine sees it.
type view struct {
	*ledger
	name string
	// leaving reports whether it takes no account any more.
	leaving bool
	inUse   int
}

func (v *view) Own(_ context.Context, user id.UserID) (done func(), err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked++
	owner := v.owners[user]
	if _, lives := v.live[owner]; !lives {
		owner = ""
	}
	switch {
	case owner != "" && owner != v.name:
		return nil, &store.ElsewhereError{Replica: v.live[owner]}
	case v.leaving:
		return nil, &store.ElsewhereError{}
	}
	v.owners[user] = v.name
	v.inUse++
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.inUse--
	}, nil
}

func (v *view) Owner(_ context.Context, user id.UserID) (store.Owner, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r, lives := v.live[v.owners[user]]; lives && r.Name != v.name {
		return store.Owner{State: store.OwnerElsewhere, Replica: r}, nil
	}
	return store.Owner{State: store.OwnerNobody}, nil
}

func (v *view) Replicas(context.Context) (out []store.Replica, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range v.live {
		r.Self = r.Name == v.name
		out = append(out, r)
	}
	return out, nil
}

// used returns how many requests use accounts.
func (v *view) used() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.inUse
}

// replica is a proxy that is part of a cluster.
type replica struct {
	*rig
	name string
	view *view
	node *cluster.Node
	kill func() // ends its listener for others, with everything under way
}

// newReplica starts a replica before a homeserver.
func newReplica(t testing.TB, l *ledger, hs *homeserver, name string, change func(*Options)) *replica {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{name: name, view: &view{ledger: l, name: name}}
	self := store.Replica{Name: name, Process: "process " + name, Advertise: "http://" + ln.Addr().String()}
	l.mu.Lock()
	l.live[name] = self
	l.mu.Unlock()
	r.node, err = cluster.New(cluster.Options{
		Advertise: self.Advertise, Secret: secret.NewString("a secret of the cluster of thirty-two"),
		Accounts: r.view, Directory: r.view, Devices: noDevices{}, UnknownToken: func(context.Context, interceptors.Identity, bool) error { return nil },
		Look: 5 * time.Millisecond, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	base, err := url.Parse(hs.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.rig = newRig(t, func(o *Options) {
		o.Homeserver, o.Owners = base, r.node
		if change != nil {
			change(o)
		}
	})
	r.hs = hs
	ctx, stop := context.WithCancel(context.Background())
	peers := r.node.Server(r.proxy, time.Second)
	server := &http.Server{Handler: peers}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(ln) })
	if _, err := r.node.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	peers.Open()
	running.Go(func() { _ = r.node.Run(ctx) })
	r.kill = func() { _ = server.Close() }
	t.Cleanup(func() {
		stop()
		r.kill()
		running.Wait()
	})
	return r
}

// pair returns two replicas; alice's account is b's.
func pair(t testing.TB, change func(*Options)) (a, b *replica) {
	t.Helper()
	l, hs := newLedger(), newHomeserver(t)
	a, b = newReplica(t, l, hs, "a", change), newReplica(t, l, hs, "b", change)
	l.give("@alice:hs", "b")
	return a, b
}
