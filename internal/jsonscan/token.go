package jsonscan

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// plain returns the index of the first byte at or after i that ends a run of ordinary
// string bytes (a quote, a backslash or a control character), or len(b). It looks at eight
// bytes at a time: (x-ones)&^x has the high bit of the lowest zero byte of x set, and
// nothing below it.
func plain(b []byte, i int) int {
	for i+8 <= len(b) {
		if hit := ends(binary.LittleEndian.Uint64(b[i:])); hit != 0 {
			return i + bits.TrailingZeros64(hit)>>3
		}
		i += 8
	}
	for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' ' {
		i++
	}
	return i
}

// str reads a string from behind its opening quote and returns the index behind the closing
// one, and whether it has escapes.
func (s *scanner) str(i int) (end int, escaped bool, err error) {
	for {
		i = plain(s.b, i)
		if i == len(s.b) {
			if i, err = s.mustFill(i); err != nil {
				return i, escaped, err
			}
			continue
		}
		switch s.b[i] {
		case '"':
			return i + 1, escaped, nil
		case '\\':
			escaped = true
			if i, err = s.escape(i); err != nil {
				return i, escaped, err
			}
		default:
			return i, escaped, s.syntaxError(i, "control character in a string")
		}
	}
}

// escape reads an escape sequence from its backslash on.
func (s *scanner) escape(i int) (int, error) {
	i, err := s.need(i, 2)
	if err != nil {
		return i, err
	}
	switch s.b[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2, nil
	case 'u':
		if i, err = s.need(i, 6); err != nil {
			return i, err
		}
		for _, c := range s.b[i+2 : i+6] {
			if !isHex(c) {
				return i, s.syntaxError(i, "invalid escape sequence")
			}
		}
		return i + 6, nil
	}
	return i, s.syntaxError(i, "invalid escape sequence")
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

// need makes sure that n bytes from i on are in the window.
func (s *scanner) need(i, n int) (int, error) {
	for len(s.b)-i < n {
		var err error
		if i, err = s.mustFill(i); err != nil {
			return i, err
		}
	}
	return i, nil
}

// literal reads true, false or null.
func (s *scanner) literal(i int) (int, error) {
	word := "null"
	switch s.b[i] {
	case 't':
		word = "true"
	case 'f':
		word = "false"
	}
	i, err := s.need(i, len(word))
	if err != nil {
		return i, err
	}
	if string(s.b[i:i+len(word)]) != word {
		return i, s.syntaxError(i, "invalid literal")
	}
	return i + len(word), nil
}

// peek returns the byte at i, or 0 at the end of the input. (A NUL in the input is wrong
// wherever peek is used.)
func (s *scanner) peek(i int) (int, byte, error) {
	if i < len(s.b) {
		return i, s.b[i], nil
	}
	i, err := s.fill(i)
	if errors.Is(err, errEnd) {
		return i, 0, nil
	}
	if err != nil {
		return i, 0, err
	}
	return i, s.b[i], nil
}

// number reads a number by the grammar of RFC 8259 §6.
func (s *scanner) number(i int) (int, error) {
	i, c, err := s.peek(i)
	if err != nil {
		return i, err
	}
	if c == '-' {
		if i, c, err = s.peek(i + 1); err != nil {
			return i, err
		}
	}
	switch {
	case c == '0':
		i++
	case '1' <= c && c <= '9':
		if i, err = s.digits(i); err != nil {
			return i, err
		}
	default:
		return i, s.syntaxError(i, "invalid value")
	}
	if i, c, err = s.peek(i); err != nil {
		return i, err
	}
	if c == '.' {
		if i, err = s.digits(i + 1); err != nil {
			return i, err
		}
		if i, c, err = s.peek(i); err != nil {
			return i, err
		}
	}
	if c|0x20 != 'e' {
		return i, nil
	}
	if i, c, err = s.peek(i + 1); err != nil {
		return i, err
	}
	if c == '+' || c == '-' {
		i++
	}
	return s.digits(i)
}

// digits reads one digit or more.
func (s *scanner) digits(i int) (int, error) {
	for n := 0; ; n++ {
		for b := s.b; i < len(b) && '0' <= b[i] && b[i] <= '9'; i++ {
			n++
		}
		var c byte
		var err error
		if i, c, err = s.peek(i); err != nil {
			return i, err
		}
		if c < '0' || '9' < c {
			if n == 0 {
				return i, s.syntaxError(i, "invalid number")
			}
			return i, nil
		}
		i++
	}
}
