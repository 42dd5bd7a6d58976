package attachment

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"e2ee-proxy/internal/spool"
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
	fault error         // what a disk that failed did to the hash
}

func newSum() *sum { return &sum{hash: sha256.New(), free: make(chan []byte, Pieces)} }

// piece is a part of a file, which nobody changes while somebody has it: who hashes it, and who
// goes on with it.
type piece struct {
	data []byte
	by   atomic.Int32
	free chan<- []byte // nil: it is not in a buffer
}

// done is called once by each of those.
func (p *piece) done() {
	if p.by.Add(-1) == 0 && p.free != nil {
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
	s.give(p)
	return p
}

// give hashes a piece.
func (s *sum) give(p *piece) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended != nil:
		s.queue = append(s.queue, p)
	case len(p.data) < aside && p.free != nil:
		s.hash.Write(p.data)
		p.done()
	default:
		s.queue = append(s.queue, p)
		s.ended = make(chan struct{})
		go s.work(s.ended)
	}
}

// work hashes what waits.
func (s *sum) work(ended chan struct{}) {
	defer close(ended)
	var fault error
	for p := s.next(fault); p != nil; p = s.next(fault) {
		if err := spool.Guard(func() { s.hash.Write(p.data) }); err != nil {
			fault = err
		}
		p.done()
	}
}

// next returns the piece that waits for longest; without one the goroutine ends. fault is what happened
// so far.
func (s *sum) next(fault error) *piece {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = cmp.Or(s.fault, fault)
	if len(s.queue) == 0 {
		s.ended = nil
		return nil
	}
	p := s.queue[0]
	s.queue = append(s.queue[:0], s.queue[1:]...)
	return p
}

// fails says that the hash is of nothing.
func (s *sum) fails(fault error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = cmp.Or(s.fault, fault)
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

// inPlace is a writer with memory where what follows is kept, see [spool.Spool.InPlace].
type inPlace interface {
	InPlace() []byte
	Wrote(n int) []byte
}

// copy hashes all that from has, while keep writes it.
func (s *sum) copy(keep io.Writer, from io.Reader) error {
	if place, ok := keep.(inPlace); ok {
		if end, err := s.copyInPlace(place, from); end || err != nil {
			return err
		}
	}
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

// copyInPlace is copy as far as keep has memory, and reports whether that was all. It is not used any
// more afterwards.
func (s *sum) copyInPlace(keep inPlace, from io.Reader) (end bool, err error) {
	defer func() {
		s.wait()
		if err == nil {
			err = s.fault
		}
	}()
	for room := keep.InPlace(); room != nil; room = keep.InPlace() {
		room = room[:min(len(room), Piece)]
		var n int
		var failed error
		if err := spool.Guard(func() { n, failed = fill(room, from) }); err != nil {
			s.fails(err)
			return false, err
		}
		keep.Wrote(n)
		p := &piece{data: room[:n]}
		p.by.Store(1)
		s.give(p)
		switch {
		case errors.Is(failed, io.EOF):
			return true, nil
		case failed != nil:
			return false, failed
		}
	}
	return false, nil
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
