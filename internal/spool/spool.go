package spool

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"e2ee-proxy/internal/budget"
)

const (
	// DefaultMemory is the size in bytes up to which a body stays in memory.
	DefaultMemory = 512 << 10
	// cryptChunk is how much is encrypted at once.
	cryptChunk = 64 << 10
)

// ErrClosed means that a spool was used after Close.
var ErrClosed = errors.New("spool: closed")

// Options configures a spool. Zero fields have the defaults named here.
type Options struct {
	// Memory is the size in bytes up to which the body stays in memory: [DefaultMemory].
	Memory int
	// Dir is the directory of the temporary file: the system's.
	Dir string
	// Disk is the budget for the file, in the name of Owner. Without it there is no limit.
	Disk *budget.Budget
	// RAM is the budget for the memory; without it there is no limit.
	RAM   *budget.Budget
	Owner string
	// Pool has the memory of a body that is larger; without it, or if nothing of it is left, that goes to
	// the file.
	Pool *Pool
	// Files are used again if there is one for a body of the Expected size, and get the body's own
	// when it is closed; nil: the file is made, and removed.
	Files    *Files
	Expected int64
	// Ciphertext says that what is written is encrypted already, so that the file has it as it
	// is.
	Ciphertext bool
}

// diskStep is how much is taken from the budget at once, in bytes.
const diskStep = 1 << 20

// Spool is one body. It is written first, by one goroutine, then read any number of times, by any
// number of them until it is closed.
type Spool struct {
	opt     Options
	mu      sync.RWMutex // holds Close up for as long as somebody reads
	size    int64
	taken   int64  // from the budget
	memory  []byte // all of the body, while there is no file
	pooled  *piece // what memory is, when it is of the pool
	holders int    // of memory
	file    *backing
	length  int64  // of the file, which may have been another's
	unlink  string // what Close must still remove
	block   cipher.Block
	stream  cipher.Stream // at size
	scratch []byte
	closed  bool
}

// New returns an empty spool. It must be closed.
func New(opt Options) *Spool {
	if opt.Memory == 0 {
		opt.Memory = DefaultMemory
	}
	return &Spool{opt: opt}
}

// Size returns the number of bytes written.
func (s *Spool) Size() int64 { return s.size }

// Write appends to the body.
func (s *Spool) Write(p []byte) (int, error) {
	if s.closed {
		return 0, ErrClosed
	}
	if s.file == nil {
		if s.makeRoom(len(p)) {
			s.memory = append(s.memory, p...)
			s.size += int64(len(p))
			return len(p), nil
		}
		if err := s.toFile(); err != nil {
			return 0, err
		}
	}
	return s.encrypt(p)
}

// Room returns memory behind what was written, for some of what follows: n bytes or more if there is
// so much, and at least one. What is put there is part of the body after [Spool.Wrote]. It returns
// nil if the body is in no memory, or would not stay there: then there is Write.
func (s *Spool) Room(n int) []byte {
	if s.closed || s.file != nil {
		return nil
	}
	if !s.makeRoom(n) && !s.makeRoom(1) {
		return nil
	}
	return s.memory[len(s.memory):cap(s.memory)]
}

// Wrote says that the first n bytes of [Spool.Room] or [Spool.InPlace] are the next ones of the body. It
// returns all of it if that was Room; the next call of another method that writes may move that.
func (s *Spool) Wrote(n int) []byte {
	if s.file != nil {
		s.size += int64(n)
		return nil
	}
	s.memory = s.memory[:len(s.memory)+n]
	s.size += int64(n)
	return s.memory
}

// Hold returns all of a body that is in memory. It stays there, unchanged, until done is called, which
// must happen, once. It reports false for a body that is in a file, or was closed.
func (s *Spool) Hold() (body []byte, done func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.file != nil {
		return nil, nil, false
	}
	s.holders++
	return s.memory, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.holders--; s.closed {
			s.release()
		}
	}, true
}

