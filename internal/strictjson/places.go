package strictjson

import (
	"bytes"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// Place is where a member of an object stands in its text: its name begins at From, its
// value is from Value to End.
type Place struct {
	Name             string
	From, Value, End int
}

// Places returns where the members of the object raw stand, in order. It is as strict as
// [Parse].
func Places(raw []byte) ([]Place, error) {
	if kindOf(raw) != jsontext.KindBeginObject {
		return nil, errNoObject
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw)) // a buffer is read in place
	if _, err := dec.ReadToken(); err != nil {
		return nil, errNoObject
	}
	var out []Place
	for dec.PeekKind() == jsontext.KindString {
		name, err := dec.ReadValue()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, errSyntax)
		}
		p := Place{From: int(dec.InputOffset()) - len(name)}
		text, err := jsontext.AppendUnquote(nil, name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, errSyntax)
		}
		p.Name = string(text)
		value, err := dec.ReadValue()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, errSyntax)
		}
		p.End = int(dec.InputOffset())
		p.Value = p.End - len(value)
		out = append(out, p)
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, errSyntax)
	}
	if len(bytes.TrimSpace(raw[dec.InputOffset():])) > 0 {
		return nil, fmt.Errorf("%w: data after the object", ErrMalformed)
	}
	return out, nil
}
