package testredis

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"e2ee-proxy/internal/testproc"
)

const startWait = 30 * time.Second

// Server is a Redis server.
type Server struct {
	t      testproc.TB
	binary string
	dir    string
	port   int
	tls    bool
	args   []string
	proc   *testproc.Process
}

// Start starts a server with arguments besides the usual ones, such as "--requirepass".
func Start(t testproc.TB, args ...string) *Server {
	t.Helper()
	s := newServer(t, args...)
	s.launch()
	s.await()
	return s
}

// StartTLS starts a server that speaks TLS only, and wants a certificate of the same authority from
// clients. The certificate's file has the authority's too.
func StartTLS(t testproc.TB, cert, key string) *Server {
	t.Helper()
	s := newServer(t, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
	s.tls = true
	s.launch()
	s.await()
	return s
}

// newServer prepares a server on a port that nobody uses.
func newServer(t testproc.TB, args ...string) *Server {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		testproc.Missing(t, "redis-server", err)
	}
	ports, err := testproc.FreePorts(1)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return &Server{t: t, binary: binary, dir: testproc.FastDir(t), port: ports[0], args: args}
}

func (s *Server) launch() {
	s.t.Helper()
	port := []string{"--port", strconv.Itoa(s.port)}
	if s.tls {
		port = []string{"--port", "0", "--tls-port", strconv.Itoa(s.port)}
	}
	args := slices.Concat(port, []string{
		"--bind", "127.0.0.1", "--dir", s.dir, "--unixsocket", s.Socket(),
		"--save", "", "--appendonly", "no", "--daemonize", "no",
	}, s.args)
	cmd := exec.CommandContext(context.WithoutCancel(s.t.Context()), s.binary, args...)
	cmd.Dir = s.dir
	var err error
	if s.proc, err = testproc.Start(s.t, "redis-server", cmd); err != nil {
		s.t.Fatalf("%v", err)
	}
}

// await waits until the server says anything, be it that it wants a password.
func (s *Server) await() {
	s.t.Helper()
	logging.Disable()
	admin := redis.NewClient(&redis.Options{Network: "unix", Addr: s.Socket(), MaxRetries: -1})
	defer func() { _ = admin.Close() }()
	err := s.proc.AwaitReady(s.t.Context(), startWait, func(ctx context.Context) error {
		err := admin.Ping(ctx).Err()
		if redis.HasErrorPrefix(err, "NOAUTH") {
			return nil
		}
		return err
	})
	if err != nil {
		s.t.Fatalf("%v", err)
	}
}

// Socket is the path of the server's Unix socket.
func (s *Server) Socket() string { return filepath.Join(s.dir, "redis.sock") }

// Addr is the server's address and port.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// URL is the server's address as a URL, without a password.
func (s *Server) URL() string { return "redis://" + s.Addr() }

// Client returns a client of the server, for looking at and changing what is in it.
func (s *Server) Client() *redis.Client {
	s.t.Helper()
	client := redis.NewClient(&redis.Options{
		Addr: s.Addr(), DisableIdentity: true, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// Kill ends the server at once.
func (s *Server) Kill() { s.proc.Kill() }

// Restart starts the server again after [Server.Kill], empty, on the same port.
func (s *Server) Restart() {
	s.t.Helper()
	s.launch()
	s.await()
}

// StartSentinel starts a master, a replica of it and a Sentinel that watches them under the name
// "main" and replaces a dead master within about a second.
func StartSentinel(t testproc.TB) (master, replica, sentinel *Server) {
	t.Helper()
	master = Start(t)
	replica = Start(t, "--replicaof", "127.0.0.1 "+strconv.Itoa(master.port), "--repl-diskless-sync-delay", "0")
	sentinel = newServer(t)
	// A Sentinel writes what it learns into its configuration.
	conf := filepath.Join(sentinel.dir, "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor main 127.0.0.1 %d 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n", master.port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), sentinel.binary, conf, "--port", strconv.Itoa(sentinel.port),
		"--bind", "127.0.0.1", "--dir", sentinel.dir, "--unixsocket", sentinel.Socket(), "--sentinel")
	cmd.Dir = sentinel.dir
	var err error
	if sentinel.proc, err = testproc.Start(t, "redis-sentinel", cmd); err != nil {
		t.Fatalf("%v", err)
	}
	sentinel.await()
	admin := sentinel.Client()
	if err := testproc.Await(t.Context(), func(ctx context.Context) error {
		known, err := admin.Do(ctx, "SENTINEL", "REPLICAS", "main").Slice()
		if err == nil && len(known) == 0 {
			err = fmt.Errorf("the Sentinel knows no replica yet")
		}
		return err
	}); err != nil {
		t.Fatalf("%v", err)
	}
	return master, replica, sentinel
}

// StartCluster starts a Redis Cluster of as many masters.
func StartCluster(t testproc.TB, n int) []*Server {
	t.Helper()
	nodes := make([]*Server, n)
	for i := range nodes {
		ports, err := testproc.FreePorts(1)
		if err != nil {
			t.Fatalf("%v", err)
		}
		nodes[i] = Start(t, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(ports[0]), "--cluster-node-timeout", "2000")
	}
	const slots = 16384
	for i, node := range nodes {
		admin, ctx := node.Client(), t.Context()
		if err := admin.ClusterAddSlotsRange(ctx, i*slots/n, (i+1)*slots/n-1).Err(); err != nil {
			t.Fatalf("give slots: %v", err)
		}
		for _, other := range nodes[:i] {
			bus := other.args[3]
			if err := admin.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", other.port, bus).Err(); err != nil {
				t.Fatalf("meet: %v", err)
			}
		}
	}
	for _, node := range nodes {
		admin := node.Client()
		if err := testproc.Await(t.Context(), func(ctx context.Context) error {
			info, err := admin.ClusterInfo(ctx).Result()
			if err == nil && (!strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", n))) {
				err = fmt.Errorf("the cluster is not whole yet")
			}
			return err
		}); err != nil {
			t.Fatalf("%v", err)
		}
	}
	return nodes
}
