package spool_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"e2ee-proxy/internal/budget"
	"e2ee-proxy/internal/spool"
)

// newPool returns a pool, and false on systems without one.
func newPool(t *testing.T, size int64) (*spool.Pool, bool) {
	t.Helper()
	p := spool.NewPool(size)
	if p == nil && runtime.GOOS == "linux" {
		t.Fatal("no pool")
	}
	return p, p != nil
}

// files returns how many deleted files of this process lie in dir.
func filesUnder(t *testing.T, dir string) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if name, err := os.Readlink(fd); err == nil && filepath.Dir(name) == dir {
			n++
		}
	}
	return n
}

// read copies a body into a spool, as far as that has room for it, and writes the rest.
func read(t *testing.T, s *spool.Spool, want []byte, step int) {
	t.Helper()
	for done := 0; done < len(want); {
		part := want[done:min(done+step, len(want))]
		if room := s.Room(10); room != nil {
			n := copy(room, part)
			done += n
			if all := s.Wrote(n); !bytes.Equal(all, want[:done]) {
				t.Fatalf("at %d there is something else", done)
			}
			continue
		}
		n, err := s.Write(part)
		if done += n; err != nil {
			t.Fatal(err)
		}
	}
}

// A body is what was written, wherever it is kept: in the heap, in the pool, or in a file when neither
// has room for it any more.
func TestPoolGivesBackWhatWasWritten(t *testing.T) {
	t.Parallel()
	want := body(5*mib/2 + 7)
	for _, total := range []int64{0, 2 * mib, 4 * mib, 8 * mib} {
		p := spool.NewPool(total)
		for _, size := range []int{0, 1000, 1001, mib, mib + 1, len(want)} {
			for _, expected := range []int64{-1, int64(size), 3 * mib} {
				for _, fill := range []func(*testing.T, *spool.Spool, []byte, int){read, func(t *testing.T, s *spool.Spool, b []byte, n int) { fill(t, s, b, n) }} {
					dir := t.TempDir()
					s := spool.New(spool.Options{Memory: 1000, Dir: dir, Pool: p, Expected: expected})
					fill(t, s, want[:size], 70_001)
					if err := iotest.TestReader(io.LimitReader(s.Reader(), 500), want[:min(size, 500)]); err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(s.Reader())
					if err != nil || s.Size() != int64(size) || !bytes.Equal(got, want[:size]) {
						t.Fatalf("%d of a pool of %d: %d bytes, %v", size, total, len(got), err)
					}
					inFile := runtime.GOOS == "linux" && filesUnder(t, dir) > 0
					if fits := size <= 1000 && expected <= 1000 || max(int64(size), expected) <= total/2; runtime.GOOS == "linux" && inFile == fits && size > 0 {
						t.Errorf("%d of which %d are expected, in a pool of %d: in a file is %v", size, expected, total, inFile)
					}
					held, done, ok := s.Hold()
					if ok == inFile || ok && !bytes.Equal(held, want[:size]) {
						t.Errorf("%d of a pool of %d: held %v, %d bytes", size, total, ok, len(held))
					}
					if ok {
						done()
					}
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		if p.Taken() > total {
			t.Errorf("%d of %d are taken", p.Taken(), total)
		}
	}
}

// Attack vector: one account asks for one large answer after the other and does not take them, so that
// all others' go to the disk; or an answer is made to show what was in the one before.
//
// Expected: half is left to the others; memory that is used again has zeros.
func TestPoolIsShared(t *testing.T) {
	t.Parallel()
	p, ok := newPool(t, 8*mib)
	if !ok {
		return
	}
	dir := t.TempDir()
	open := func(owner string, size int) *spool.Spool {
		s := spool.New(spool.Options{Memory: 1000, Dir: dir, Pool: p, Owner: owner})
		fill(t, s, bytes.Repeat([]byte(owner[:1]), size), mib)
		return s
	}
	first, second := open("alice", 3*mib), open("alice", 2*mib)
	if n := filesUnder(t, dir); n != 1 || p.Taken() != 4*mib { // one waits, that the second outgrew
		t.Errorf("%d files, %d MiB are taken", n, p.Taken()/mib)
	}
	other := open("bob", 4*mib)
	if n := filesUnder(t, dir); n != 1 || p.Taken() != 7*mib {
		t.Errorf("%d files, %d MiB are taken", n, p.Taken()/mib)
	}
	for _, s := range []*spool.Spool{first, second, other} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	again := spool.New(spool.Options{Memory: 1000, Dir: dir, Pool: p, Owner: "carol", Expected: 3 * mib})
	room := again.Room(1)
	if len(room) < 3*mib || bytes.Count(room, []byte{0}) != len(room) {
		t.Errorf("%d bytes, and not all of them zero", len(room))
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	whole := open("dave", 4*mib)
	last := open("erin", 4*mib) // what waits makes room
	if n := filesUnder(t, dir); n != 0 || p.Taken() != 8*mib {
		t.Errorf("%d files, %d MiB are taken", n, p.Taken()/mib)
	}
	for _, s := range []*spool.Spool{whole, last} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What nobody uses goes back to the system after a minute.
func TestPoolIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, ok := newPool(t, 8*mib)
		if !ok {
			return
		}
		s := spool.New(spool.Options{Memory: 1000, Dir: t.TempDir(), Pool: p})
		fill(t, s, body(2*mib), mib)
		time.Sleep(2 * time.Minute)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if p.Taken() != 2*mib {
			t.Errorf("%d are taken while it waits", p.Taken())
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if p.Taken() != 0 {
			t.Errorf("%d are still taken", p.Taken())
		}
	})
}

// Whoever holds a body has it after it was closed; then nobody else gets it, and its memory goes back
// with the last holder.
func TestHeldAfterClose(t *testing.T) {
	t.Parallel()
	p, ram := spool.NewPool(8*mib), budget.New(mib, mib)
	for _, size := range []int{900, 2 * mib} {
		s := spool.New(spool.Options{Memory: 1000, Dir: t.TempDir(), Pool: p, RAM: ram})
		want := body(size)
		fill(t, s, want, mib)
		first, done, ok := s.Hold()
		_, other, _ := s.Hold()
		if !ok {
			continue // there is no pool
		}
		other()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := s.Hold(); ok {
			t.Error("it is given out after Close")
		}
		if _, err := s.ReadAt(make([]byte, 1), 0); !errors.Is(err, spool.ErrClosed) {
			t.Error(err)
		}
		if s.Room(1) != nil {
			t.Error("there is room after Close")
		}
		if !bytes.Equal(first, want) {
			t.Error("what is held has changed")
		}
		done()
		if ram.Taken() != 0 {
			t.Errorf("%d are left of the heap", ram.Taken())
		}
	}
}

func TestPoolOfNothing(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{-1, 0, 1000} {
		if p := spool.NewPool(size); p != nil || p.Taken() != 0 {
			t.Errorf("%d make a pool", size)
		}
	}
}

// What is ciphertext stays away from the pool, where it would be for minutes.
func TestPoolIsNotForCiphertext(t *testing.T) {
	t.Parallel()
	p := spool.NewPool(8 * mib)
	s := spool.New(spool.Options{Dir: t.TempDir(), Pool: p, Ciphertext: true, Expected: 2 * mib})
	fill(t, s, body(2*mib), mib)
	if p.Taken() != 0 {
		t.Errorf("%d are taken", p.Taken())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
