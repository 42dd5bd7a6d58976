package strictjson

import (
	"bytes"
	"encoding/json"

	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/internal/secret"
)

// TextOrEmpty returns a string member, and "" when it is missing or something else.
func (o Object) TextOrEmpty(name string) string {
	s, _ := o.Text(name)
	return s
}

// Secret returns a string member in memory of its own, which can be overwritten; nil when
// it is missing or something else.
func (o Object) Secret(name string) secret.Bytes {
	v := o.Get(name)
	if kindOf(v) != jsontext.KindString {
		return nil
	}
	text, err := jsontext.AppendUnquote(make([]byte, 0, len(v)), v)
	if err != nil {
		return nil
	}
	return text
}

// IsFalse reports whether a member is the literal false.
func (o Object) IsFalse(name string) bool { return kindOf(o.Get(name)) == jsontext.KindFalse }

// IsTrue reports whether a member is the literal true.
func (o Object) IsTrue(name string) bool { return kindOf(o.Get(name)) == jsontext.KindTrue }

// Texts returns the strings of an array member; elements of another kind are left out.
func (o Object) Texts(name string) []string {
	var out []string
	for _, v := range o.List(name) {
		if kindOf(v) != jsontext.KindString {
			continue
		}
		if s, err := jsontext.AppendUnquote(nil, v); err == nil {
			out = append(out, string(s))
		}
	}
	return out
}

// List returns the elements of an array member, nil when it is no array.
func (o Object) List(name string) []json.RawMessage {
	v := o.Get(name)
	if kindOf(v) != jsontext.KindBeginArray {
		return nil
	}
	var out []json.RawMessage
	dec := jsontext.NewDecoder(bytes.NewBuffer(v)) // a buffer is read in place
	if _, err := dec.ReadToken(); err != nil {
		return nil
	}
	for dec.PeekKind() != jsontext.KindEndArray {
		elem, err := dec.ReadValue()
		if err != nil {
			return nil
		}
		end := int(dec.InputOffset())
		out = append(out, json.RawMessage(v[end-len(elem):end:end]))
	}
	return out
}

// Object returns an object member, nil when it is no object.
func (o Object) Object(name string) Object {
	inner, err := Parse(o.Get(name))
	if err != nil {
		return nil
	}
	return inner
}

func kindOf(raw json.RawMessage) jsontext.Kind { return jsontext.Value(raw).Kind() }
