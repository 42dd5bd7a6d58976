package spool

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"e2ee-proxy/internal/parallel"
)

// A file that was used before, and is all there, can be written and read as memory: what comes from a
// connection is put where it stays, and is hashed and decrypted from there, without a copy. That is
// for ciphertext alone. A disk that fails shows as a fault of such memory, see [Guard].

// backing is the file of a body.
type backing struct {
	*os.File
	mem []byte    // its first bytes; nil: it is not mapped
	new time.Time // when no page was mapped
}

// writtenBack is after what time the system may have written what was changed to the disk. Linux does
// so after 30 s.
const writtenBack = 20 * time.Second

// mapped maps the first bytes of a file, of which it has as many. If that is not possible it is
// written and read.
func (b *backing) mapped(size int64) {
	now := time.Now()
	switch {
	case int64(len(b.mem)) != size:
		b.unmap()
		m, err := mapFile(b.File, size)
		if err != nil {
			return
		}
		b.mem, b.new = m, now
	case now.Sub(b.new) > writtenBack:
		forgetPages(b.mem)
		b.new = now
	}
}

func (b *backing) unmap() {
	if b.mem != nil {
		unmap(b.mem)
		b.mem = nil
	}
}

// Close ends the mapping too.
func (b *backing) Close() error {
	b.unmap()
	return b.File.Close() //nolint:wrapcheck // the spool says what failed
}

// InPlace returns memory where some of what follows is kept: it stays there until Close. What is put
// there, under [Guard], is part of the body after [Spool.Wrote]. It returns nil where there is Write
// only.
func (s *Spool) InPlace() []byte {
	if !s.opt.Ciphertext || s.closed || s.file == nil && s.opt.Expected <= int64(s.opt.Memory) {
		return nil
	}
	if s.file == nil && s.toFile() != nil {
		return nil // so it is with Write
	}
	if s.size >= int64(len(s.file.mem)) {
		return nil
	}
	return s.file.mem[s.size:]
}

// ReadThrough is like ReadAt, and has what it reads go through a cipher, whose place is the offset.
func (s *Spool) ReadThrough(p []byte, off int64, through cipher.Stream) (int, error) {
	n, err := s.readMapped(p, off, through.XORKeyStream)
	if errors.Is(err, errNotMapped) {
		n, err = s.ReadAt(p, off)
		through.XORKeyStream(p[:n], p[:n])
	}
	return n, err
}

var errNotMapped = errors.New("spool: not in memory")

// readMapped copies from what is mapped, if all of it is.
func (s *Spool) readMapped(p []byte, off int64, copied func(to, from []byte)) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed || s.file == nil || off < 0 || off >= s.size || s.size > int64(len(s.file.mem)) {
		return 0, errNotMapped
	}
	from := s.file.mem[off:min(s.size, off+int64(len(p)))]
	if err := Guard(func() { copied(p[:len(from)], from) }); err != nil {
		return 0, err
	}
	if len(from) < len(p) {
		return len(from), io.EOF
	}
	return len(from), nil
}

// Guard calls a function that uses memory of a spool's file. If the disk fails meanwhile, that is an
// error, as is a panic; what the function has done until then is undone by nobody.
func Guard(do func()) error {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err := parallel.Try(func() error {
		do()
		return nil
	})
	if err != nil {
		return fmt.Errorf("spool: use a file: %w", err)
	}
	return nil
}
