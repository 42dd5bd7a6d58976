package media

import (
	"container/list"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/internal/spool"
)

const (
	// keepFor is how long a checked file, or a thumbnail, is given out again without asking the
	// homeserver: it counts from when the homeserver gave the file to that account.
	keepFor = 5 * time.Minute
	// maxKept is how many files are kept, and maxKeptOfUser how many of one account. How many
	// bytes they may have is what the spools may take: they make room as soon as it is needed.
	maxKept, maxKeptOfUser = 256, 32
)

// keptName names what is kept: by whose it is and by everything that the file is, never by its
// URI alone, under which the homeserver could have put another file.
type keptName [sha256.Size]byte

func nameOf(owner id.UserID, f *attachment.File, variant string) keptName {
	h := sha256.New()
	for _, part := range [][]byte{f.Key.Secret[:], f.Key.Counter[:], f.Key.Hash[:], []byte(f.URL), {0}, []byte(owner), {0}, []byte(variant)} {
		h.Write(part)
	}
	return keptName(h.Sum(nil))
}

// Kept keeps files for a while after they were checked, as ciphertext and without their keys, so
// that a client that asks for part after part makes the homeserver send the file once. Its
// methods may be called concurrently.
type Kept struct {
	mu     sync.Mutex
	by     map[keptName]*kept
	oldest *list.List // of *kept
	of     map[id.UserID]int
	closed bool
}

// NewKept returns an empty memory. It must be closed.
func NewKept() *Kept {
	return &Kept{by: map[keptName]*kept{}, oldest: list.New(), of: map[id.UserID]int{}}
}

// kept is one file. Whoever got it must close it.
type kept struct {
	*spool.Spool
	in    *Kept
	name  keptName
	owner id.UserID
	at    *list.Element // nil: it is not kept any more, and goes with its last reader
	end   *time.Timer
	until time.Time // what it was made of may be shown
	users int
}

// get returns a file that is kept.
func (k *Kept) get(name keptName) (*kept, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, ok := k.by[name]
	if ok {
		f.users++
	}
	return f, ok
}

// put keeps a file from now on, and returns it.
func (k *Kept) put(name keptName, owner id.UserID, of *spool.Spool) (*kept, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := &kept{Spool: of, in: k, name: name, owner: owner, users: 1, until: time.Now().Add(keepFor)}
	if _, has := k.by[name]; has || k.closed {
		return f, nil
	}
	var err error
	for k.of[owner] >= maxKeptOfUser {
		err = errors.Join(err, k.dropFirst(func(old *kept) bool { return old.owner == owner }))
	}
	for len(k.by) >= maxKept {
		err = errors.Join(err, k.dropFirst(func(*kept) bool { return true }))
	}
	f.at = k.oldest.PushBack(f)
	k.by[name] = f
	k.of[owner]++
	f.end = time.AfterFunc(keepFor, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		_ = k.drop(f) // its file has no name: it is gone in any case
	})
	return f, err
}

// drop stops keeping a file; k.mu is held.
func (k *Kept) drop(f *kept) error {
	if f.at == nil {
		return nil
	}
	f.end.Stop()
	k.oldest.Remove(f.at)
	f.at = nil
	delete(k.by, f.name)
	if k.of[f.owner]--; k.of[f.owner] == 0 {
		delete(k.of, f.owner)
	}
	return f.finish()
}

// dropFirst drops the oldest file of some; k.mu is held.
func (k *Kept) dropFirst(of func(*kept) bool) error {
	for at := k.oldest.Front(); at != nil; at = at.Next() {
		if f, ok := at.Value.(*kept); ok && of(f) {
			return k.drop(f)
		}
	}
	return nil
}

// makeRoom drops the oldest file that nobody reads, of an owner or, if that is empty, of all. It
// reports whether there was one.
func (k *Kept) makeRoom(owner string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := len(k.by)
	err := k.dropFirst(func(f *kept) bool { return f.users == 0 && (owner == "" || string(f.owner) == owner) })
	return err == nil && len(k.by) < before
}

// finish removes a file that is neither kept nor read any more; in.mu is held.
func (f *kept) finish() error {
	if f.at != nil || f.users > 0 {
		return nil
	}
	return f.Spool.Close() //nolint:wrapcheck // it says what failed
}

// Close gives back what get or put returned.
func (f *kept) Close() error {
	f.in.mu.Lock()
	defer f.in.mu.Unlock()
	f.users--
	return f.finish()
}

// Close drops everything. What is being read goes with its last reader, and nothing is kept
// any more.
func (k *Kept) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	var err error
	for len(k.by) > 0 {
		err = errors.Join(err, k.dropFirst(func(*kept) bool { return true }))
	}
	return err
}
