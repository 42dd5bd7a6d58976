package jsonscan

import "encoding/binary"

// Objects in a list mostly have the same members in the same order. So what a member of a record
// began with, from the bracket or comma before it to its colon, is remembered by its place, and
// where the next object has the same bytes there its name is not read again: the same bytes have
// the same meaning. It is exact; a wrong guess costs a comparison.

const (
	// maxGuess is how many bytes are compared.
	maxGuess = 24
	// guessedMembers is how many members of an object are guessed.
	guessedMembers = 16
)

// guess is the beginning of a member in a program.
type guess struct {
	words, masks [maxGuess / 8]uint64
	program      *program
	field        *field
	size         int
}

// guesses are those of one place. Two kinds of objects often take turns.
type guesses struct {
	ways [2]guess
	next uint8 // which of them is replaced
}

// guessTable has the guesses of a scan, by how deep in a record a member is and by its number.
type guessTable [maxLevels][guessedMembers]guesses

// guess returns what the member begins with that begins at i, if it was guessed; otherwise nil.
func (s *scanner) guess(b []byte, i, level, number int, p *program) *guess {
	if s.guesses == nil || number >= guessedMembers || i+maxGuess > len(b) {
		return nil
	}
	w := b[i : i+maxGuess : i+maxGuess]
	w0, w1, w2 := binary.LittleEndian.Uint64(w), binary.LittleEndian.Uint64(w[8:]), binary.LittleEndian.Uint64(w[16:])
	at := &s.guesses[level][number]
	for k := range at.ways {
		g := &at.ways[k]
		if g.program == p && (w0&g.masks[0]^g.words[0])|(w1&g.masks[1]^g.words[1])|(w2&g.masks[2]^g.words[2]) == 0 {
			return g
		}
	}
	return nil
}

// learn remembers what a member begins with. There are only so many bytes of it.
func (s *scanner) learn(b []byte, i, size, level, number int, p *program, f *field) {
	if s.guesses == nil || size > maxGuess || number >= guessedMembers {
		return
	}
	at := &s.guesses[level][number]
	g := &at.ways[at.next]
	at.next ^= 1
	var bytes, ones [maxGuess]byte
	for k := range size {
		bytes[k], ones[k] = b[i+k], 0xff
	}
	for k := range g.words {
		g.words[k], g.masks[k] = binary.LittleEndian.Uint64(bytes[8*k:]), binary.LittleEndian.Uint64(ones[8*k:])
	}
	g.program, g.field, g.size = p, f, size
}
