package jsonscan

import (
	"fmt"
	"testing"
)

// Nothing of one text is in the next, whatever became of the first.
func TestRepeatedScans(t *testing.T) {
	t.Parallel()
	root := NewNode()
	root.Down(Key("a"), Any()).Report(1, true)
	var again Repeated
	for _, text := range []string{`{"a":{"x":1}}`, `{"a":{"y":[2`, `nothing`, `{"b":1}`, `{"a":{"z":"3"},"a":{"z":4}}`, ``} {
		var got, want string
		note := func(to *string) func(*Value) error {
			return func(v *Value) error {
				*to += fmt.Sprintf("%s=%s at %d;", v.Name(0), v.Raw, v.Start)
				return nil
			}
		}
		first, second := ScanBytes([]byte(text), root, Options{}, note(&want)), again.ScanBytes([]byte(text), root, Options{}, note(&got))
		if got != want || (first == nil) != (second == nil) {
			t.Errorf("%s: %s, %v; want %s, %v", text, got, second, want, first)
		}
	}
}
