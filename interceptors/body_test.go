package interceptors

import (
	"encoding/json"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

func TestParseObject(t *testing.T) {
	t.Parallel()
	o, err := parseObject([]byte(` {"s":"a\u0062","n":1.50,"t":true,"f":false,"a":["x",1,"y"],"o":{"in":"side"},"\u006e2":null} `))
	if err != nil {
		t.Fatal(err)
	}
	if got := o.text("s"); got != "ab" {
		t.Errorf("text: %q", got)
	}
	if o.text("n") != "" || o.text("none") != "" || o.list("s") != nil || o.members("a") != nil {
		t.Error("a member of another kind counts")
	}
	if !o.isFalse("f") || o.isFalse("t") || o.isFalse("none") {
		t.Error("isFalse")
	}
	if diff := cmp.Diff([]string{"x", "y"}, o.texts("a")); diff != "" {
		t.Error(diff)
	}
	if o.members("o").text("in") != "side" || string(o["n"]) != "1.50" || string(o["n2"]) != "null" {
		t.Errorf("got %v", o)
	}
}

func TestEditObject(t *testing.T) {
	t.Parallel()
	keep := func(_ string, v jsontext.Value) (jsontext.Value, error) { return v, nil }
	for in, want := range map[string]string{
		`{}`:                                     `{}`,
		` { "a" : 1.50 , "b":{ "c" : [ 1 ] } } `: `{"a":1.50,"b":{ "c" : [ 1 ] }}`,
		`{"\u0061\"":"\u0062"}`:                  `{"a\"":"\u0062"}`,
	} {
		got, err := editObject([]byte(in), keep)
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{``, `[]`, `{`, `{"a"}`, `{"a":}`, `{"a":1`, `{"a":1,"a":2}`, `{a:1}`} {
		if got, err := editObject([]byte(in), keep); err == nil {
			t.Errorf("%q: got %s", in, got)
		}
	}
}

// FuzzParseObject: what is read strictly is read alike by the standard library.
func FuzzParseObject(f *testing.F) {
	f.Add([]byte(`{"a":"b","c":{"d":[1,2]}}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := parseObject(raw)
		if err != nil {
			return
		}
		var std map[string]json.RawMessage
		if err := json.Unmarshal(raw, &std); err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		if len(std) != len(o) {
			t.Fatalf("%q: %d members, want %d", raw, len(o), len(std))
		}
		for name, want := range std {
			if string(o[name]) != string(want) {
				t.Fatalf("%q: member %q is %s, want %s", raw, name, o[name], want)
			}
		}
	})
}
