package localsocket

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// nobody is a user who owns nothing.
const nobody = 65534

// Attack: another user of the machine got at the socket although its rights forbid that, such
// as through a folder that was mounted elsewhere, and asks for somebody's recovery key. The
// kernel says who is at the other end, and the connection is closed unread.
func TestOthersAreNotAnswered(t *testing.T) {
	t.Parallel()
	for user, want := range map[int]bool{os.Geteuid(): true, 0: true, os.Geteuid() + 1: false, nobody: false, -1: false} {
		if mayUse(user) != want {
			t.Errorf("user %d may: %v", user, !want)
		}
	}
	if os.Geteuid() != 0 {
		return // only the administrator can be somebody else
	}
	path := filepath.Join(shortDir(t), "control.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, ln)
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) { // of this test only
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm() == 0o700 {
			if err := os.Chmod(dir, 0o711); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() { // its thread ends with it, and with the thread its being somebody else
		runtime.LockOSThread()
		if _, _, failed := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); failed != 0 {
			said <- failed.Error()
			return
		}
		got, err := says(path)
		if err == nil {
			err = os.ErrClosed
		}
		said <- got + "|" + err.Error()
	}()
	if got := <-said; got[0] != '|' {
		t.Errorf("somebody else got %q", got)
	} else {
		t.Log(got)
	}
	if got, err := says(path); got != "here" || err != nil {
		t.Errorf("afterwards the owner gets %q, error %v", got, err)
	}
}
