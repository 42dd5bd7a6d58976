package attachment

import (
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// Piece is how much of a file is best read at a time, in bytes: what is large enough that
// neither calls of the system nor hand-overs count.
const Piece = 256 << 10

// Pieces is how many pieces of a file are in memory at once, at most, while it is encrypted or
// checked: so many may wait for their hash, so that neither who hashes nor who has the file stands
// still when the system takes the processor from the other for a moment.
const Pieces = 6

const (
	// firstPiece is how much is read first: most files are no larger.
	firstPiece = 32 << 10
	// aside is from how much on something is hashed beside whoever gave it, in bytes: less is done
	// sooner than handed over.
	aside = 16 << 10
)

// sum takes the hash of a file, while whoever has the file goes on with it: hashing takes longer
// than all else that is done to a file, so that it is worth a processor of its own. The pieces are
// hashed in their order by one goroutine, which ends when there is none, and waits for nothing.
// One goroutine at a time may call the methods.
type sum struct {
	hash hash.Hash // the goroutine's while there is one
	made int
	free chan []byte // there is room for all that were made

	mu    sync.Mutex
	queue []*piece
	ended chan struct{} // closed when the goroutine ends; nil: there is none
}

func newSum() *sum { return &sum{hash: sha256.New(), free: make(chan []byte, Pieces)} }

// piece is a part of a file, which nobody changes while somebody has it: who hashes it, and who
// goes on with it.
type piece struct {
	data []byte
	by   atomic.Int32
	free chan<- []byte
}

// done is called once by each of those.
func (p *piece) done() {
	if p.by.Add(-1) == 0 {
		p.free <- p.data[:cap(p.data)]
	}
}

// buffer returns a buffer, which is to be given to take. It waits while all of them are in use.
func (s *sum) buffer() []byte {
	var buf []byte
	select {
	case buf = <-s.free:
	default:
		if s.made == Pieces {
			buf = <-s.free
			break
		}
		if s.made++; s.made == 1 {
			return make([]byte, firstPiece)
		}
	}
	if len(buf) < Piece {
		buf = make([]byte, Piece)
	}
	return buf
}

// take hashes the first n bytes of a buffer. What it returns must be done with.
func (s *sum) take(buf []byte, n int) *piece {
	p := &piece{data: buf[:n], free: s.free}
	p.by.Store(2)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended != nil:
		s.queue = append(s.queue, p)
	case n < aside:
		s.hash.Write(p.data)
		p.done()
	default:
		s.queue = append(s.queue, p)
		s.ended = make(chan struct{})
		go s.work(s.ended)
	}
	return p
}

// work hashes what waits.
func (s *sum) work(ended chan struct{}) {
	defer close(ended)
	for p := s.next(); p != nil; p = s.next() {
		s.hash.Write(p.data)
		p.done()
	}
}

// next returns the piece that waits for longest; without one the goroutine ends.
func (s *sum) next() *piece {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.ended = nil
		return nil
	}
	p := s.queue[0]
	s.queue = append(s.queue[:0], s.queue[1:]...)
	return p
}

// add hashes what follows. It does not keep b.
func (s *sum) add(b []byte) {
	for len(b) > 0 {
		buf := s.buffer()
		n := copy(buf, b)
		s.take(buf, n).done()
		b = b[n:]
	}
}

// copy hashes all that from has, while keep writes it.
func (s *sum) copy(keep io.Writer, from io.Reader) error {
	for {
		buf := s.buffer()
		n, err := fill(buf, from)
		p := s.take(buf, n)
		_, failed := keep.Write(p.data)
		p.done()
		switch {
		case failed != nil:
			return failed //nolint:wrapcheck // it is the writer's
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// fill reads until a buffer is full or from returns an error.
func fill(buf []byte, from io.Reader) (n int, err error) {
	for n < len(buf) && err == nil {
		var more int
		more, err = from.Read(buf[n:])
		n += more
	}
	return n, err //nolint:wrapcheck // it is the reader's, io.EOF above all
}

// wait returns when nothing waits any more.
func (s *sum) wait() {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// of returns the hash of everything that was added.
func (s *sum) of() [sha256.Size]byte {
	s.wait()
	return [sha256.Size]byte(s.hash.Sum(nil))
}
