package attachment

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"syscall"
	"testing"
)

// idle is a reader that says it has read, and has not touched what it was given.
type idle struct{ n int }

func (r *idle) Read(p []byte) (int, error) {
	n := min(r.n, len(p))
	if r.n -= n; r.n == 0 {
		return n, io.EOF
	}
	return n, nil
}

// Attack vector: the disk fails while a file is received or hashed there.
//
// Expected: an error, and the file does not fit whatever its hash is said to be.
func TestDiskFailsWhileAFileIsChecked(t *testing.T) {
	t.Parallel()
	const size = 3 * Piece
	for name, from := range map[string]io.Reader{"when it is hashed": &idle{size}, "when it is received": bytes.NewReader(bytesOf(size))} {
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := file.Truncate(size); err != nil {
			t.Fatal(err)
		}
		mem, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		if err := file.Truncate(0); err != nil {
			t.Fatal(err)
		}
		check := NewCheck()
		f := File{Key: Key{Hash: sha256.Sum256(nil)}}
		if err := check.Copy(&places{mem: mem}, from); err == nil || check.Fits(&f) {
			t.Errorf("%s: %v", name, err)
		}
		if err := syscall.Munmap(mem); err != nil {
			t.Fatal(err)
		}
	}
}
