package cluster_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strings"
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
}

func newLedger() *ledger {
	return &ledger{live: make(map[string]store.Replica), owners: make(map[id.UserID]string)}
}

func (l *ledger) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// view is the ledger as one replica sees it.
type view struct {
	*ledger
	name string
	// ending reports whether it takes no account any more.
	ending bool
}

func (v *view) Own(_ context.Context, user id.UserID) (done func(), err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	owner := v.owners[user]
	r, lives := v.live[owner]
	switch {
	case v.ending:
		return nil, &store.ElsewhereError{}
	case lives && owner != v.name:
		return nil, &store.ElsewhereError{Replica: r}
	}
	v.owners[user] = v.name
	return func() {}, nil
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

// recorder is an engine that writes down what it is told, and answers requests.
type recorder struct {
	interceptors.Devices
	mu    sync.Mutex
	calls []string
	fail  error
	got   []http.Header
	// frozen, if there is one, is told of a request that is handed on, which then waits for thaw.
	frozen chan struct{}
	thaw   chan struct{}
}

func (r *recorder) note(what string, who interceptors.Identity, more ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	parts := append([]string{what, string(who.UserID), string(who.DeviceID), who.Token.Reveal()}, more...)
	r.calls = append(r.calls, strings.Join(parts, " "))
	return r.fail
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string{}, r.calls...)
}

func (r *recorder) LoggedIn(_ context.Context, who interceptors.Identity, password secret.Bytes) error {
	return r.note("LoggedIn", who, string(password.Reveal()))
}

func (r *recorder) Refreshed(_ context.Context, who interceptors.Identity) error {
	return r.note("Refreshed", who)
}

func (r *recorder) Forget(_ context.Context, user id.UserID, gone ...id.DeviceID) error {
	return r.note("Forget", interceptors.Identity{UserID: user}, names(gone)...)
}

func (r *recorder) ForgetAll(_ context.Context, user id.UserID, keep ...id.DeviceID) error {
	return r.note("ForgetAll", interceptors.Identity{UserID: user}, names(keep)...)
}

func (r *recorder) ForgetAccount(_ context.Context, user id.UserID) error {
	return r.note("ForgetAccount", interceptors.Identity{UserID: user})
}

func (r *recorder) unknownToken(_ context.Context, who interceptors.Identity, soft bool) error {
	if soft {
		return r.note("UnknownToken", who, "soft")
	}
	return r.note("UnknownToken", who)
}

func (r *recorder) ServeForwarded(w http.ResponseWriter, req *http.Request, f cluster.Forwarded, from string) {
	r.mu.Lock()
	r.got = append(r.got, req.Header.Clone())
	r.mu.Unlock()
	if r.frozen != nil {
		r.frozen <- struct{}{}
		<-r.thaw
	}
	cluster.Answered(w)
	_, _ = w.Write([]byte(req.Method + " " + req.RequestURI + " " + req.Host + " " + req.RemoteAddr + " " + f.RequestID + " " + from))
}

func (r *recorder) Dropped(kind, name string) {
	_ = r.note("Dropped", interceptors.Identity{UserID: id.UserID(kind), DeviceID: id.DeviceID(name)})
}

func names(devices []id.DeviceID) (out []string) {
	for _, d := range devices {
		out = append(out, string(d))
	}
	return out
}

// replica is a process of a cluster.
type replica struct {
	*cluster.Node
	*recorder
	name string
	view *view
	row  store.Replica
	log  *lockedBuffer
	stop func()
}

// lockedBuffer collects log lines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const goodSecret = "the secret that all replicas know and nobody else"

// start starts a replica that is listed in the ledger. The error is that of joining.
func start(t testing.TB, l *ledger, name string, change func(*cluster.Options)) (*replica, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{name: name, view: &view{ledger: l, name: name}, recorder: &recorder{}, log: &lockedBuffer{}}
	o := cluster.Options{
		Advertise: "http://" + ln.Addr().String(), Secret: secret.NewString(goodSecret), Accounts: r.view, Directory: r.view,
		Devices: r.recorder, UnknownToken: r.recorder.unknownToken, Look: 5 * time.Millisecond, Log: zerolog.New(r.log),
	}
	if change != nil {
		change(&o)
	}
	r.row = store.Replica{Name: name, Process: "process " + name, Advertise: o.Advertise}
	l.set(func() { l.live[name] = r.row })
	if r.Node, err = cluster.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	server := r.Server(r.recorder, time.Second)
	running.Go(func() {
		if err := server.Serve(ctx, ln); err != nil {
			t.Error(err)
		}
	})
	_, joined := r.Join(t.Context())
	server.Open()
	running.Go(func() { _ = r.Run(ctx) })
	r.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(r.stop)
	return r, joined
}

func mustStart(t testing.TB, l *ledger, name string, change func(*cluster.Options)) *replica {
	t.Helper()
	r, err := start(t, l, name, change)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// send sends a request of alice's to another replica.
func (r *replica) send(ctx context.Context, to store.Replica) (*http.Response, error) {
	req := (&http.Request{Method: http.MethodGet, Header: http.Header{"Authorization": {"Bearer alice"}}}).WithContext(ctx)
	return r.Send(req, to, cluster.Forwarded{RequestID: "q-1", Target: "/_matrix/client/v3/sync?since=s", Host: "matrix.example.org", Client: "10.1.2.3:4"})
}
