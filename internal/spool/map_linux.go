package spool

import (
	"fmt"
	"os"
	"syscall"
)

// dontDump is MADV_DONTDUMP: what is there is in no core file, whoever writes one.
const dontDump = 16

// mapMemory returns so much memory of the system's, which is zero, and takes room only where
// something was written.
func mapMemory(size int64) ([]byte, error) {
	m, err := syscall.Mmap(-1, 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	_ = syscall.Madvise(m, dontDump) // a kernel without it has no core files of this process either
	return m, nil
}

// unmap gives back what was mapped. Nobody may use it any more.
func unmap(m []byte) { _ = syscall.Munmap(m) } // it fails for nothing that mapMemory returned

// mapFile returns the first bytes of a file, which has as many, as memory.
func mapFile(f *os.File, size int64) ([]byte, error) {
	m, err := syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map file: %w", err)
	}
	return m, nil
}

// forgetPages has what was mapped by mapFile mapped anew, in large parts, when it is used next. Where the
// system has written a file to the disk it catches the next write to each page by itself otherwise, which
// takes several times as long.
func forgetPages(m []byte) { _ = syscall.Madvise(m, syscall.MADV_DONTNEED) } // otherwise it is slower
