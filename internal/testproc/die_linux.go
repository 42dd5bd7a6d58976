package testproc

import "syscall"

// dieWithParent lets the kernel end the child when the thread that started it ends;
// [Start] keeps that thread for as long as the child lives.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