// makeRoom makes room for n bytes behind those in memory, and reports whether it could.
func (s *Spool) makeRoom(n int) bool {
	need := len(s.memory) + n
	switch {
	case need <= cap(s.memory):
		return true
	case s.pooled != nil:
		if !s.opt.Pool.grow(s.opt.Owner, s.pooled, int64(need)) {
			return false
		}
		s.memory = s.pooled.mem[:len(s.memory):s.pooled.used]
		return true
	case need <= s.opt.Memory && s.opt.Expected <= int64(s.opt.Memory) && s.takeMemory(need):
		return true
	}
	return s.toPool(need)
}

// toPool moves what is in memory to memory of the pool, with room for so many bytes.
func (s *Spool) toPool(need int) bool {
	if s.opt.Ciphertext { // it is kept for longer than a body in clear
		return false
	}
	p := s.opt.Pool.get(s.opt.Owner, max(int64(need), s.opt.Expected))
	if p == nil {
		return false
	}
	n := copy(p.mem, s.memory)
	s.release()
	s.pooled, s.memory = p, p.mem[:n:p.used]
	return true
}

// takeMemory takes memory of the heap: what is expected and one byte, so that its end is seen, or
// twice as much as before, up to the threshold. It reports false if there is none.
func (s *Spool) takeMemory(need int) bool {
	size := min(max(need, 2*cap(s.memory), 4<<10, int(s.opt.Expected)+1), s.opt.Memory)
	if s.opt.RAM != nil && s.opt.RAM.Take(s.opt.Owner, int64(size-cap(s.memory))) != nil {
		return false
	}
	grown := make([]byte, len(s.memory), size)
	copy(grown, s.memory)
	clear(s.memory)
	s.memory = grown
	return true
}

// release returns the memory to its budget, unless somebody holds it.
func (s *Spool) release() {
	switch {
	case s.holders > 0:
		return
	case s.pooled != nil:
		s.opt.Pool.put(s.opt.Owner, s.pooled, int64(len(s.memory)))
		s.pooled, s.memory = nil, nil
		return
	case s.opt.RAM != nil:
		s.opt.RAM.Release(s.opt.Owner, int64(cap(s.memory)))
	}
	clear(s.memory)
	s.memory = nil
}

// toFile moves what is in memory to a new file.
func (s *Spool) toFile() error {
	if err := s.makeKey(); err != nil {
		return err
	}
	if s.file, s.length = s.opt.Files.get(s.opt.Owner, s.opt.Expected); s.file != nil {
		s.taken = s.length
		if s.opt.Ciphertext {
			s.file.mapped(s.length)
		}
	} else if err := s.create(); err != nil {
		return err
	}
	s.size = 0
	_, err := s.encrypt(s.memory)
	s.release()
	return err
}

// create makes the file.
func (s *Spool) create() error {
	file, err := os.CreateTemp(s.opt.Dir, "e2ee-proxy-spool-*") // mode 0600
	if err != nil {
		return fmt.Errorf("spool: create file: %w", err)
	}
	if os.Remove(file.Name()) != nil {
		s.unlink = file.Name() // a system that cannot remove open files; Close removes it
	}
	s.file = &backing{File: file}
	return nil
}

// makeKey makes the key of the file, unless it needs none.
func (s *Spool) makeKey() error {
	if s.opt.Ciphertext {
		return nil
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("spool: make key: %w", err)
	}
	block, err := aes.NewCipher(key)
	clear(key)
	if err != nil {
		return fmt.Errorf("spool: make key: %w", err)
	}
	s.block, s.stream, s.scratch = block, cipher.NewCTR(block, counterBlock(0)), make([]byte, cryptChunk)
	return nil
}

