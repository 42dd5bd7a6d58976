package attachment

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// Key is what a file is encrypted with, and by what its ciphertext is known: AES-256-CTR and
// SHA-256 (EncryptedFile, version v2). Its fields are never shown.
type Key struct {
	Secret [32]byte
	// Counter is the first counter block.
	Counter [aes.BlockSize]byte
	// Hash is that of the whole ciphertext.
	Hash [sha256.Size]byte
}

// String implements fmt.Stringer.
func (Key) String() string { return "‹redacted›" }

// GoString implements fmt.GoStringer.
func (Key) GoString() string { return "‹redacted›" }

// newKey returns a new key. The lower half of the counter is zero, as the specification says,
// so that it does not overflow in clients that count with 64 bits.
func newKey() Key {
	var k Key
	_, _ = rand.Read(k.Secret[:]) // crypto/rand never returns an error
	_, _ = rand.Read(k.Counter[:8])
	return k
}

// stream returns the key stream from an offset on.
func (k *Key) stream(offset int64) (cipher.Stream, error) {
	block, err := aes.NewCipher(k.Secret[:])
	if err != nil {
		return nil, fmt.Errorf("a file's key: %w", err)
	}
	counter := k.Counter
	low := binary.BigEndian.Uint64(counter[8:])
	sum := low + uint64(offset)/aes.BlockSize
	binary.BigEndian.PutUint64(counter[8:], sum)
	if sum < low {
		binary.BigEndian.PutUint64(counter[:8], binary.BigEndian.Uint64(counter[:8])+1)
	}
	s := cipher.NewCTR(block, counter[:])
	if skip := offset % aes.BlockSize; skip > 0 {
		var waste [aes.BlockSize]byte
		s.XORKeyStream(waste[:skip], waste[:skip])
	}
	return s, nil
}

// Upload encrypts a file while it is read. It holds nothing of it.
type Upload struct {
	mu     sync.Mutex // the transport may still read when an answer came early
	from   io.Reader
	key    Key
	stream cipher.Stream
	sum    *sum
	size   atomic.Int64 // known while a read waits
	ended  bool
}

// Size returns how many bytes were read so far.
func (u *Upload) Size() int64 { return u.size.Load() }

// NewUpload returns an upload of what from has, under a new key.
func NewUpload(from io.Reader) (*Upload, error) {
	u := &Upload{from: from, key: newKey(), sum: newSum()}
	var err error
	u.stream, err = u.key.stream(0)
	return u, err
}

// Read implements io.Reader: it returns ciphertext.
func (u *Upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n, err := u.from.Read(p)
	u.stream.XORKeyStream(p[:n], p[:n])
	u.sum.add(p[:n])
	u.size.Add(int64(n))
	u.ended = errors.Is(err, io.EOF)
	return n, err //nolint:wrapcheck // it is the reader's, io.EOF above all
}

// Piece returns as much of the ciphertext as comes next, n bytes at most, instead of Read: so that
// whoever sends it need not copy it. done must be called when it was sent, and nothing may be
// changed of it. Neither waits for the other.
func (u *Upload) Piece(n int64) (data []byte, done func(), err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	buf := u.sum.buffer()
	got, err := u.from.Read(buf[:min(int64(len(buf)), n)])
	u.stream.XORKeyStream(buf[:got], buf[:got])
	p := u.sum.take(buf, got)
	u.size.Add(int64(got))
	u.ended = errors.Is(err, io.EOF)
	return p.data, p.done, err //nolint:wrapcheck // it is the reader's, io.EOF above all
}

var errNotRead = errors.New("the file was not read to its end")

// File returns what was uploaded to a URI.
func (u *Upload) File(uri string) (File, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.ended { // the transport stops at the announced length
		var one [1]byte
		if n, err := u.from.Read(one[:]); n > 0 || !errors.Is(err, io.EOF) {
			return File{}, errNotRead
		}
	}
	f := File{URL: uri, Key: u.key, Size: u.size.Load()}
	f.Key.Hash = u.sum.of()
	return f, nil
}

// Check takes the ciphertext of a file, and knows whether it is the file's.
type Check struct{ sum *sum }

// NewCheck returns a check of one file.
func NewCheck() Check { return Check{newSum()} }

// Write implements io.Writer.
func (c Check) Write(p []byte) (int, error) {
	c.sum.add(p)
	return len(p), nil
}

// Copy takes all of the ciphertext that from has, and writes it to keep meanwhile.
func (c Check) Copy(keep io.Writer, from io.Reader) error { return c.sum.copy(keep, from) }

// Fits reports whether what was written is the ciphertext of a file, all of it.
func (c Check) Fits(f *File) bool {
	has := c.sum.of()
	return c.sum.fault == nil && subtle.ConstantTimeCompare(has[:], f.Key.Hash[:]) == 1
}

// Clear is the clear text of a file whose ciphertext was checked.
type Clear struct {
	from   io.ReaderAt
	key    Key
	size   int64
	offset int64
	stream cipher.Stream // at offset; nil until something is read
}

// Clear returns the clear text of a ciphertext that [Check.Fits].
func (f *File) Clear(ciphertext io.ReaderAt, size int64) *Clear {
	return &Clear{from: ciphertext, key: f.Key, size: size}
}

// Read implements io.Reader.
func (c *Clear) Read(p []byte) (int, error) {
	if c.offset >= c.size {
		return 0, io.EOF
	}
	if c.stream == nil {
		var err error
		if c.stream, err = c.key.stream(c.offset); err != nil {
			return 0, err
		}
	}
	if rest := c.size - c.offset; int64(len(p)) > rest {
		p = p[:rest]
	}
	n, err := readThrough(c.from, p, c.offset, c.stream)
	if c.offset += int64(n); n == len(p) {
		err = nil
	} else {
		c.stream = nil // it may be anywhere
	}
	return n, err //nolint:wrapcheck // it is the reader's
}

// ReadAt implements io.ReaderAt; it may be called concurrently. It does not move where Read goes on.
func (c *Clear) ReadAt(p []byte, off int64) (int, error) {
	stream, err := c.key.stream(off)
	if err != nil {
		return 0, err
	}
	return readThrough(c.from, p, off, stream)
}

// readThrough reads ciphertext from where stream is.
func readThrough(from io.ReaderAt, p []byte, off int64, stream cipher.Stream) (int, error) {
	if from, ok := from.(interface {
		ReadThrough(p []byte, off int64, through cipher.Stream) (int, error)
	}); ok {
		return from.ReadThrough(p, off, stream) //nolint:wrapcheck // it is the reader's
	}
	n, err := from.ReadAt(p, off)
	stream.XORKeyStream(p[:n], p[:n])
	return n, err //nolint:wrapcheck // it is the reader's
}

var errSeek = errors.New("a place before the file")

// Seek implements io.Seeker.
func (c *Clear) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.offset
	case io.SeekEnd:
		offset += c.size
	default:
	}
	if offset < 0 {
		return 0, errSeek
	}
	c.offset, c.stream = offset, nil
	return offset, nil
}
