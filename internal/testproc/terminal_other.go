//go:build !linux

package testproc

import (
	"errors"
	"os"
	"syscall"
)

var errNoTerminal = errors.New("terminals are made on Linux only")

func openTerminal() (keys, screen *os.File, err error) { return nil, nil, errNoTerminal }

func atTerminal() *syscall.SysProcAttr { return nil }

func showsKeys(*os.File) (bool, error) { return false, errNoTerminal }
