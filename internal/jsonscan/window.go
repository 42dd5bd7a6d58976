package jsonscan

import (
	"errors"
	"fmt"
	"io"
)

// MaxDepth is the deepest nesting that a scan follows. Deeper input is an error.
const MaxDepth = 1 << 20

// maxFrames bounds the nesting inside a cyclic graph of nodes, where a level costs a
// frame and not a bit.
const maxFrames = 1 << 10

const (
	defaultWindow  = 64 << 10
	defaultCapture = 1 << 20
	minWindow      = 16
)

// ErrDepth means that a body is nested more deeply than a scan follows.
var ErrDepth = errors.New("jsonscan: nested too deeply")

// SyntaxError means that the input is not JSON. It quotes nothing of the input.
type SyntaxError struct {
	Offset int64
	What   string // what was expected or found
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("jsonscan: %s at byte %d", e.What, e.Offset)
}

// scanner is one pass over one body. Indices named i are into b.
type scanner struct {
	r      io.Reader
	all    Whole  // nil: what was read is forgotten behind the window
	mem    []byte // the window
	b      []byte // its filled part: mem[:len(b)]; all that was read, without a window
	base   int64  // offset of b[0] in the body
	eof    bool
	max    int // MaxCapture
	window int // Window
	slow   bool

	depth  int      // containers open in skip
	bits   []uint64 // one bit for each of them: 1 is an object
	frames []frame  // containers open in walk
	first  [6]frame // the first frames, so that most scans need no others
	leaf   int64    // offset from which a value outside of frames is captured, or -1
	name   int64    // offset of the name being read, or -1

	wild     bool   // the value outside of frames that is being reported has a name of Any
	wildName []byte // the last name that an Any step met

	// What was noted in the current record: which notes there are, where it begins, whether they
	// are kept apart from it, and whether there were several of one.
	notes  [MaxNotes]note
	noted  uint32
	record int64
	apart  bool

	repeated bool

	guesses *guessTable // of the members of records; nil: none

	watch   watchedNames
	flagged uint64 // how many watched names were met

	visit func(*Value) error
	value Value
}

// Whole is a reader of a body that keeps what was read in one piece of memory, so that a scan needs no
// window over it.
type Whole interface {
	io.Reader
	// More reads once, and returns all that was read so far; what it returned before is not used any
	// more. It reports false, and has not read, if it does not keep what follows: then Read goes on,
	// and what was returned last is not used any more.
	More() (all []byte, whole bool, err error)
}

// fill reads more input behind the window and returns the new index of b[i]. At the end of
// the input it returns errEnd.
func (s *scanner) fill(i int) (int, error) {
	if s.eof {
		return i, errEnd
	}
	keep := s.keep(i)
	if s.all != nil {
		switch err := s.more(); {
		case errors.Is(err, errWindow):
			s.all, s.mem = nil, make([]byte, max(s.window, 2*(len(s.b)-keep)))
			s.b = s.mem[:copy(s.mem, s.b[keep:])]
			s.base += int64(keep)
			i, keep = i-keep, 0
		default:
			return i, err
		}
	}
	if free := cap(s.mem) - len(s.b); keep > 0 && free < cap(s.mem)/2 {
		n := copy(s.mem, s.b[keep:])
		s.b = s.mem[:n]
		s.base += int64(keep)
		i -= keep
	}
	if len(s.b) == cap(s.mem) {
		grown := make([]byte, 2*cap(s.mem))
		n := copy(grown, s.b)
		s.mem, s.b = grown, grown[:n]
	}
	for range 100 {
		n, err := s.r.Read(s.mem[len(s.b):cap(s.mem)])
		s.b = s.mem[:len(s.b)+n]
		if n > 0 || err != nil {
			return i, s.came(n, err)
		}
	}
	return i, io.ErrNoProgress
}

// more is fill without a window: nothing moves. It returns errWindow when there must be one.
func (s *scanner) more() error {
	for range 100 {
		all, whole, err := s.all.More()
		if !whole {
			return errWindow
		}
		n := len(all) - len(s.b)
		s.b = all
		if n > 0 || err != nil {
			return s.came(n, err)
		}
	}
	return io.ErrNoProgress
}

// came records that so many bytes were read, with an error of the reader.
func (s *scanner) came(n int, err error) error {
	s.eof = errors.Is(err, io.EOF)
	switch {
	case s.eof && n == 0:
		return errEnd
	case err != nil && !s.eof:
		return fmt.Errorf("jsonscan: read body: %w", err)
	}
	return nil
}

// errWindow is that the reader does not keep what follows.
var errWindow = errors.New("jsonscan: kept elsewhere")

// errEnd is the end of the input where more may follow; callers that need more turn it into
// a SyntaxError.
var errEnd = errors.New("jsonscan: end of input")

// keep returns the index from which the window must be kept. A capture that has outgrown
// the limit is dropped.
func (s *scanner) keep(i int) int {
	at := s.base + int64(i)
	end := s.base + int64(len(s.b))
	for f := range s.frames {
		fr := &s.frames[f]
		if !fr.pinned {
			continue
		}
		if end-fr.start > int64(s.max) {
			fr.pinned = false
			if fr.node.record {
				s.setApart()
			}
			continue
		}
		at = min(at, fr.start)
		break // the frames inside begin later
	}
	for _, p := range []*int64{&s.leaf, &s.name} {
		if *p < 0 {
			continue
		}
		if end-*p > int64(s.max) {
			*p = -1
			continue
		}
		at = min(at, *p)
	}
	return int(at - s.base)
}

// syntaxError returns the error for input that is wrong at index i.
func (s *scanner) syntaxError(i int, what string) error {
	return &SyntaxError{Offset: s.base + int64(i), What: what}
}

// mustFill is like fill, where the input must not end.
func (s *scanner) mustFill(i int) (int, error) {
	i, err := s.fill(i)
	if errors.Is(err, errEnd) {
		return i, s.syntaxError(i, "unexpected end")
	}
	return i, err
}

// at returns the byte at i if it is in the window, else 0. It is small enough to be
// inlined.
func (s *scanner) at(i int) byte {
	if i < len(s.b) {
		return s.b[i]
	}
	return 0
}

// space returns the index of the next byte that is not white space. Usually there is none
// to skip, so callers that must be fast look with at first.
func (s *scanner) space(i int) (int, error) {
	for {
		for b := s.b; i < len(b); i++ {
			switch b[i] {
			case ' ', '\n', '\r', '\t':
			default:
				return i, nil
			}
		}
		var err error
		if i, err = s.mustFill(i); err != nil {
			return i, err
		}
	}
}
