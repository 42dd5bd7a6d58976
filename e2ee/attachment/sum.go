package attachment

import (
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"
)

// Piece is how much of a file is best read at a time, in bytes: what is large enough that
// neither calls of the system nor hand-overs count.
const Piece = 256 << 10

const (
	// firstPiece is how much is read first: most files are no larger.
	firstPiece = 32 << 10
	// aside is from how much on something is hashed beside whoever gave it, in bytes: less is done
	// sooner than handed over.
	aside = 16 << 10
	// waiting is how many pieces may wait for their hash, so that neither who hashes nor who has the
	// file stands still when the system takes the processor from the other for a moment.
	waiting = 6
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
	queue [][]byte
	ended chan struct{} // closed when the goroutine ends; nil: there is none
}

func newSum() *sum { return &sum{hash: sha256.New(), free: make(chan []byte, waiting)} }

// buffer returns a buffer, which is to be given to take. It waits while all of them are hashed.
func (s *sum) buffer() []byte {
	var buf []byte
	select {
	case buf = <-s.free:
	default:
		if s.made == waiting {
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

// take hashes the first n bytes of a buffer, which nobody may change until it is returned again.
func (s *sum) take(buf []byte, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, buf[:n])
	if s.ended == nil {
		s.ended = make(chan struct{})
		go s.work(s.ended)
	}
}

// work hashes what waits.
func (s *sum) work(ended chan struct{}) {
	defer close(ended)
	for {
		piece, ok := s.next()
		if !ok {
			return
		}
		s.hash.Write(piece)
		s.free <- piece[:cap(piece)]
	}
}

// next returns the piece that waits for longest; without one the goroutine ends.
func (s *sum) next() (piece []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.ended = nil
		return nil, false
	}
	piece = s.queue[0]
	s.queue = append(s.queue[:0], s.queue[1:]...)
	return piece, true
}

// add hashes what follows. It does not keep p.
func (s *sum) add(p []byte) {
	if len(p) < aside {
		s.wait()
		s.hash.Write(p)
		return
	}
	for len(p) > 0 {
		buf := s.buffer()
		n := copy(buf, p)
		s.take(buf, n)
		p = p[n:]
	}
}

// copy hashes all that from has, while keep writes it.
func (s *sum) copy(keep io.Writer, from io.Reader) error {
	for {
		buf := s.buffer()
		n, err := fill(buf, from)
		s.take(buf, n)
		if _, failed := keep.Write(buf[:n]); failed != nil {
			return failed //nolint:wrapcheck // it is the writer's
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
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
