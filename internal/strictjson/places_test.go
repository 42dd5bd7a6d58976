package strictjson

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What Places finds is what Parse reads, byte for byte.
func TestPlaces(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		`{}`, ` { "b" : [1, 2.50, {"x":null}] , "\u0061":"\u00e9" , "":1e400} `, `{"a":{"a":{"a":1}},"é":true}`,
		"{\"a\" :\n null\t}\n", `{"a":1,"a":2}`, `{"a":{"b":1,"b":2}}`, `{"a":1} {}`, `[1]`, `{"a":}`, `{"a":1`, ``, `{"a" 1}`, `{"a":1,}`, `{1:2}`,
	} {
		want, err := Parse([]byte(raw))
		got, failed := Places([]byte(raw))
		if (err == nil) != (failed == nil) {
			t.Errorf("%s: %v, Parse says %v", raw, failed, err)
			continue
		}
		var read Object
		for _, p := range got {
			read = append(read, Member{p.Name, []byte(raw[p.Value:p.End])})
			if raw[p.From] != '"' || p.From >= p.Value {
				t.Errorf("%s: %+v", raw, p)
			}
		}
		if diff := cmp.Diff(want.Encode(), read.Encode()); err == nil && diff != "" {
			t.Errorf("%s (-want +got):\n%s", raw, diff)
		}
	}
}
