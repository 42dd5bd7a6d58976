package jsonscan

import (
	"errors"
	"io"
)

// Options are the limits of a scan. Zero fields have the defaults named here.
type Options struct {
	// Window is the size in bytes of the window over the input: 64 KiB.
	Window int
	// MaxCapture is the size in bytes above which a value's bytes are not reported: 1 MiB.
	MaxCapture int
	// Watch are names of members to watch for everywhere; one that ends in * stands for all
	// with that prefix. See [Value.Flagged].
	Watch []string

	slow bool // the quick way is not taken
}

// Value is a value that a scan reports at its end, so the values inside a container come
// before the container. It is valid during the call only.
type Value struct {
	ID int // from [Node.Report]
	// Kind is the first byte of the value: one of { [ " t f n - and the digits.
	Kind byte
	// Start and End are the offsets of the value's first byte and of the byte behind it.
	Start, End int64
	// Member is the offset of the name's opening quote when the value is a member of an
	// object, else -1.
	Member int64
	// Sep is the offset of the comma before the value (or its name); -1 for the first.
	Sep int64
	// Index counts the values before this one in its container.
	Index int
	// Inside is the offset behind the opening bracket of the value's container.
	Inside int64
	// Count is the number of elements or members of a container whose node leads
	// somewhere, else 0.
	Count int
	// Raw are the bytes of the value when its node captures and they are not more than
	// Options.MaxCapture, else nil.
	Raw []byte
	// Flagged reports whether a watched name occurs somewhere inside the value or (rarely,
	// when the value is not captured) may occur.
	Flagged bool

	s *scanner
}

// Name returns the n-th name, from the outermost, that an [Any] step met on the way to the
// value, without escapes; nil when there are fewer.
func (v *Value) Name(n int) []byte {
	for i := range v.s.frames {
		if f := &v.s.frames[i]; f.wild {
			if n == 0 {
				return notNil(f.name)
			}
			n--
		}
	}
	if v.s.wild && n == 0 {
		return notNil(v.s.wildName)
	}
	return nil
}

// notNil makes a nil name an empty one, since nil means that there is none.
func notNil(name []byte) []byte {
	if name == nil {
		return []byte{}
	}
	return name
}

// Scan reads one JSON document from r, to the end of r, and calls visit for each value that
// the graph under root reports. A reader that is [Whole] is asked for all that was read. An error of visit ends the scan. It returns the number of
// bytes read as part of the document or white space around it.
func Scan(r io.Reader, root *Node, opt Options, visit func(*Value) error) (int64, error) {
	if opt.Window == 0 {
		opt.Window = defaultWindow
	}
	if opt.MaxCapture == 0 {
		opt.MaxCapture = defaultCapture
	}
	s := &scanner{r: r, window: max(opt.Window, minWindow), max: opt.MaxCapture, guesses: new(guessTable)}
	if s.all, _ = r.(Whole); s.all == nil {
		s.mem = make([]byte, s.window)
		s.b = s.mem[:0]
	}
	return s.document(root, opt, visit)
}

// ScanBytes is like [Scan], for a document in memory. Nothing is too large to be captured.
func ScanBytes(data []byte, root *Node, opt Options, visit func(*Value) error) error {
	s := &scanner{mem: data, b: data, eof: true, max: len(data)}
	_, err := s.document(root, opt, visit)
	return err
}

func (s *scanner) document(root *Node, opt Options, visit func(*Value) error) (int64, error) {
	s.leaf, s.name, s.watch, s.visit = -1, -1, newWatchList(opt.Watch), visit
	s.frames, s.slow = s.first[:0], opt.slow
	i, err := s.space(0)
	if err != nil {
		return s.base + int64(i), err
	}
	if i, err = s.walk(i, root); err != nil {
		return s.base + int64(i), err
	}
	i, err = s.rest(i)
	return s.base + int64(i), err
}

// rest reads to the end of the input, where only white space may be.
func (s *scanner) rest(i int) (int, error) {
	for {
		if more := skipSpace(s.b, i); more >= 0 {
			return more, s.syntaxError(more, "more than one value")
		}
		var err error
		if i, err = s.fill(len(s.b)); err != nil {
			if errors.Is(err, errEnd) {
				err = nil
			}
			return i, err
		}
	}
}
