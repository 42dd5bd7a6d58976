package spool

import (
	"fmt"
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
