package strictjson

import (
	"encoding/binary"
	"unicode/utf8"
)

// Nearly all objects are read here, in one pass without allocations but for the result. What is
// out of the ordinary is left to jsontext, which also says what is wrong: deep or wide objects,
// names with escapes, surrogates, and everything malformed. So this must take nothing that jsontext
// refuses, and need not take all that it accepts.
const (
	quickDepth = 12
	quickWidth = 24      // members of the object
	quickNames = 48      // members that are open at a time
	quickSize  = 1 << 30 // bytes
)

// quick reads an object; ok is false if jsontext must.
func quick(raw []byte) (obj Object, ok bool) {
	if len(raw) > quickSize {
		return nil, false
	}
	s := scanner{raw: raw}
	s.space()
	if !s.next('{') || !s.members(quickDepth) {
		return nil, false
	}
	n := s.open
	s.space()
	if s.at != len(raw) {
		return nil, false
	}
	obj = make(Object, n, n+2) // often members are added to it
	for i := range obj {
		name, value := s.names[i], s.values[i]
		obj[i] = Member{nameOf(raw[name.from:name.to]), raw[value.from:value.to:value.to]}
	}
	return obj, true
}

// scanner reads text from at on. Its methods return false where it must not go on.
type scanner struct {
	raw []byte
	at  int

	// names are those of the object that is read, behind those of the objects around it; values
	// are those of the outermost one.
	names  [quickNames]span
	open   int
	values [quickWidth]span
}

// span is a part of the text.
type span struct{ from, to int32 }

