//go:build !linux

package spool

import "errors"

// mapMemory returns no memory: everything goes to the disk.
func mapMemory(int64) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmap([]byte) {}
