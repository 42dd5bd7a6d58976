package strictjson

import (
	"bytes"
	"errors"

	"github.com/go-json-experiment/json/jsontext"
)

// Each calls f for the members of the object raw, in order. value is a part of raw.
func Each(raw []byte, f func(name string, value jsontext.Value) error) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw)) // a buffer is read in place
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != jsontext.KindBeginObject {
		return errors.New("not a JSON object")
	}
	for dec.PeekKind() == jsontext.KindString {
		tok, err := dec.ReadToken()
		if err != nil {
			return errors.New("not a member name")
		}
		name := tok.String()
		value, err := dec.ReadValue()
		if err != nil {
			return errors.New("not a member value")
		}
		end := int(dec.InputOffset())
		if err := f(name, raw[end-len(value):end:end]); err != nil {
			return err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return errors.New("an object without an end")
	}
	return nil
}

// Edit rewrites the members of the object raw, in order: edit gives the new
// value, or nil to drop the member. Everything it leaves alone stays byte for byte.
func Edit(raw []byte, edit func(name string, value jsontext.Value) (jsontext.Value, error)) ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	err := Each(raw, func(name string, value jsontext.Value) error {
		changed, err := edit(name, value)
		if err != nil || changed == nil {
			return err
		}
		if out.Len() > 1 {
			out.WriteByte(',')
		}
		quoted, err := jsontext.AppendQuote(nil, name)
		if err != nil {
			return errors.New("not a member name")
		}
		out.Write(quoted)
		out.WriteByte(':')
		out.Write(changed)
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}
