package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ErrMalformed means that JSON from the network does not have the required form.
var ErrMalformed = errors.New("malformed")

// Member is one name and value of a JSON object, in order. Value is raw.
type Member struct {
	Name  string
	Value json.RawMessage
}

// Object is a JSON object that keeps unknown members.
type Object []Member

// Parse reads an object strictly: no duplicate names, valid UTF-8, nothing after it.
// The values point into raw.
func Parse(raw []byte) (Object, error) {
	if obj, ok := quick(raw); ok {
		return obj, nil
	}
	return parse(raw)
}

// parse is Parse by jsontext alone.
func parse(raw []byte) (Object, error) {
	if kindOf(raw) != jsontext.KindBeginObject { // often there is nothing to read at all
		return nil, errNoObject
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != jsontext.KindBeginObject {
		return nil, errNoObject
	}
	obj := make(Object, 0, 12)
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, errSyntax)
		}
		key := name.String()
		start := dec.InputOffset()
		if err := dec.SkipValue(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, errSyntax)
		}
		end := dec.InputOffset()
		obj = append(obj, Member{key, trimValue(raw[start:end:end])})
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, errSyntax)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: data after the object", ErrMalformed)
	}
	return obj, nil
}

var (
	errSyntax   = errors.New("syntax")
	errNoObject = fmt.Errorf("%w: not an object", ErrMalformed)
)

// Unmarshal reads an object from an untrusted sender into v: names are case-sensitive, and
// none may occur twice at any depth (attack A26).
func Unmarshal(raw []byte, v any) error {
	if err := jsonv2.Unmarshal(raw, v); err != nil {
		return ErrMalformed
	}
	return nil
}

// trimValue removes the colon and white space before a value.
func trimValue(b []byte) json.RawMessage {
	for len(b) > 0 && (b[0] == ':' || b[0] == ' ' || b[0] == '\t' || b[0] == '\n' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

// Get returns a member's value, nil when there is none.
func (o Object) Get(name string) json.RawMessage {
	for i := range o {
		if o[i].Name == name {
			return o[i].Value
		}
	}
	return nil
}

// Text returns a string member; ok is false when it is missing or not a string.
func (o Object) Text(name string) (s string, ok bool) {
	raw := o.Get(name)
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(raw, '\\') < 0 { // nothing is escaped, and it was read strictly before
		return textOf(raw[1 : len(raw)-1]), true
	}
	out, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		return "", false
	}
	return string(out), true
}

// Set replaces a member or adds it at the end.
func (o Object) Set(name string, value json.RawMessage) Object {
	for i := range o {
		if o[i].Name == name {
			o[i].Value = value
			return o
		}
	}
	return append(o, Member{name, value})
}

// Without removes a member.
func (o Object) Without(name string) Object {
	for i := range o {
		if o[i].Name == name {
			return append(o[:i:i], o[i+1:]...)
		}
	}
	return o
}

// Only returns an object with just these members, as far as they exist.
func (o Object) Only(names ...string) Object {
	out := make(Object, 0, len(names)+3)
	for _, name := range names {
		if value := o.Get(name); value != nil {
			out = append(out, Member{name, value})
		}
	}
	return out
}

// Encode writes the object again, in order.
func (o Object) Encode() json.RawMessage {
	size := 2
	for i := range o {
		size += len(o[i].Name) + len(o[i].Value) + 4
	}
	out := make([]byte, 0, size)
	out = append(out, '{')
	for i := range o {
		if i > 0 {
			out = append(out, ',')
		}
		out = AppendQuote(out, o[i].Name)
		out = append(out, ':')
		out = append(out, o[i].Value...)
	}
	return append(out, '}')
}

// AppendQuote appends a JSON string. Names and values here are valid UTF-8.
func AppendQuote(out []byte, s string) []byte {
	if ordinary(s) {
		return append(append(append(out, '"'), s...), '"')
	}
	quoted, err := jsontext.AppendQuote(out, s)
	if err != nil { // invalid UTF-8 was replaced; the result is still a JSON string
		return quoted
	}
	return quoted
}

// Quote returns s as a JSON string.
func Quote(s string) json.RawMessage { return AppendQuote(nil, s) }

// And adds the members that o lacks, in the objects inside it too.
func (o Object) And(more Object) Object {
	for _, m := range more {
		mine := o.Get(m.Name)
		if mine == nil {
			o = append(o, m)
			continue
		}
		inner, err := Parse(mine)
		if err != nil {
			continue
		}
		if theirs, err := Parse(m.Value); err == nil {
			o = o.Set(m.Name, inner.And(theirs).Encode())
		}
	}
	return o
}
