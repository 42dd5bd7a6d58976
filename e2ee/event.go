package e2ee

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxIDLength bounds what the network may name something by, in bytes (spec appendices,
// common identifier format). The store refuses longer names, and with them whole batches.
const maxIDLength = 255

// errMalformed says that JSON from the network is not what it must be.
var errMalformed = errors.New("malformed")

// member is one name and value of a JSON object, in order. Value is raw.
type member struct {
	name  string
	value json.RawMessage
}

// object is a JSON object whose unknown members survive.
type object []member

// parseObject reads an object strictly: no duplicate names, valid UTF-8, nothing after it.
// The values point into raw.
func parseObject(raw []byte) (object, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return nil, fmt.Errorf("%w: not an object", errMalformed)
	}
	obj := make(object, 0, 12)
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errMalformed, errSyntax)
		}
		key := name.String()
		start := dec.InputOffset()
		if err := dec.SkipValue(); err != nil {
			return nil, fmt.Errorf("%w: %w", errMalformed, errSyntax)
		}
		obj = append(obj, member{key, trimValue(raw[start:dec.InputOffset()])})
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, errSyntax)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: data after the object", errMalformed)
	}
	return obj, nil
}

var errSyntax = errors.New("syntax")

// decodeStrict reads what anybody can have sent into v: names count as they are written,
// in this case only, and none may occur twice at any depth (attack A26).
func decodeStrict(raw []byte, v any) error {
	if err := jsonv2.Unmarshal(raw, v); err != nil {
		return errMalformed
	}
	return nil
}

// trimValue drops the colon and white space before a value.
func trimValue(b []byte) json.RawMessage {
	for len(b) > 0 && (b[0] == ':' || b[0] == ' ' || b[0] == '\t' || b[0] == '\n' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

// get gives a member's value, nil when there is none.
func (o object) get(name string) json.RawMessage {
	for i := range o {
		if o[i].name == name {
			return o[i].value
		}
	}
	return nil
}

// text gives a string member; ok is false when it is missing or not a string.
func (o object) text(name string) (s string, ok bool) {
	raw := o.get(name)
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(raw, '\\') < 0 { // nothing is escaped, and it was read strictly before
		return string(raw[1 : len(raw)-1]), true
	}
	out, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		return "", false
	}
	return string(out), true
}

// set replaces a member or adds it at the end.
func (o object) set(name string, value json.RawMessage) object {
	for i := range o {
		if o[i].name == name {
			o[i].value = value
			return o
		}
	}
	return append(o, member{name, value})
}

// without drops a member.
func (o object) without(name string) object {
	for i := range o {
		if o[i].name == name {
			return append(o[:i:i], o[i+1:]...)
		}
	}
	return o
}

// only gives an object with just these members, as far as they are there.
func (o object) only(names ...string) object {
	out := make(object, 0, len(names)+3)
	for _, name := range names {
		if value := o.get(name); value != nil {
			out = append(out, member{name, value})
		}
	}
	return out
}

// encode writes the object again, in order.
func (o object) encode() json.RawMessage {
	size := 2
	for i := range o {
		size += len(o[i].name) + len(o[i].value) + 4
	}
	out := make([]byte, 0, size)
	out = append(out, '{')
	for i := range o {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendQuoted(out, o[i].name)
		out = append(out, ':')
		out = append(out, o[i].value...)
	}
	return append(out, '}')
}

// appendQuoted appends a JSON string. Names and values here are valid UTF-8.
func appendQuoted(out []byte, s string) []byte {
	quoted, err := jsontext.AppendQuote(out, s)
	if err != nil { // invalid UTF-8 was replaced; the result is still a JSON string
		return quoted
	}
	return quoted
}

// quoted gives s as a JSON string.
func quoted(s string) json.RawMessage { return appendQuoted(nil, s) }
