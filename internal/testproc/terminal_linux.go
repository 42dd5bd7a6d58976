package testproc

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openTerminal opens a new terminal: the end of who sits at it, and that of a program.
func openTerminal() (keys, screen *os.File, err error) {
	keys, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	var number int
	err = control(keys, func(fd int) (err error) {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		if err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
			return err
		}
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	if err == nil {
		screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		keys.Close()
		return nil, nil, err
	}
	return keys, screen, nil
}

// atTerminal makes the program's standard input its terminal.
func atTerminal() *syscall.SysProcAttr {
	attr := dieWithParent()
	attr.Setsid, attr.Setctty, attr.Ctty = true, true, 0
	return attr
}

// showsKeys reports whether the terminal shows what is typed.
func showsKeys(keys *os.File) (shows bool, err error) {
	err = control(keys, func(fd int) error {
		state, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			shows = state.Lflag&unix.ECHO != 0
		}
		return err
	})
	return shows, err
}

// control runs something on a file's descriptor, which [os.File.Fd] would make blocking.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}
