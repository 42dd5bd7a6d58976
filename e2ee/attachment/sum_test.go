package attachment

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// places keeps what comes in its memory, and the rest elsewhere.
type places struct {
	mem  []byte
	done int
	bytes.Buffer
}

func (p *places) InPlace() []byte {
	if p.done == len(p.mem) {
		return nil
	}
	return p.mem[p.done:]
}

func (p *places) Wrote(n int) []byte {
	p.done += n
	return nil
}

func (p *places) all() []byte { return append(p.mem[:p.done:p.done], p.Bytes()...) }

// What is kept in place is hashed there, and what has no place beside it; what breaks off in either is not
// whole, and nobody looks at the place any more when that is said.
func TestCheckInPlace(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, Piece, Piece + 1, 12*Piece + 5} {
		want := bytesOf(n)
		f := File{Key: Key{Hash: sha256.Sum256(want)}}
		for _, room := range []int{1, Piece - 1, 3 * Piece, n, n + 1, n + Piece} {
			for name, from := range map[string]io.Reader{"whole": bytes.NewReader(want), "halves": iotest.HalfReader(bytes.NewReader(want)), "with its end": iotest.DataErrReader(bytes.NewReader(want))} {
				check, kept := NewCheck(), &places{mem: make([]byte, room)}
				if err := check.Copy(kept, from); err != nil || !check.Fits(&f) || !bytes.Equal(kept.all(), want) {
					t.Errorf("%d bytes, room for %d, %s: %v, %d are kept", n, room, name, err, len(kept.all()))
				}
			}
			check, kept := NewCheck(), &places{mem: make([]byte, room)}
			err := check.Copy(kept, io.MultiReader(bytes.NewReader(want), iotest.ErrReader(io.ErrUnexpectedEOF)))
			clear(kept.mem) // a race if it is still looked at
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d bytes, room for %d, and no end: %v", n, room, err)
			}
		}
	}
}
