package spool_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"e2ee-proxy/internal/budget"
	"e2ee-proxy/internal/spool"
)

const mib = 1 << 20

// world is an owner's spools on one disk.
type world struct {
	t     *testing.T
	dir   string
	disk  *budget.Budget
	files *spool.Files
	// secret says that the bodies are no ciphertext.
	secret bool
}

func newWorld(t *testing.T, total, share int64) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), disk: budget.New(total, share)}
	w.files = spool.NewFiles(w.disk)
	w.disk.OnSpent(func(owner string) bool { return owner == "" && w.files.Drop() })
	return w
}

// write returns a spool with n bytes of c.
func (w *world) write(owner string, expected int64, c byte, n int) *spool.Spool {
	w.t.Helper()
	s := spool.New(spool.Options{Dir: w.dir, Disk: w.disk, Owner: owner, Ciphertext: !w.secret, Files: w.files, Expected: expected})
	fill(w.t, s, bytes.Repeat([]byte{c}, n), mib)
	return s
}

func (w *world) close(s *spool.Spool) {
	w.t.Helper()
	if err := s.Close(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) taken(want int64) {
	w.t.Helper()
	if n := w.disk.Taken(); n != want {
		w.t.Errorf("%d MiB are taken, want %d", n/mib, want/mib)
	}
}

// The file of a body that is gone has room for the next one, which sees nothing of the one before,
// also when it is shorter than it was said to be. Its room is taken in the name of whoever has it.
func TestFilesAreUsedAgain(t *testing.T) {
	t.Parallel()
	for _, secret := range []bool{false, true} {
		w := newWorld(t, 100*mib, 40*mib)
		w.secret = secret
		usedAgain(t, w)
	}
}

func usedAgain(t *testing.T, w *world) {
	t.Helper()
	w.close(w.write("alice", 20*mib, 'a', 20*mib))
	w.taken(20 * mib)
	for size, taken := range map[int]int64{21 * mib: 21 * mib, 9 * mib: 20 * mib} {
		s := w.write("bob", 21*mib, 'b', size)
		w.taken(taken)
		if n, err := s.ReadAt(make([]byte, 1), int64(size)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("behind the end: %d, %v", n, err)
		}
		got, err := io.ReadAll(s.Reader())
		if err != nil || len(got) != size || bytes.Count(got, []byte("b")) != size {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		w.close(s)
		if !w.files.Drop() || w.files.Drop() {
			t.Error("not one file is left")
		}
		w.taken(0)
		w.close(w.write("alice", 20*mib, 'a', 20*mib))
	}
	if left, err := os.ReadDir(w.dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A file is not used again for a body that is smaller, or in the name of somebody who may not have
// so much; it is not kept when it is small, large, or one of many, or after a while; and it makes
// room when somebody needs that.
func TestFilesThatAreNotUsedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 100*mib, 40*mib)
		w.close(w.write("alice", 7*mib, 'a', 7*mib))
		w.taken(0)
		w.close(w.write("alice", 20*mib, 'a', 20*mib))
		smaller := w.write("bob", 19*mib, 'b', 19*mib)
		unknown := w.write("bob", -1, 'b', 19*mib)
		w.taken(58 * mib)
		w.close(smaller)
		w.taken(58 * mib) // two are kept
		w.close(unknown)
		w.taken(39 * mib) // and no third
		held := w.write("carol", 0, 'c', 38*mib)
		more := w.write("carol", 30*mib, 'c', mib)
		w.taken(78 * mib)
		w.close(more)
		w.taken(77 * mib)
		other := w.write("dave", 0, 'd', 40*mib)
		w.taken(97 * mib) // without the older one
		w.close(other)
		w.close(held)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		w.taken(0)
	})
}
