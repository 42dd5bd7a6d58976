package spool_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/iotest"

	"e2ee-proxy/internal/budget"
	"e2ee-proxy/internal/spool"
)

// body is n bytes that differ everywhere.
func body(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func fill(t testing.TB, s *spool.Spool, want []byte, step int) {
	t.Helper()
	for from := 0; from < len(want); from += step {
		part := want[from:min(from+step, len(want))]
		if n, err := s.Write(part); n != len(part) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
}

func TestSpoolGivesBackWhatWasWritten(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 15, 16, 17, 999, 1000, 1001, 32 << 10, 100_000} {
		for _, step := range []int{1, 7, 16, 1000, 33 << 10, 1 << 20} {
			if step == 1 && size > 1001 {
				continue
			}
			s := spool.New(spool.Options{Memory: 1000, Dir: t.TempDir()})
			want := body(size)
			fill(t, s, want, step)
			if s.Size() != int64(size) {
				t.Fatalf("Size is %d, want %d", s.Size(), size)
			}
			if err := iotest.TestReader(s.Reader(), want); err != nil {
				t.Fatalf("size %d, step %d: %v", size, step, err)
			}
			for off := 0; off < size; off += 1 + size/37 {
				got := make([]byte, min(19, size-off))
				if n, err := s.ReadAt(got, int64(off)); n != len(got) || err != nil || !bytes.Equal(got, want[off:off+n]) {
					t.Fatalf("size %d: ReadAt %d: %d, %v", size, off, n, err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What is ciphertext already is in the file as it was written, and is read back from any place.
func TestSpoolOfCiphertext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := spool.New(spool.Options{Memory: 100, Dir: dir, Ciphertext: true})
	want := body(300_001)
	fill(t, s, want, 7001)
	if err := iotest.TestReader(s.Reader(), want); err != nil {
		t.Error(err)
	}
	if runtime.GOOS == "linux" && !bytes.Equal(openFileUnder(t, dir), want) {
		t.Error("the file has something else")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSpoolReadsAtTheEnd(t *testing.T) {
	t.Parallel()
	for _, memory := range []int{1, 1000} {
		s := spool.New(spool.Options{Memory: memory, Dir: t.TempDir()})
		fill(t, s, []byte("0123456789"), 10)
		p := make([]byte, 8)
		if n, err := s.ReadAt(p, 6); n != 4 || !errors.Is(err, io.EOF) || string(p[:n]) != "6789" {
			t.Errorf("across the end: %d, %v", n, err)
		}
		if n, err := s.ReadAt(p, 10); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %d, %v", n, err)
		}
		if _, err := s.ReadAt(p, -1); err == nil {
			t.Error("a negative offset was accepted")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSpoolIsGoneAfterClose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, size := range []int{10, 5000} {
		s := spool.New(spool.Options{Memory: 100, Dir: dir})
		fill(t, s, body(size), 1000)
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, spool.ErrClosed) {
			t.Errorf("Write: %v", err)
		}
		if _, err := s.ReadAt(make([]byte, 1), 0); !errors.Is(err, spool.ErrClosed) {
			t.Errorf("ReadAt: %v", err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestSpoolWithoutAPlaceForItsFile(t *testing.T) {
	t.Parallel()
	s := spool.New(spool.Options{Memory: 10, Dir: filepath.Join(t.TempDir(), "missing")})
	if _, err := s.Write(make([]byte, 11)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// Clear text never reaches a disk, and the file can be read by its owner
// only while it exists.
func TestSpoolFileIsCipherText(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Log("the open file is looked at through /proc; only its name is checked here")
	}
	dir := t.TempDir()
	s := spool.New(spool.Options{Memory: 1000, Dir: dir})
	marker := []byte("a secret that must not be on the disk")
	want := bytes.Repeat(marker, 1000)
	fill(t, s, want, 700)
	if left, err := os.ReadDir(dir); err != nil || (runtime.GOOS == "linux" && len(left) > 0) {
		t.Errorf("the file has a name: %v, %v", left, err)
	}
	if runtime.GOOS == "linux" {
		raw := openFileUnder(t, dir)
		if len(raw) != len(want) {
			t.Errorf("the file has %d bytes, want %d", len(raw), len(want))
		}
		if bytes.Contains(raw, marker[:8]) {
			t.Error("the file shows clear text")
		}
		for i := 16; i+16 <= len(raw); i += 16 {
			if bytes.Equal(raw[:16], raw[i:i+16]) {
				t.Fatal("the key stream repeats")
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// openFileUnder returns the content of the deleted file of this process that lay in dir.
func openFileUnder(t *testing.T, dir string) []byte {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		name, err := os.Readlink(fd)
		if err != nil || filepath.Dir(name) != dir {
			continue
		}
		info, err := os.Stat(fd)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode is %v", info.Mode())
		}
		raw, err := os.ReadFile(fd)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	t.Fatal("the file is not open")
	return nil
}

// The heap does not grow with the body (at most 1 MiB is used for any size).
func TestSpoolHeap(t *testing.T) {
	for _, size := range []int64{10 << 20, 100 << 20} {
		s := spool.New(spool.Options{Dir: t.TempDir()})
		before := heap()
		if _, err := io.CopyBuffer(struct{ io.Writer }{s}, io.LimitReader(endless{}, size), make([]byte, 32<<10)); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, struct{ io.Reader }{s.Reader()}); n != size || err != nil {
			t.Fatalf("read %d, %v", n, err)
		}
		if grown := int64(heap()) - int64(before); grown > 1<<20 {
			t.Errorf("%d MiB body: the heap grew by %d bytes", size>>20, grown)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func BenchmarkSpool(b *testing.B) {
	const size = 10 << 20
	want := body(size)
	for name, memory := range map[string]int{"memory": size, "file": 0} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			p := make([]byte, 64<<10)
			for b.Loop() {
				s := spool.New(spool.Options{Memory: memory, Dir: b.TempDir()})
				fill(b, s, want, len(p))
				if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{s.Reader()}, p); err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What is on the disk counts, for its owner and for all, from before it is written until
// it is closed. What has no place in the budget is not written, and says whether to wait.
func TestSpoolTakesFromABudget(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	dir, disk := t.TempDir(), budget.New(3*mib+100, 2*mib)
	open := func(owner string) *spool.Spool {
		return spool.New(spool.Options{Memory: 1000, Dir: dir, Disk: disk, Owner: owner})
	}
	small, first, second, other := open("alice"), open("alice"), open("alice"), open("bob")
	fill(t, small, body(1000), 1000)
	if got := disk.Taken(); got != 0 {
		t.Errorf("a body in memory takes %d", got)
	}
	fill(t, first, body(mib), 1000)
	if got := disk.Taken(); got != mib {
		t.Errorf("%d are taken for a MiB", got)
	}
	fill(t, second, body(mib), 5000)
	if n, err := second.Write(body(1)); n != 0 || !errors.Is(err, budget.ErrSpent) {
		t.Errorf("more than a share: %d, %v", n, err)
	}
	fill(t, other, body(mib), 70_000)
	if err := iotest.TestReader(other.Section(7, 100), body(mib)[7:100]); err != nil {
		t.Errorf("a part of it: %v", err)
	}
	if n, err := other.Write(body(200)); n != 0 || !errors.Is(err, budget.ErrSpent) {
		t.Errorf("more than there is: %d, %v", n, err)
	}
	none := open("alice")
	if _, err := none.Write(body(1001)); !errors.Is(err, budget.ErrSpent) {
		t.Errorf("with nothing left: %v", err)
	}
	if _, err := none.Write(body(1)); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("a body of which a part is lost goes on: %v", err)
	}
	for _, s := range []*spool.Spool{second, none} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, first, body(mib), 70_000)
	if n, err := first.Write(body(1)); n != 0 || !errors.Is(err, budget.ErrNever) {
		t.Errorf("one body of more than a share: %d, %v", n, err)
	}
	for _, s := range []*spool.Spool{small, first, other, first} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := disk.Taken(); got != 0 {
		t.Errorf("%d are left", got)
	}
}

// Attack vector: many answers at a time, each small enough for memory, to clients that do
// not take them.
//
// Expected: what finds no memory goes to the disk, and nobody notices; what one user holds
// leaves the others theirs.
func TestSpoolWithoutMemory(t *testing.T) {
	t.Parallel()
	const size = 8 << 10
	dir, ram := t.TempDir(), budget.New(3*size, 2*size)
	open := func(owner string) *spool.Spool {
		return spool.New(spool.Options{Memory: size, Dir: dir, RAM: ram, Disk: budget.New(1<<30, 1<<30), Owner: owner})
	}
	var all []*spool.Spool
	for i, owner := range []string{"alice", "alice", "alice", "bob", "bob"} {
		s := open(owner)
		all = append(all, s)
		fill(t, s, body(size), 1000)
		if err := iotest.TestReader(s.Reader(), body(size)); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if got := ram.Taken(); got != 3*size {
		t.Errorf("%d bytes are taken for five times %d", got, size)
	}
	if err := all[0].Close(); err != nil {
		t.Fatal(err)
	}
	fill(t, all[1], body(size), 1000) // goes to the disk now
	if got := ram.Taken(); got != size {
		t.Errorf("%d bytes are taken for the one in memory", got)
	}
	for _, s := range append(all, all...) {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := ram.Taken(); got != 0 {
		t.Errorf("%d are left", got)
	}
}

// Whoever still reads when a spool is closed gets an error, and nothing of anybody's memory.
func TestSpoolClosedWhileItIsRead(t *testing.T) {
	t.Parallel()
	for _, memory := range []int{1 << 20, 1} {
		s := spool.New(spool.Options{Memory: memory, Dir: t.TempDir()})
		if _, err := s.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		started := make(chan struct{}, 4)
		for range 4 {
			all.Go(func() {
				buf := make([]byte, 50_000)
				_, err := s.ReadAt(buf, 50_000)
				started <- struct{}{}
				for err == nil {
					_, err = s.ReadAt(buf, 50_000)
				}
				if !errors.Is(err, spool.ErrClosed) {
					t.Errorf("%v", err)
				}
			})
		}
		for range 4 {
			<-started
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		all.Wait()
	}
}
