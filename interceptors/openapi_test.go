package interceptors

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// How testdata/places-1.19.txt is made of a checkout of the specification, see
// TestPlacesOfTheSpec.

// schema is a schema of the specification's OpenAPI files, of which nothing else matters here.
type schema struct {
	Ref        string            `yaml:"$ref"`
	AllOf      []schema          `yaml:"allOf"`
	OneOf      []schema          `yaml:"oneOf"`
	AnyOf      []schema          `yaml:"anyOf"`
	Properties map[string]schema `yaml:"properties"`
	Patterns   map[string]schema `yaml:"patternProperties"`
	Additional yaml.Node         `yaml:"additionalProperties"` // a schema, or true or false
	Items      *schema           `yaml:"items"`
}

// openAPI is a file with endpoints. Its answers are read by node, because what they refer to is.
type openAPI struct {
	Servers []struct {
		Variables struct {
			BasePath struct{ Default string } `yaml:"basePath"`
		}
	}
	Paths map[string]map[string]yaml.Node
}

// specReader reads the specification's files.
type specReader struct {
	t     *testing.T
	files map[string]*yaml.Node
	// found are the places of the answer that is walked.
	found map[string]string
}

func (s *specReader) file(name string) *yaml.Node {
	s.t.Helper()
	if n := s.files[name]; n != nil {
		return n
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	n := new(yaml.Node)
	if err := yaml.Unmarshal(raw, n); err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	s.files[name] = n
	return n
}

// follow returns what a reference in a file leads to, and the file that it is in.
func (s *specReader) follow(from, ref string) (file string, to schema) {
	s.t.Helper()
	name, inside, _ := strings.Cut(ref, "#")
	file = from
	if name != "" {
		file = filepath.Join(filepath.Dir(from), name)
	}
	var at any
	if err := s.file(file).Decode(&at); err != nil {
		s.t.Fatalf("%s: %v", file, err)
	}
	for step := range strings.SplitSeq(strings.TrimPrefix(inside, "/"), "/") {
		if step == "" {
			break
		}
		object, _ := at.(map[string]any)
		at = object[step]
	}
	raw, err := yaml.Marshal(at)
	if err == nil {
		err = yaml.Unmarshal(raw, &to)
	}
	if err != nil || at == nil {
		s.t.Fatalf("%s in %s leads nowhere: %v", ref, from, err)
	}
	return file, to
}

// members returns the names of all members that an object of a schema can have.
func (s *specReader) members(file string, of *schema) map[string]bool {
	s.t.Helper()
	names := map[string]bool{}
	if of.Ref != "" {
		file, to := s.follow(file, of.Ref)
		maps.Copy(names, s.members(file, &to))
	}
	for _, part := range of.AllOf {
		maps.Copy(names, s.members(file, &part))
	}
	for name := range of.Properties {
		names[name] = true
	}
	return names
}

// walk finds the events in a schema. What has a type and a content is one: a room event if it
// has an ID, stripped state if it has a state key, else account data and the like.
func (s *specReader) walk(file string, of *schema, path string) {
	s.t.Helper()
	is := s.members(file, of)
	switch {
	case !is["type"] || !is["content"]:
	case is["event_id"]:
		s.found[path] = "event"
		return
	case is["state_key"]:
		s.found[path] = "stripped"
		return
	default:
		s.found[path] = "data"
		return
	}
	if of.Ref != "" {
		file, to := s.follow(file, of.Ref)
		s.walk(file, &to, path)
	}
	for _, part := range slices.Concat(of.AllOf, of.OneOf, of.AnyOf) {
		s.walk(file, &part, path)
	}
	under := func(step string) string { return strings.TrimPrefix(path+"/"+step, "/") }
	for name, member := range of.Properties {
		s.walk(file, &member, under(name))
	}
	for _, member := range of.Patterns {
		s.walk(file, &member, under("{}"))
	}
	if of.Additional.Kind == yaml.MappingNode {
		var member schema
		if err := of.Additional.Decode(&member); err != nil {
			s.t.Fatalf("%s: %v", file, err)
		}
		s.walk(file, &member, under("{}"))
	}
	if of.Items != nil {
		s.walk(file, of.Items, under("*"))
	}
}

// placesInSpec returns a line for each place of events in the successful answers of the
// specification's endpoints.
func placesInSpec(t *testing.T, checkout string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(checkout, "data/api/client-server/*.yaml"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no OpenAPI files in %s: %v", checkout, err)
	}
	s := &specReader{t: t, files: map[string]*yaml.Node{}}
	var lines []string
	for _, name := range names {
		var api openAPI
		if err := s.file(name).Decode(&api); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		base := ""
		if len(api.Servers) > 0 {
			base = api.Servers[0].Variables.BasePath.Default
		}
		for path, methods := range api.Paths {
			for method, node := range methods {
				var op struct {
					Responses map[string]struct {
						Content map[string]struct{ Schema schema }
					}
				}
				if method == "parameters" || method == "servers" {
					continue
				}
				if err := node.Decode(&op); err != nil {
					t.Fatalf("%s %s: %v", method, path, err)
				}
				s.found = map[string]string{}
				for status, answer := range op.Responses {
					if of := answer.Content["application/json"].Schema; strings.HasPrefix(status, "2") {
						s.walk(name, &of, "")
					}
				}
				for at, kind := range s.found {
					lines = append(lines, fmt.Sprintf("%s %s %s %s", strings.ToUpper(method), strings.TrimSpace(base+path), kind, cmp.Or(at, ".")))
				}
			}
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines) // one path is there twice, with a space
}
