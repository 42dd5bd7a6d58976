package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"maunium.net/go/mautrix/id"
)

// decoder puts YAML into settings and collects every problem. Unknown and repeated keys are
// problems: it is stricter than yaml's own KnownFields, and reports columns and paths.
type decoder struct {
	source   string
	files    func(path string) (string, error)
	problems *[]Problem
	named    *[]namedFile
	// origin is where each path was set.
	origin map[string]string
	// lines reports whether line numbers of the source mean something to its reader.
	lines bool
}

func (d *decoder) problem(n *yaml.Node, path, what, do string) {
	*d.problems = append(*d.problems, Problem{Where: d.where(n), Setting: path, What: what, Do: do})
}

func (d *decoder) where(n *yaml.Node) string {
	if n == nil || !d.lines {
		return d.source
	}
	return fmt.Sprintf("%s:%d:%d", d.source, n.Line, n.Column)
}

// parse reads exactly one YAML document. It returns nil for an empty one, or after a
// problem.
func (d *decoder) parse(text []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	var doc, more yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		d.problem(nil, "", "is not YAML: "+strings.TrimPrefix(err.Error(), "yaml: "), "compare it with the output of: e2ee-proxy config example")
		return nil
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		d.problem(nil, "", "has more than one YAML document", "remove everything from the second --- on")
		return nil
	}
	if len(doc.Content) == 0 {
		return nil
	}
	return doc.Content[0]
}

// value decodes n into v, which is the setting or group at path.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		d.problem(n, path, "YAML aliases are not supported", "write the value out")
		return
	}
	d.origin[path] = d.where(n)
	switch t := v.Type(); {
	case isGroup(t):
		d.group(n, v, path)
	case t.Kind() == reflect.Map:
		d.byUser(n, v, path)
	case t.Kind() == reflect.Slice && !isSecret(t):
		d.list(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.problem(n, path, "must be a single value", "write it on one line, after the colon")
		return
	}
	if n.Tag == "!!null" {
		d.problem(n, path, "has no value", `set one, or remove the key; "" is an empty text`)
		return
	}
	d.set(n, v, path, n.Value)
}

// set parses text, which n or the file named by n contains.
func (d *decoder) set(n *yaml.Node, v reflect.Value, path, text string) {
	err := setScalar(v, text)
	if bad := (*valueError)(nil); errors.As(err, &bad) {
		d.problem(n, path, bad.what, bad.do)
	} else if err != nil {
		d.problem(n, path, "cannot be read", "see docs/configuration.md")
	}
}

// group decodes a mapping into a struct of settings. A group without any key is one
// whose keys are all commented out.
func (d *decoder) group(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "must be a group of settings", "write its keys on lines of their own, indented")
		return
	}
	fields := make(map[string]reflect.Value, v.NumField())
	for i := range v.NumField() {
		fields[v.Type().Field(i).Tag.Get("yaml")] = v.Field(i)
	}
	seen := make(map[string]bool, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		at := join(path, key.Value)
		base, isFile := strings.CutSuffix(key.Value, "_file")
		switch field, known := fields[key.Value]; {
		case seen[key.Value]:
			d.problem(key, at, "is given twice", "keep one of them")
		case known:
			if isSecret(field.Type()) && seen[key.Value+"_file"] {
				d.problem(key, at, "is given directly and as a file", "keep one of them")
			}
			d.value(val, field, at)
		case isFile && fields[base].IsValid() && isSecret(fields[base].Type()):
			if seen[base] {
				d.problem(key, at, "is given directly and as a file", "keep one of them")
			}
			d.file(val, fields[base], join(path, base))
		default:
			d.unknown(key, at, slices.Sorted(maps.Keys(fields)))
		}
		seen[key.Value] = true
	}
}

// file sets v from the content of the file that n names.
func (d *decoder) file(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode || n.Value == "" {
		d.problem(n, path+"_file", "must be the path of a file", "write it on one line, after the colon")
		return
	}
	text, err := d.files(n.Value)
	if err != nil {
		d.problem(n, path+"_file", err.Error(), "check the path and who may read it")
		return
	}
	d.origin[path] = d.where(n)
	*d.named = append(*d.named, namedFile{d.where(n), path + "_file", n.Value})
	d.set(n, v, path, text)
}

func (d *decoder) unknown(key *yaml.Node, path string, known []string) {
	do := "remove it; known here: " + strings.Join(known, ", ")
	if guess := Nearest(key.Value, known); guess != "" {
		do = "did you mean " + guess + "?"
	}
	d.problem(key, path, "is not a setting", do)
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.problem(n, path, "must be a list", "write [one, two], or each on a line of its own after a dash")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(item, out.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(out)
}

// byUser decodes a mapping from user IDs to groups.
func (d *decoder) byUser(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "must be a group with one key per user ID", `write "@user:server": and its settings below`)
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		at := join(path, key.Value)
		if out.MapIndex(reflect.ValueOf(id.UserID(key.Value))).IsValid() {
			d.problem(key, at, "is given twice", "keep one of them")
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(val, item, at)
		d.origin[at] = d.where(key)
		out.SetMapIndex(reflect.ValueOf(id.UserID(key.Value)), item)
	}
	v.Set(out)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
