package filter

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Fields is the event_fields of a filter: the members to keep, by name. A nil tree keeps
// everything below.
type Fields map[string]Fields

// newFields parses event_fields: paths with dots between names; a backslash before a dot
// or a backslash makes it part of the name. always are paths that are kept too.
func newFields(paths []string, always ...[]string) Fields {
	root := Fields{}
	for _, path := range always {
		root.add(path)
	}
	for _, p := range paths {
		root.add(splitField(p))
	}
	return root
}

func (t Fields) add(path []string) {
	for i, name := range path {
		next, known := t[name]
		switch {
		case known && next == nil: // everything below is kept already
			return
		case i == len(path)-1:
			t[name] = nil
			return
		case !known:
			next = Fields{}
			t[name] = next
		}
		t = next
	}
}

func splitField(path string) []string {
	var parts []string
	var part strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			part.WriteByte(path[i])
		case c == '.':
			parts = append(parts, part.String())
			part.Reset()
		default:
			part.WriteByte(c)
		}
	}
	return append(parts, part.String())
}

// Project returns an event with only the fields of the tree.
func (t Fields) Project(event []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := t.write(&out, event); err != nil {
		return nil, fmt.Errorf("choose the fields of an event: %w", err)
	}
	return out.Bytes(), nil
}

func (t Fields) write(out *bytes.Buffer, raw []byte) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(raw))
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	out.WriteByte('{')
	first := true
	for dec.PeekKind() != jsontext.KindEndObject {
		name, err := dec.ReadValue()
		if err != nil {
			return err
		}
		var key string
		if err := json.Unmarshal(name, &key); err != nil {
			return err
		}
		name = name.Clone()
		value, err := dec.ReadValue()
		if err != nil {
			return err
		}
		below, wanted := t[key]
		if !wanted || below != nil && value.Kind() != jsontext.KindBeginObject {
			continue
		}
		if !first {
			out.WriteByte(',')
		}
		first = false
		out.Write(name)
		out.WriteByte(':')
		if below == nil {
			out.Write(value)
			continue
		}
		if err := below.write(out, value); err != nil {
			return err
		}
	}
	out.WriteByte('}')
	return nil
}
