//go:build unix

package localsocket

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e2ee-proxy/internal/testproc"
)

// shortDir is a folder whose path leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir := testproc.FastDir(t)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// echo sends back what arrives on a listener until it is closed.
func echo(t *testing.T, ln net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
}

func says(path string) (string, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "here"); err != nil {
		return "", err
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return "", err
	}
	all, err := io.ReadAll(conn)
	return string(all), err
}

// The owner is answered; nobody else has rights on the socket; nothing is left beside it, and
// it is gone when the process ends. What a killed process left is replaced.
func TestListen(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	path := filepath.Join(dir, "control.sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	_ = left.Close()
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ln)
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("it is %v, error %v", info.Mode(), err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("the folder has %v, error %v", all, err)
	}
	if got, err := says(path); got != "here" || err != nil {
		t.Errorf("the owner gets %q, error %v", got, err)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 0 {
		t.Errorf("it leaves %v, error %v", all, err)
	}
}

// Nothing that is in use or somebody's data is replaced, and no socket is made where somebody
// else could put another in its place.
func TestListenRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(t *testing.T, dir, path string)
		want    string
	}{
		"another process": {func(t *testing.T, _, path string) {
			ln, err := Listen(path)
			if err != nil {
				t.Fatal(err)
			}
			echo(t, ln)
		}, "another process answers there"},
		"a file": {func(t *testing.T, _, path string) {
			if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "something else than a socket"},
		"a link": {func(t *testing.T, _, path string) {
			if err := os.Symlink("/dev/null", path); err != nil {
				t.Fatal(err)
			}
		}, "something else than a socket"},
		"a folder that others write to": {func(t *testing.T, dir, _ string) {
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}, "others may write to the folder"},
		"no folder": {func(t *testing.T, dir, _ string) {
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
		}, "no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(shortDir(t), "d")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "control.sock")
			test.prepare(t, dir, path)
			before, _ := os.Lstat(path)
			ln, err := Listen(path)
			if err == nil {
				_ = ln.Close()
				t.Fatal("it was made")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if after, _ := os.Lstat(path); before != nil && !os.SameFile(before, after) {
				t.Error("what was there is gone")
			}
		})
	}
}
