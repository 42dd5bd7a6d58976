package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The commands that scripts have beside those of testscript.

// patience is how long a script waits for an event that must come.
const patience = 30 * time.Second

// exits CODE COMMAND [ARG…] runs a command and checks its exit code, which "! exec"
// cannot. Standard output and error are there for the commands stdout and stderr.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		got = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// ports NAME… sets variables to loopback addresses that nobody listens on.
func ports(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv(name, ln.Addr().String())
		ts.Check(ln.Close())
	}
}

// fake is a homeserver that knows nobody. Its list of public rooms takes until the
// script says "release".
type fake struct {
	released chan struct{}
	release  func()
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/_matrix/client/versions":
		_, _ = io.WriteString(w, `{"versions":["v1.19"]}`)
	case "/_matrix/client/v3/publicRooms":
		select {
		case <-f.released:
			_, _ = io.WriteString(w, `{"chunk":[]}`)
		case <-r.Context().Done():
		}
	default:
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"errcode":"M_UNKNOWN_TOKEN","error":"unknown"}`)
	}
}

type fakeKey struct{}

// homeserver starts a fake homeserver and sets HOMESERVER to its URL.
func homeserver(ts *testscript.TestScript, _ bool, _ []string) {
	f := &fake{released: make(chan struct{})}
	f.release = sync.OnceFunc(func() { close(f.released) })
	server := httptest.NewServer(f)
	ts.Defer(func() { f.release(); server.Close() })
	ts.Setenv("HOMESERVER", server.URL)
	if slot, ok := ts.Value(fakeKey{}).(*fake); ok {
		*slot = *f
	}
}

// release lets the fake homeserver answer what it held back.
func release(ts *testscript.TestScript, _ bool, _ []string) {
	if f, ok := ts.Value(fakeKey{}).(*fake); ok {
		f.release()
	}
}

// fetch returns the status and the body of a resource.
func fetch(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, body), err
}

// get URL PATTERN waits until the status and the body of a resource match.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: get URL PATTERN")
	}
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	last := ""
	for ctx.Err() == nil {
		got, err := fetch(ctx, args[0])
		if err == nil && pattern.MatchString(got) {
			return
		}
		last = fmt.Sprintf("%q, error %v", got, err)
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	ts.Fatalf("%s gave %s, want %s", args[0], last, args[1])
}

type running struct {
	mu     sync.Mutex
	answer chan string
}

type runningKey struct{}

// begin URL asks for a resource in the background; end PATTERN checks the answer.
func begin(ts *testscript.TestScript, _ bool, args []string) {
	r, ok := ts.Value(runningKey{}).(*running)
	if !ok || len(args) != 1 {
		ts.Fatalf("usage: begin URL")
	}
	answer := make(chan string, 1)
	r.mu.Lock()
	r.answer = answer
	r.mu.Unlock()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		got, err := fetch(ctx, args[0])
		if err != nil {
			got += " error " + err.Error()
		}
		answer <- got
	}()
}

func end(ts *testscript.TestScript, _ bool, args []string) {
	r, ok := ts.Value(runningKey{}).(*running)
	if !ok || len(args) != 1 {
		ts.Fatalf("usage: end PATTERN")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := <-r.answer; !regexp.MustCompile(args[0]).MatchString(got) {
		ts.Fatalf("the answer is %q, want %s", got, args[0])
	}
}

// setup gives every script a homeserver and a request of its own.
func setup(e *testscript.Env) error {
	e.Values[fakeKey{}] = &fake{}
	e.Values[runningKey{}] = &running{}
	e.Values[pageKey{}] = &page{}
	repository, err := filepath.Abs("../..")
	e.Setenv("REPOSITORY", repository)
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY"} {
		if value := os.Getenv(name); value != "" {
			e.Setenv(name, value)
		}
	}
	e.Setenv("REAL_HOME", os.Getenv("HOME")) // where the go tool keeps its caches
	return err
}
