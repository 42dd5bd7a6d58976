package sdnotify_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"e2ee-proxy/internal/sdnotify"
)

// manager is the service manager's end.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

func listen(t *testing.T, name string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &manager{t, conn}
}

// heard returns the next message.
func (m *manager) heard() string {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	text := make([]byte, 1024)
	n, err := m.conn.Read(text)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text[:n])
}

// The messages are those of sd_notify(3), over a socket in the file system or an abstract one.
func TestMessages(t *testing.T) {
	t.Parallel()
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@e2ee-proxy-test-" + strconv.Itoa(os.Getpid())} {
		m := listen(t, name)
		n := sdnotify.FromEnviron([]string{"HOME=/", "NOTIFY_SOCKET=" + name})
		for _, c := range []struct {
			say  func() error
			want string
		}{
			{func() error { return n.Ready("serving") }, "^READY=1\nSTATUS=serving$"},
			{func() error { return n.Status("waiting") }, "^STATUS=waiting$"},
			{n.Reloading, "^RELOADING=1\nMONOTONIC_USEC=[0-9]+$"},
			{n.Stopping, "^STOPPING=1$"},
		} {
			if err := c.say(); err != nil {
				t.Error(err)
			}
			if got := m.heard(); !regexp.MustCompile(c.want).MatchString(got) {
				t.Errorf("heard %q, want %s", got, c.want)
			}
		}
		n.Alive(t.Context(), func(err error) { t.Error(err) }) // nobody wants to hear it
	}
}

// The manager hears that the process is alive twice in the time that it gives.
func TestAlive(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "notify")
	m := listen(t, name)
	n := sdnotify.FromEnviron([]string{"NOTIFY_SOCKET=" + name, "WATCHDOG_USEC=20000", "WATCHDOG_PID=" + strconv.Itoa(os.Getpid())})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.Alive(ctx, func(err error) { t.Error(err) })
	}()
	for range 3 {
		if got := m.heard(); got != "WATCHDOG=1" {
			t.Errorf("heard %q", got)
		}
	}
	// A manager that is gone for a moment does not end it.
	stop()
	<-ended
	if err := m.conn.Close(); err != nil {
		t.Fatal(err)
	}
	failing, end := context.WithCancel(context.Background())
	failures := 0
	n.Alive(failing, func(error) {
		if failures++; failures == 2 {
			end()
		}
	})
	if failures != 2 {
		t.Errorf("it failed %d times", failures)
	}
}

// Where nobody asks nothing is said, and where nobody listens there is an error.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	for _, environ := range [][]string{nil, {"NOTIFY_SOCKET="}, {"NOTIFY_SOCKET=vsock:2:1"}, {"WATCHDOG_USEC=1"}} {
		n := sdnotify.FromEnviron(environ)
		if err := n.Ready("x"); err != nil {
			t.Errorf("%q: %v", environ, err)
		}
		n.Alive(t.Context(), func(err error) { t.Errorf("%q: %v", environ, err) })
	}
	gone := "NOTIFY_SOCKET=" + filepath.Join(t.TempDir(), "gone")
	if err := sdnotify.FromEnviron([]string{gone}).Ready("x"); err == nil {
		t.Error("no error where nobody listens")
	}
	// Another process is asked for its life.
	sdnotify.FromEnviron([]string{gone, "WATCHDOG_USEC=1", "WATCHDOG_PID=1"}).Alive(t.Context(), func(err error) { t.Errorf("for another process: %v", err) })
}
