//go:build !unix

package testpg

import "syscall"

// ordinaryUser runs PostgreSQL as the current user.
func ordinaryUser(string) (*syscall.SysProcAttr, error) { return &syscall.SysProcAttr{}, nil }
