package spool

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"e2ee-proxy/internal/budget"
	"e2ee-proxy/internal/parallel"
)

const testMiB = 1 << 20

// mappedFiles makes spools of ciphertext one after the other, each of which has the file of the one
// before.
type mappedFiles struct {
	t     *testing.T
	disk  *budget.Budget
	files *Files
	dir   string
}

func newMappedFiles(t *testing.T) *mappedFiles {
	t.Helper()
	disk := budget.New(100*testMiB, 100*testMiB)
	m := &mappedFiles{t, disk, NewFiles(disk), t.TempDir()}
	t.Cleanup(func() {
		for m.files.Drop() {
		}
		if disk.Taken() != 0 {
			t.Errorf("%d are left", disk.Taken())
		}
	})
	return m
}

func (m *mappedFiles) open(expected int64) *Spool {
	s := New(Options{Dir: m.dir, Disk: m.disk, Owner: "alice", Ciphertext: true, Files: m.files, Expected: expected})
	m.t.Cleanup(func() { _ = s.Close() })
	return s
}

func (m *mappedFiles) close(s *Spool) {
	m.t.Helper()
	if err := s.Close(); err != nil {
		m.t.Fatal(err)
	}
}

// put puts a body there, in place as far as that is possible, and returns how much that was.
func (m *mappedFiles) put(s *Spool, want []byte) (inPlace int) {
	m.t.Helper()
	for rest := want; len(rest) > 0; {
		n := min(len(rest), 300_001)
		if room := s.InPlace(); room != nil {
			n = copy(room, rest[:n])
			s.Wrote(n)
			inPlace += n
		} else if _, err := s.Write(rest[:n]); err != nil {
			m.t.Fatal(err)
		}
		rest = rest[n:]
	}
	return inPlace
}

func stream(t *testing.T) cipher.Stream {
	t.Helper()
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return cipher.NewCTR(block, make([]byte, aes.BlockSize))
}

// wantBody compares a body, as it is and through a cipher.
func (m *mappedFiles) wantBody(s *Spool, want []byte) {
	m.t.Helper()
	got, err := io.ReadAll(s.Reader())
	if err != nil || !bytes.Equal(got, want) {
		m.t.Fatalf("%d bytes instead of %d, %v", len(got), len(want), err)
	}
	for _, at := range []int{0, len(want) / 2, len(want) - 100} {
		got, clear := make([]byte, 200_000), make([]byte, 200_000)
		n, err := s.ReadThrough(got, int64(at), stream(m.t))
		expected := min(len(got), len(want)-at)
		stream(m.t).XORKeyStream(clear[:expected], want[at:at+expected])
		if n != expected || !bytes.Equal(got[:n], clear[:n]) || (err == nil) == (n < len(got)) || err != nil && !errors.Is(err, io.EOF) {
			m.t.Errorf("through a cipher at %d: %d bytes, %v", at, n, err)
		}
	}
	if n, err := s.ReadThrough(make([]byte, 1), int64(len(want)), stream(m.t)); n != 0 || !errors.Is(err, io.EOF) {
		m.t.Errorf("behind the end: %d, %v", n, err)
	}
}

// A file that is used again has the body put in place, and gives it back, however long it is: as long as
// the one before, longer, or shorter than was said. Nobody sees what was there before.
func TestBodyIsPutInPlace(t *testing.T) {
	t.Parallel()
	m := newMappedFiles(t)
	first := m.open(9 * testMiB)
	if m.put(first, bytes.Repeat([]byte("a"), 9*testMiB)) != 0 {
		t.Error("a new file is mapped")
	}
	m.close(first)
	for n, body := range []struct{ expected, size, inPlace int }{
		{9 * testMiB, 9 * testMiB, 9 * testMiB},
		{11 * testMiB, 11 * testMiB, 9 * testMiB},
		{11 * testMiB, 11 * testMiB, 11 * testMiB},
		{12 * testMiB, 12*testMiB - 5, 11 * testMiB},
		{13 * testMiB, 700_000, 700_000},
		{13 * testMiB, 13 * testMiB, 12*testMiB - 5},
	} {
		s := m.open(int64(body.expected))
		want := bytes.Repeat([]byte{byte('b' + n), 'x', 'y'}, body.size/3+1)[:body.size]
		if got := m.put(s, want); got != body.inPlace {
			t.Errorf("%d: %d bytes in place, want %d", n, got, body.inPlace)
		}
		m.wantBody(s, want)
		if n%2 == 0 { // as if the next one came later
			s.file.new = s.file.new.Add(-time.Hour)
		}
		m.close(s)
		if s.InPlace() != nil {
			t.Error("there is a place after Close")
		}
		if _, err := s.ReadThrough(make([]byte, 1), 0, stream(t)); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// What is in clear, or of an unknown size, is not put in place.
func TestWhatIsNotPutInPlace(t *testing.T) {
	t.Parallel()
	m := newMappedFiles(t)
	s := m.open(9 * testMiB)
	m.put(s, make([]byte, 9*testMiB))
	m.close(s)
	for _, o := range []Options{{Expected: 9 * testMiB}, {Ciphertext: true, Expected: -1}, {Ciphertext: true, Expected: 1000}} {
		o.Dir, o.Disk, o.Files = m.dir, m.disk, m.files
		s := New(o)
		if s.InPlace() != nil {
			t.Errorf("%+v: in place", o)
		}
		if _, err := s.Write(make([]byte, testMiB)); err != nil {
			t.Fatal(err)
		}
		if o.Ciphertext && s.InPlace() != nil {
			t.Errorf("%+v: in place", o)
		}
		m.close(s)
	}
}

// Attack vector: a disk that fails, or somebody who shortens the file: memory that is the file's ends the
// process where it is touched.
//
// Expected: an error, to who writes, who reads and the system itself; the process goes on.
func TestDiskFailsUnderAMapping(t *testing.T) {
	t.Parallel()
	m := newMappedFiles(t)
	s := m.open(9 * testMiB)
	m.put(s, make([]byte, 9*testMiB))
	m.close(s)
	s = m.open(9 * testMiB)
	s.Wrote(copy(s.InPlace(), make([]byte, 3*testMiB)))
	room := s.InPlace()
	if err := s.file.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := Guard(func() { copy(room, make([]byte, 100)) }); err == nil {
		t.Error("writing to it is no error")
	}
	if n, err := s.ReadThrough(make([]byte, 1000), 5, stream(t)); n != 0 || err == nil {
		t.Errorf("reading it: %d, %v", n, err)
	}
	if n, err := s.ReadAt(make([]byte, 1000), 5); n != 0 || err == nil {
		t.Errorf("reading it as a file: %d, %v", n, err)
	}
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	defer to.Close()
	if _, err := to.WriteString("something"); err != nil {
		t.Fatal(err)
	}
	var n int
	var failed error
	if err := Guard(func() { n, failed = from.Read(room) }); err != nil || n > 0 || failed == nil {
		t.Errorf("the system writes to it: %d, %v, %v", n, failed, err)
	}
	if err := s.file.Truncate(9 * testMiB); err != nil { // so that it can be used again
		t.Fatal(err)
	}
}

// Any other panic is an error too.
func TestGuardOfOtherPanics(t *testing.T) {
	t.Parallel()
	var said *parallel.PanicError
	if err := Guard(func() { panic("else") }); !errors.As(err, &said) {
		t.Error(err)
	}
}
