package jsonscan

import (
	"math/bits"
	"slices"
	"strings"
)

// MaxNotes is how many places inside a record can be noted.
const MaxNotes = 16

// maxHeld is the largest value, in bytes, that is kept of a record that is not captured.
const maxHeld = 64 << 10

// Noted is a value inside a record, at a node with a [Node.Note]. Of several the last counts.
type Noted struct {
	Count int  // how many there were
	Kind  byte // the first byte of the last one
	// At is the offset of the last one in its record.
	At int64
	// Raw are the bytes of the last one; nil when there is none, or the record is not captured
	// and it is large. They are valid as long as those of the record.
	Raw []byte
}

// Noted returns what was noted at a node in the record that the value is. n is that of the note.
func (v *Value) Noted(n int) Noted {
	if v.s.noted>>n&1 == 0 {
		return Noted{}
	}
	return v.note(n)
}

func (v *Value) note(n int) Noted {
	s := v.s
	at := &s.notes[n]
	switch {
	case s.apart:
		return Noted{at.count, at.kind, at.from, at.held}
	case v.Raw == nil: // it is no record
		return Noted{}
	}
	return Noted{at.count, at.kind, at.from, v.Raw[at.from:at.to:at.to]}
}

// Peek returns the kind and the bytes of what was noted at a node, see [Value.Noted]; zero when
// there is nothing.
func (v *Value) Peek(n int) (kind byte, raw []byte) {
	s := v.s
	switch at := &s.notes[n]; {
	case s.noted>>n&1 == 0:
		return 0, nil
	case s.apart:
		return at.kind, at.held
	case v.Raw == nil: // it is no record
		return 0, nil
	default:
		return at.kind, v.Raw[at.from:at.to:at.to]
	}
}

// PeekEnd returns the last byte of a string that was noted at a node; zero when there is none, or
// it is empty.
func (v *Value) PeekEnd(n int) byte {
	kind, raw := v.Peek(n)
	if kind != '"' || len(raw) <= 2 {
		return 0
	}
	return raw[len(raw)-2]
}

// Times returns how often something was noted at a node.
func (v *Value) Times(n int) int {
	if s := v.s; s.noted>>n&1 == 1 && (s.apart || v.Raw != nil) {
		return s.notes[n].count
	}
	return 0
}

// Repeated reports whether something was noted more than once in the record that the value is.
func (v *Value) Repeated() bool { return v.s.repeated }

// note is a value that was noted.
type note struct {
	from, to int64 // in the record
	count    int
	kind     byte
	held     []byte // its bytes, when the record is not captured
}

// clearNotes begins a record at an offset.
func (s *scanner) clearNotes(start int64) {
	s.noted, s.record, s.apart, s.repeated = 0, start, false, false
}

// note notes a value that begins at an offset, of which nothing else is kept.
func (s *scanner) note(n int, kind byte, start, end int64) *note {
	at := &s.notes[n]
	if bit := uint32(1) << n; s.noted&bit == 0 {
		s.noted |= bit
		at.count = 0
	} else {
		s.repeated = true
	}
	at.count++
	at.kind, at.from, at.to = kind, start-s.record, end-s.record
	return at
}

// noteSingle notes a value that ends before index i, and is in the window unless it is too large.
func (s *scanner) noteSingle(n, i int, kind byte, start int64) {
	at := s.note(n, kind, start, s.base+int64(i))
	if !s.apart {
		return
	}
	at.held = nil
	if s.leaf >= 0 {
		s.hold(at)
	}
}

// setApart keeps what was noted apart from the record, whose bytes leave the window.
func (s *scanner) setApart() {
	s.apart = true
	for left := s.noted; left != 0; left &= left - 1 {
		at := &s.notes[bits.TrailingZeros32(left)]
		at.held = nil
		s.hold(at)
	}
}

func (s *scanner) hold(at *note) {
	if at.to-at.from <= min(maxHeld, int64(s.max)) {
		at.held = slices.Clone(s.b[s.record+at.from-s.base : s.record+at.to-s.base])
	}
}

// program is what is looked at inside a record, or an object in it, ready for the quick way.
type program struct {
	fields []field
	// from is where the fields begin whose names have so many bytes.
	from [maxField + 2]uint8
	// stale is set when a node was changed afterwards.
	stale bool
}

// maxField is the longest name in a program, in bytes.
const maxField = 31

// field is a member that is looked at.
type field struct {
	first uint64 // the first eight bytes of its name
	rest  string // the others
	note  int8   // -1: none
	into  *program
}

const (
	maxLevels = 4
	maxFields = 100
)

// compile returns the program of a node; nil when there is something in its graph that only the
// slow way can do.
func compile(n *Node, levels int) *program {
	if levels == 0 || n.any != nil || n.elem != nil || len(n.prefix) > 0 || len(n.exact) > maxFields {
		return nil
	}
	members := slices.Clone(n.exact)
	slices.SortStableFunc(members, func(a, b member) int { return len(a.name) - len(b.name) })
	p := &program{}
	for _, m := range members {
		if len(m.name) > maxField || strings.Contains(m.name, "\x00") || m.node.report {
			return nil
		}
		f := field{note: -1}
		for i := range min(len(m.name), 8) {
			f.first |= uint64(m.name[i]) << (8 * i)
		}
		f.rest = m.name[min(len(m.name), 8):]
		switch {
		case m.node.noted && m.node.leaf():
			f.note = int8(m.node.note)
		case m.node.noted:
			return nil
		case !m.node.leaf():
			if f.into = compile(m.node, levels-1); f.into == nil {
				return nil
			}
		}
		p.fields = append(p.fields, f)
		for after := len(m.name) + 1; after < len(p.from); after++ {
			p.from[after]++
		}
	}
	return p
}

// claim makes changes of the nodes that a program was made of known to it.
func (p *program) claim(n *Node) {
	n.programs = append(n.programs, p)
	for _, m := range n.exact {
		p.claim(m.node)
	}
}