func (s *scanner) space() {
	for s.at < len(s.raw) {
		switch s.raw[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// next reads one character.
func (s *scanner) next(c byte) bool {
	if s.at == len(s.raw) || s.raw[s.at] != c {
		return false
	}
	s.at++
	return true
}

// members reads an object behind its first brace. Of the outermost one the names stay.
func (s *scanner) members(depth int) bool {
	first := s.open
	s.space()
	if s.next('}') {
		return true
	}
	for {
		s.space()
		start := s.at
		if plain, ok := s.text(); !ok || !plain || !s.name(first, span{int32(start + 1), int32(s.at - 1)}) {
			return false
		}
		s.space()
		if !s.next(':') {
			return false
		}
		s.space()
		start = s.at
		if !s.value(depth - 1) {
			return false
		}
		if depth == quickDepth {
			if s.open > quickWidth {
				return false
			}
			s.values[s.open-1] = span{int32(start), int32(s.at)}
		}
		s.space()
		if s.next('}') {
			if depth != quickDepth {
				s.open = first
			}
			return true
		}
		if !s.next(',') {
			return false
		}
	}
}

// name adds a name to those of the object, which has those from first on. It returns false if it
// is there already.
func (s *scanner) name(first int, name span) bool {
	if s.open == quickNames {
		return false
	}
	for _, other := range s.names[first:s.open] {
		if other.to-other.from == name.to-name.from &&
			string(s.raw[other.from:other.to]) == string(s.raw[name.from:name.to]) {
			return false
		}
	}
	s.names[s.open] = name
	s.open++
	return true
}

// value reads a value that begins here.
func (s *scanner) value(depth int) bool {
	if s.at == len(s.raw) || depth == 0 {
		return false
	}
	switch s.raw[s.at] {
	case '"':
		_, ok := s.text()
		return ok
	case '{':
		s.at++
		return s.members(depth)
	case '[':
		s.at++
		return s.elements(depth)
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	}
	return s.number()
}

// elements reads an array behind its first bracket.
func (s *scanner) elements(depth int) bool {
	s.space()
	if s.next(']') {
		return true
	}
	for {
		s.space()
		if !s.value(depth - 1) {
			return false
		}
		s.space()
		if s.next(']') {
			return true
		}
		if !s.next(',') {
			return false
		}
	}
}

func (s *scanner) literal(word string) bool {
	if len(s.raw)-s.at < len(word) || string(s.raw[s.at:s.at+len(word)]) != word {
		return false
	}
	s.at += len(word)
	return true
}

func (s *scanner) number() bool {
	s.next('-')
	if !s.next('0') && !s.digits() {
		return false
	}
	if s.next('.') && !s.digits() {
		return false
	}
	if s.next('e') || s.next('E') {
		if !s.next('-') {
			s.next('+')
		}
		return s.digits()
	}
	return true
}

// digits reads one digit or more.
func (s *scanner) digits() bool {
	start := s.at
	for s.at < len(s.raw) && '0' <= s.raw[s.at] && s.raw[s.at] <= '9' {
		s.at++
	}
	return s.at > start
}

// text reads a string. It is plain if nothing is escaped in it.
func (s *scanner) text() (plain, ok bool) {
	if !s.next('"') {
		return false, false
	}
	plain = true
	for {
		s.skipOrdinary()
		if s.at == len(s.raw) {
			return false, false
		}
		switch c := s.raw[s.at]; {
		case c == '"':
			s.at++
			return plain, true
		case c == '\\':
			plain = false
			if !s.escape() {
				return false, false
			}
		case c < ' ':
			return false, false
		case c < utf8.RuneSelf:
			s.at++
		default:
			_, size := utf8.DecodeRune(s.raw[s.at:])
			if size == 1 {
				return false, false
			}
			s.at += size
		}
	}
}

// skipOrdinary skips characters eight at a time that are ASCII and need no look: no quotes,
// backslashes or control characters. It may stop before others too.
func (s *scanner) skipOrdinary() {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for len(s.raw)-s.at >= 8 {
		x := binary.LittleEndian.Uint64(s.raw[s.at:])
		quote, backslash := x^('"'*ones), x^('\\'*ones)
		special := (x - ' '*ones) | (quote - ones) | (backslash - ones) | x
		if special&high != 0 {
			return
		}
		s.at += 8
	}
}

// escape reads an escape sequence, but for surrogates.
func (s *scanner) escape() bool {
	if len(s.raw)-s.at < 2 {
		return false
	}
	switch s.raw[s.at+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.at += 2
		return true
	case 'u':
	default:
		return false
	}
	if len(s.raw)-s.at < 6 {
		return false
	}
	code := 0
	for _, c := range s.raw[s.at+2 : s.at+6] {
		switch {
		case '0' <= c && c <= '9':
			code = code<<4 | int(c-'0')
		case 'a' <= c && c <= 'f':
			code = code<<4 | int(c-'a'+10)
		case 'A' <= c && c <= 'F':
			code = code<<4 | int(c-'A'+10)
		default:
			return false
		}
	}
	s.at += 6
	return code < 0xd800 || code > 0xdfff
}

// nameOf returns a name, without an allocation if it is one of those that most objects have.
func nameOf(name []byte) string {
	switch string(name) {
	case "type":
		return "type"
	case "content":
		return "content"
	case "event_id":
		return "event_id"
	case "origin_server_ts":
		return "origin_server_ts"
	case "sender":
		return "sender"
	case "room_id":
		return "room_id"
	case "unsigned":
		return "unsigned"
	case "state_key":
		return "state_key"
	case "age":
		return "age"
	case "transaction_id":
		return "transaction_id"
	case "membership":
		return "membership"
	case "algorithm":
		return "algorithm"
	case "ciphertext":
		return "ciphertext"
	case "session_id":
		return "session_id"
	case "sender_key":
		return "sender_key"
	case "device_id":
		return "device_id"
	case "msgtype":
		return "msgtype"
	case "body":
		return "body"
	case "format":
		return "format"
	case "formatted_body":
		return "formatted_body"
	case "m.mentions":
		return "m.mentions"
	case "user_ids":
		return "user_ids"
	case "m.relates_to":
		return "m.relates_to"
	case "m.new_content":
		return "m.new_content"
	case "rel_type":
		return "rel_type"
	case "m.in_reply_to":
		return "m.in_reply_to"
	case "decrypted":
		return "decrypted"
	}
	return string(name)
}

// textOf returns a text, without an allocation if it is one of those that most events have.
func textOf(text []byte) string {
	switch string(text) {
	case "m.room.encrypted":
		return "m.room.encrypted"
	case "m.room.message":
		return "m.room.message"
	case "m.megolm.v1.aes-sha2":
		return "m.megolm.v1.aes-sha2"
	case "m.text":
		return "m.text"
	}
	return string(text)
}

// ordinary reports whether a text is quoted as it is.
func ordinary(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
