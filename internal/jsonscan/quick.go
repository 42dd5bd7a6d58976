package jsonscan

import (
	"encoding/binary"
	"math/bits"
)

// The quick way over a value that is in the window as a whole. It knows everything that is
// usual, and gives up on the rest: a value that goes on behind the window, an escape in a name,
// very deep nesting, and whatever is wrong. Then the value is read again in the slow way, which
// alone says what is an error.

// no is the result of the quick way when it gives up.
const no = -1

// quickRecord reads the record at i. It returns the index behind it and the number of its
// members.
func (s *scanner) quickRecord(i int, p *program) (end, count int) {
	flagged := s.flagged
	s.clearNotes(s.base + int64(i))
	if end, count = s.quickObject(s.b, i, i, 0, p); end < 0 {
		s.flagged = flagged
	}
	return end, count
}

// quick reads any value at i, and returns the index behind it.
func (s *scanner) quick(i int) int {
	flagged := s.flagged
	end := s.quickValue(s.b, i)
	if end < 0 {
		s.flagged = flagged
	}
	return end
}

// quickObject reads the object at i, in the record that begins at an index, by its program. It
// returns the index behind it and the number of its members.
func (s *scanner) quickObject(b []byte, i, record, level int, p *program) (end, count int) {
	for { // at i is the opening bracket, or the comma before a member
		var f *field
		var value int
		if g := s.guess(b, i, level, count, p); g != nil {
			f, value = g.field, quickSpace(b, i+g.size)
		} else {
			name := quickSpace(b, i+1)
			if name < 0 {
				return no, 0
			}
			if count == 0 && b[name] == '}' {
				return name + 1, 0
			}
			f, value = s.quickMember(b, i, name, level, count, p)
		}
		if value < 0 {
			return no, 0
		}
		count++
		switch {
		case b[value] == '"':
			i = quickString(b, value+1)
		case f != nil && f.into != nil && b[value] == '{':
			i, _ = s.quickObject(b, value, record, level+1, f.into)
		default:
			i = s.quickValue(b, value)
		}
		if i < 0 {
			return no, 0
		}
		if f != nil && f.note >= 0 {
			s.note(int(f.note), b[value], s.record+int64(value-record), s.record+int64(i-record))
		}
		if i = quickSpace(b, i); i < 0 {
			return no, 0
		}
		if b[i] == '}' {
			return i + 1, count
		}
		if b[i] != ',' {
			return no, 0
		}
	}
}

// quickMember reads the name at an index, of the member that begins at i, and the colon. It
// returns its field, if it has one, and the index of its value.
func (s *scanner) quickMember(b []byte, i, at, level, number int, p *program) (f *field, value int) {
	flagged := s.flagged
	value, first, n := s.quickName(b, at)
	if value < 0 {
		return nil, no
	}
	f = p.find(b, at+1, n, first)
	if size := value - i; size == n+4 && flagged == s.flagged { // without spaces, and not watched for
		s.learn(b, i, size, level, number, p, f)
	}
	return f, value
}

// find returns the field with the name of n bytes at i; first are the first eight of them.
func (p *program) find(b []byte, i, n int, first uint64) *field {
	if n > maxField {
		return nil
	}
	for k := int(p.from[n]); k < int(p.from[n+1]); k++ {
		if f := &p.fields[k]; f.first == first && (n <= 8 || string(b[i+8:i+n]) == f.rest) {
			return f
		}
	}
	return nil
}

// quickName reads the name at i and the colon. It returns the index of the value, the first
// eight bytes of the name, and how many it has.
func (s *scanner) quickName(b []byte, i int) (value int, first uint64, n int) {
	if b[i] != '"' {
		return no, 0, 0
	}
	i++
	if i+8 <= len(b) {
		first = binary.LittleEndian.Uint64(b[i:])
	} else {
		first = lastWord(b, i)
	}
	if hit := ends(first); hit != 0 {
		n = bits.TrailingZeros64(hit) >> 3
		first &= 1<<(8*n) - 1
	} else if n = 8; i+16 <= len(b) {
		if hit = ends(binary.LittleEndian.Uint64(b[i+8:])); hit != 0 {
			n += bits.TrailingZeros64(hit) >> 3
		} else {
			n = plain(b, i+16) - i
		}
	} else {
		n = plain(b, i+8) - i
	}
	end := i + n
	if end >= len(b) || b[end] != '"' {
		return no, 0, 0
	}
	if s.watch.on && s.watch.sizes[first&0xff]>>min(n, 63)&1 == 1 && s.watch.hit(b[i:end], false) {
		s.flagged++
	}
	if i = end + 1; i < len(b) && b[i] != ':' {
		i = quickSpace(b, i)
	}
	if uint(i) >= uint(len(b)) || b[i] != ':' {
		return no, 0, 0
	}
	return quickSpace(b, i+1), first, n
}

