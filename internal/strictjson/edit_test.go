package strictjson

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestEditObject(t *testing.T) {
	t.Parallel()
	keep := func(_ string, v jsontext.Value) (jsontext.Value, error) { return v, nil }
	for in, want := range map[string]string{
		`{}`:                                     `{}`,
		` { "a" : 1.50 , "b":{ "c" : [ 1 ] } } `: `{"a":1.50,"b":{ "c" : [ 1 ] }}`,
		`{"\u0061\"":"\u0062"}`:                  `{"a\"":"\u0062"}`,
	} {
		got, err := Edit([]byte(in), keep)
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{``, `[]`, `{`, `{"a"}`, `{"a":}`, `{"a":1`, `{"a":1,"a":2}`, `{a:1}`} {
		if got, err := Edit([]byte(in), keep); err == nil {
			t.Errorf("%q: got %s", in, got)
		}
	}
}
