package tesths

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"e2ee-proxy/internal/testproc"
)

// Shared are homeservers that all tests of one test binary use. Each is started when
// it is first asked for. Use it from TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }
type Shared struct {
	mu       sync.Mutex
	life     *binaryLife
	dendrite sharedServer
	synapse  sharedServer
}

// sharedServer has its own lock, so that nobody waits for a server of the other kind.
type sharedServer struct {
	mu     sync.Mutex
	server *Homeserver
}

// Run runs the tests, then ends the servers, and returns the exit code.
func (s *Shared) Run(m *testing.M) int {
	dir, err := os.MkdirTemp(testproc.FastTemp(), "e2ee-proxy-shared-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "shared homeservers:", err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	s.life = &binaryLife{ctx: ctx, dir: dir}
	s.mu.Unlock()

	code := m.Run()
	s.life.end(code != 0)
	cancel()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "shared homeservers:", err)
	}
	return code
}

// Dendrite returns the shared Dendrite.
func (s *Shared) Dendrite(t testproc.TB) *Homeserver {
	t.Helper()
	return s.get(t, &s.dendrite, Dendrite)
}

// Synapse returns the shared Synapse.
func (s *Shared) Synapse(t testproc.TB) *Homeserver {
	t.Helper()
	return s.get(t, &s.synapse, Synapse)
}

func (s *Shared) get(t testproc.TB, one *sharedServer, start func(testproc.TB) *Homeserver) *Homeserver {
	t.Helper()
	s.mu.Lock()
	life := s.life
	s.mu.Unlock()
	if life == nil {
		t.Fatalf("shared homeservers: TestMain does not call Run")
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.server == nil {
		one.server = start(starter{TB: t, life: life})
	}
	return one.server
}

// starter reports to the test that asks first, but lives as long as the test binary.
type starter struct {
	testproc.TB
	life *binaryLife
}

func (s starter) Context() context.Context { return s.life.ctx }
func (s starter) Cleanup(f func())         { s.life.cleanup(f) }
func (s starter) TempDir() string          { return s.life.tempDir(s.TB) }
func (s starter) Failed() bool             { return s.life.failed }

// Logf goes to standard error: the test that asked first may long have ended.
func (s starter) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// binaryLife is the life of a test binary.
type binaryLife struct {
	ctx    context.Context // not a request's: it lives as long as the struct
	dir    string
	failed bool

	mu       sync.Mutex
	cleanups []func()
}

func (l *binaryLife) cleanup(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleanups = append(l.cleanups, f)
}

func (l *binaryLife) tempDir(t testproc.TB) string {
	dir, err := os.MkdirTemp(l.dir, "hs-")
	if err != nil {
		t.Fatalf("shared homeservers: %v", err)
	}
	return dir
}

func (l *binaryLife) end(failed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = failed
	for i := len(l.cleanups) - 1; i >= 0; i-- {
		l.cleanups[i]()
	}
}
