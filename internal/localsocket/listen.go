//go:build unix

package localsocket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// Listen makes a socket. What is left of a process that has ended is replaced.
func Listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := checkFolder(dir); err != nil {
		return nil, err
	}
	if err := checkFree(path); err != nil {
		return nil, err
	}
	// A socket is made with the rights that the umask leaves, so that it is made where nobody
	// else can reach it.
	closed, err := os.MkdirTemp(dir, ".s")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the socket: %w", err)
	}
	defer os.Remove(closed) //nolint:errcheck // it is empty, or names what could not be made
	made := filepath.Join(closed, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the socket: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	place, err := put(made, path)
	if err != nil {
		return nil, errors.Join(err, ln.Close(), os.Remove(made))
	}
	return &listener{UnixListener: ln, path: path, made: place}, nil
}

// put gives a socket its rights and its name, and returns what it is.
func put(made, path string) (fs.FileInfo, error) {
	if err := os.Chmod(made, 0o600); err != nil {
		return nil, fmt.Errorf("keep others from the socket: %w", err)
	}
	if err := os.Rename(made, path); err != nil {
		return nil, fmt.Errorf("name the socket: %w", err)
	}
	place, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("look at the socket: %w", err)
	}
	return place, nil
}

// checkFolder refuses a folder in which others could put something in the socket's place.
func checkFolder(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at the socket's folder: %w", err)
	}
	if !isMine(info) && !isOf(info, 0) {
		return fmt.Errorf("the folder %s belongs to somebody else", dir)
	}
	if info.Mode()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("others may write to the folder %s", dir)
	}
	return nil
}

// checkFree refuses a path at which there is something that must stay.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at the socket's place: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is something else than a socket")
	case !isMine(info):
		return errors.New("the socket that is there belongs to somebody else")
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		return errors.Join(errors.New("another process answers there"), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("find out whether another process answers there: %w", err)
	}
	return nil
}

func isMine(info fs.FileInfo) bool { return isOf(info, os.Geteuid()) }

func isOf(info fs.FileInfo, user int) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(stat.Uid) == int64(user)
}

// listener accepts the connections of those who may.
type listener struct {
	*net.UnixListener
	path string
	made fs.FileInfo // what is at path
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err //nolint:wrapcheck // net/http looks at it
		}
		if user, err := peer(conn); err == nil && mayUse(user) {
			return conn, nil
		}
		_ = conn.Close() // it was not read
	}
}

// Close implements net.Listener. The socket's name goes, unless it is another's by now.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if now, lerr := os.Lstat(l.path); lerr == nil && os.SameFile(now, l.made) {
		if rerr := os.Remove(l.path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("remove the socket: %w", rerr))
		}
	}
	return err
}

// mayUse reports whether a user may use the socket.
func mayUse(user int) bool { return user == os.Geteuid() || user == 0 }
