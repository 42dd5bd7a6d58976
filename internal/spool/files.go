package spool

import (
	"sync"
	"time"

	"e2ee-proxy/internal/budget"
)

const (
	// leastReused and mostReused are the sizes of files that are used again, in bytes: what is
	// smaller is made as quickly, and what is larger is too much room for a body to come.
	leastReused, mostReused = 8 << 20, 128 << 20
	// maxUnused is how many files wait for a body, and unusedFor how long.
	maxUnused = 2
	unusedFor = time.Minute
)

// nobody is in whose name files are on the disk that wait for a body.
const nobody = ""

// Files has the files of bodies that are gone for those that come: the system has given out
// their room already, which takes as long as writing them. They have no name, and nothing but
// ciphertext; no spool reads what it has not written itself. Its methods may be called
// concurrently.
type Files struct {
	disk   *budget.Budget
	mu     sync.Mutex
	unused []*unused // the oldest one first
}

// unused is a file that waits for a body.
type unused struct {
	file *backing
	size int64
	end  *time.Timer
}

// NewFiles returns files on a disk with a budget; nil is no limit.
func NewFiles(disk *budget.Budget) *Files { return &Files{disk: disk} }

// get returns the largest file that is no larger than a body, and its size, which is now taken in
// the name of the owner; nil when there is none.
func (f *Files) get(owner string, body int64) (file *backing, size int64) {
	if f == nil {
		return nil, 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	best := -1
	for i, u := range f.unused {
		if u.size <= body && (best < 0 || u.size > f.unused[best].size) {
			best = i
		}
	}
	if best < 0 {
		return nil, 0
	}
	u := f.unused[best]
	if f.disk != nil && !f.disk.Pass(nobody, owner, u.size) {
		return nil, 0
	}
	u.end.Stop()
	f.unused = append(f.unused[:best], f.unused[best+1:]...)
	return u.file, u.size
}

// put takes a file over, with what is taken for it in the name of the owner, and reports whether it
// did.
func (f *Files) put(owner string, file *backing, size int64) bool {
	if f == nil || size < leastReused || size > mostReused {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.unused) == maxUnused || f.disk != nil && !f.disk.Pass(owner, nobody, size) {
		return false
	}
	u := &unused{file: file, size: size}
	u.end = time.AfterFunc(unusedFor, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i, of := range f.unused {
			if of == u {
				f.drop(i)
				return
			}
		}
	})
	f.unused = append(f.unused, u)
	return true
}

// Drop removes a file that waits, and reports whether there was one.
func (f *Files) Drop() bool {
	if f == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.unused) == 0 {
		return false
	}
	f.drop(0)
	return true
}

// drop removes a file; f.mu is held.
func (f *Files) drop(i int) {
	u := f.unused[i]
	u.end.Stop()
	f.unused = append(f.unused[:i], f.unused[i+1:]...)
	_ = u.file.Close() // it has no name: it is gone in any case
	if f.disk != nil {
		f.disk.Release(nobody, u.size)
	}
}
