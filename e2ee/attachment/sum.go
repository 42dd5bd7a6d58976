package attachment

import (
	"crypto/sha256"
	"hash"
)

// Piece is how much of a file is best read at a time, in bytes: what is large enough that
// neither calls of the system nor hand-overs count.
const Piece = 256 << 10

// aside is from how much on something is hashed beside whoever gave it, in bytes: less is done
// sooner than handed over.
const aside = 16 << 10

// sum takes the hash of a file, while whoever has the file goes on with it: hashing takes longer
// than all else that is done to a file, so that it is worth a processor of its own. One piece is
// hashed at a time, by a goroutine that ends with it and waits for nothing.
type sum struct {
	hash  hash.Hash
	piece []byte
	busy  chan struct{} // closed when the piece is hashed; nil: there is none
}

func newSum() *sum { return &sum{hash: sha256.New()} }

// add hashes what follows. It does not keep p.
func (s *sum) add(p []byte) {
	s.wait()
	if len(p) < aside {
		s.hash.Write(p)
		return
	}
	s.piece = append(s.piece[:0], p...)
	busy := make(chan struct{})
	s.busy = busy
	go func() {
		defer close(busy)
		s.hash.Write(s.piece)
	}()
}

func (s *sum) wait() {
	if s.busy != nil {
		<-s.busy
		s.busy = nil
	}
}

// of returns the hash of everything that was added.
func (s *sum) of() [sha256.Size]byte {
	s.wait()
	return [sha256.Size]byte(s.hash.Sum(nil))
}