// lastWord returns the last bytes of b, from i on, and zeros.
func lastWord(b []byte, i int) (w uint64) {
	for k := 0; i+k < len(b); k++ {
		w |= uint64(b[i+k]) << (8 * k)
	}
	return w
}

// ends returns a word whose lowest set bit is the high bit of the first byte of w that ends a run
// of ordinary string bytes, see plain; zero when none does.
func ends(w uint64) uint64 {
	quote := w ^ ('"' * ones)
	slash := w ^ ('\\' * ones)
	return (((quote - ones) &^ quote) | ((slash - ones) &^ slash) | ((w - ' '*ones) &^ w)) & highs
}

// quickString reads a string from behind its opening quote, and returns the index behind the
// closing one.
func quickString(b []byte, i int) int {
	for {
		for i+8 <= len(b) {
			if hit := ends(binary.LittleEndian.Uint64(b[i:])); hit != 0 {
				i += bits.TrailingZeros64(hit) >> 3
				goto special
			}
			i += 8
		}
		for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' ' {
			i++
		}
	special:
		if i >= len(b) {
			return no
		}
		if b[i] == '"' {
			return i + 1
		}
		if i = quickEscape(b, i); i < 0 {
			return no
		}
	}
}

// quickEscape reads an escape sequence from its backslash on.
func quickEscape(b []byte, i int) int {
	if b[i] != '\\' || i+2 > len(b) {
		return no
	}
	switch b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		if i+6 <= len(b) && isHex(b[i+2]) && isHex(b[i+3]) && isHex(b[i+4]) && isHex(b[i+5]) {
			return i + 6
		}
	}
	return no
}

// quickSpace returns the index of the next byte that is not white space.
func quickSpace(b []byte, i int) int {
	if i < len(b) && b[i] > ' ' {
		return i
	}
	return skipSpace(b, i)
}

func skipSpace(b []byte, i int) int {
	for ; i < len(b); i++ {
		switch b[i] {
		case ' ', '\n', '\r', '\t':
		default:
			return i
		}
	}
	return no
}

// quickValue reads any value. It keeps one bit for each level of nesting.
func (s *scanner) quickValue(b []byte, i int) int {
	objects, depth := uint64(0), 0
	for {
		switch c := b[i]; c {
		case '"':
			i = quickString(b, i+1)
		case '{', '[':
			inner := quickSpace(b, i+1)
			if inner < 0 || depth == 64 {
				return no
			}
			if i = inner; b[i] == c+2 { // it is empty
				i++
				break
			}
			objects, depth = objects<<1|uint64(c>>5&1), depth+1
			if c == '{' {
				i, _, _ = s.quickName(b, i)
			}
			if i < 0 {
				return no
			}
			continue
		default:
			i = quickScalar(b, i)
		}
		for i >= 0 && depth > 0 {
			if i = quickSpace(b, i); i < 0 {
				return no
			}
			if b[i] == ',' {
				if i = quickSpace(b, i+1); i >= 0 && objects&1 == 1 {
					i, _, _ = s.quickName(b, i)
				}
				break
			}
			if b[i] != ']'|byte(objects&1<<5) {
				return no
			}
			objects, depth, i = objects>>1, depth-1, i+1
		}
		if i < 0 || depth == 0 {
			return i
		}
	}
}

// quickScalar reads a number, true, false or null.
func quickScalar(b []byte, i int) int {
	switch {
	case b[i] == 't' && i+4 <= len(b) && string(b[i:i+4]) == "true",
		b[i] == 'n' && i+4 <= len(b) && string(b[i:i+4]) == "null":
		return i + 4
	case b[i] == 'f' && i+5 <= len(b) && string(b[i:i+5]) == "false":
		return i + 5
	case b[i] == '-':
		i++
	}
	first := i
	if i = quickDigits(b, i); i < 0 || b[first] == '0' && i > first+1 {
		return no
	}
	if b[i] == '.' {
		if i = quickDigits(b, i+1); i < 0 {
			return no
		}
	}
	if b[i]|0x20 != 'e' {
		return i
	}
	if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
		i++
	}
	return quickDigits(b, i)
}

// quickDigits reads one digit or more. Something must follow.
func quickDigits(b []byte, i int) int {
	first := i
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	if i == first || i == len(b) {
		return no
	}
	return i
}