func (s *Spool) encrypt(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		part := p[done:min(done+cryptChunk, len(p))]
		if err := s.takeDisk(s.size + int64(len(part))); err != nil {
			s.closed = true // a part of the body is missing
			return done, err
		}
		out := part
		if s.stream != nil {
			out = s.scratch[:len(part)]
			s.stream.XORKeyStream(out, part)
		}
		// At its offset: the next write does not repair one that came up short.
		n, err := s.file.WriteAt(out, s.size)
		if err != nil {
			s.closed = true // the key stream has moved on; nothing can follow
			return done + n, fmt.Errorf("spool: write file: %w", err)
		}
		s.size += int64(n)
		s.length = max(s.length, s.size)
		done += n
	}
	return done, nil
}

// takeDisk takes disk space for a body of the given size. Its errors are those of the budget:
// ErrNever when the body itself is too large.
func (s *Spool) takeDisk(size int64) error {
	if s.opt.Disk == nil || size <= s.taken {
		return nil
	}
	more := max(diskStep, size-s.taken)
	if room := s.opt.Disk.Share() - s.taken; more > room {
		more = size - s.taken // the rest of a share may be less than a step
		if more > room {
			return fmt.Errorf("spool: keep a body: %w", budget.ErrNever)
		}
	}
	if err := s.opt.Disk.Take(s.opt.Owner, more); err != nil {
		return fmt.Errorf("spool: keep a body: %w", err)
	}
	s.taken += more
	return nil
}

// counterBlock returns the initial counter block for a block number of the body. The key is used
// for one body, so the nonce may be zero.
func counterBlock(block int64) []byte {
	iv := make([]byte, aes.BlockSize)
	binary.BigEndian.PutUint64(iv[8:], uint64(block))
	return iv
}

// ReadAt implements io.ReaderAt over the whole body.
func (s *Spool) ReadAt(p []byte, off int64) (int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.closed:
		return 0, ErrClosed
	case off < 0:
		return 0, errors.New("spool: negative offset")
	case off >= s.size:
		return 0, io.EOF
	}
	var short error
	if rest := s.size - off; int64(len(p)) > rest {
		p, short = p[:rest], io.EOF
	}
	if s.file == nil {
		return copy(p, s.memory[off:]), short
	}
	n, err := s.file.ReadAt(p, off)
	s.decrypt(p[:n], off)
	if n < len(p) {
		return n, fmt.Errorf("spool: read file: %w", err)
	}
	return n, short
}

// decrypt undoes encrypt for bytes that lie at an offset of the body.
func (s *Spool) decrypt(p []byte, off int64) {
	if s.block == nil {
		return
	}
	stream := cipher.NewCTR(s.block, counterBlock(off/aes.BlockSize))
	if skip := off % aes.BlockSize; skip > 0 {
		var waste [aes.BlockSize]byte
		stream.XORKeyStream(waste[:skip], waste[:skip])
	}
	stream.XORKeyStream(p, p)
}

// Reader returns a new reader of the whole body from its start.
func (s *Spool) Reader() io.Reader { return s.Section(0, s.size) }

// Section returns a new reader of a part of the body.
func (s *Spool) Section(from, to int64) io.Reader { return io.NewSectionReader(s, from, to-from) }

// Close removes the body, from memory and disk. Whoever still reads gets ErrClosed: a transport
// does when the answer came before the end of its request.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.release()
	clear(s.scratch)
	s.scratch, s.block, s.stream = nil, nil, nil
	if s.file == nil {
		return nil
	}
	file := s.file
	s.file = nil
	if s.unlink == "" && s.opt.Files.put(s.opt.Owner, file, s.length) {
		s.taken -= s.length
		file = nil
	}
	if s.opt.Disk != nil {
		defer s.opt.Disk.Release(s.opt.Owner, s.taken)
	}
	var err error
	if file != nil {
		err = file.Close()
	}
	if s.unlink != "" {
		err = errors.Join(err, os.Remove(s.unlink))
		s.unlink = ""
	}
	if err != nil {
		return fmt.Errorf("spool: remove file: %w", err)
	}
	return nil
}
