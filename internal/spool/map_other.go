//go:build !linux

package spool

import (
	"errors"
	"os"
)

// mapMemory returns no memory: everything goes to the disk.
func mapMemory(int64) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmap([]byte) {}

func mapFile(*os.File, int64) ([]byte, error) { return nil, errors.ErrUnsupported }

func forgetPages([]byte) {}
