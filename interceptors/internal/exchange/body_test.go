package exchange

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseObject(t *testing.T) {
	t.Parallel()
	o, err := ParseObject([]byte(` {"s":"a\u0062","n":1.50,"t":true,"f":false,"a":["x",1,"y"],"o":{"in":"side"},"\u006e2":null} `))
	if err != nil {
		t.Fatal(err)
	}
	if got := o.TextOrEmpty("s"); got != "ab" {
		t.Errorf("text: %q", got)
	}
	if o.TextOrEmpty("n") != "" || o.TextOrEmpty("none") != "" || o.List("s") != nil || o.Object("a") != nil {
		t.Error("a member of another kind counts")
	}
	if !o.IsFalse("f") || o.IsFalse("t") || o.IsFalse("none") {
		t.Error("isFalse")
	}
	if diff := cmp.Diff([]string{"x", "y"}, o.Texts("a")); diff != "" {
		t.Error(diff)
	}
	if o.Object("o").TextOrEmpty("in") != "side" || string(o.Get("n")) != "1.50" || string(o.Get("n2")) != "null" {
		t.Errorf("got %v", o)
	}
}

// FuzzParseObject: what is read strictly is read alike by the standard library.
func FuzzParseObject(f *testing.F) {
	f.Add([]byte(`{"a":"b","c":{"d":[1,2]}}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := ParseObject(raw)
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
			if string(o.Get(name)) != string(want) {
				t.Fatalf("%q: member %q is %s, want %s", raw, name, o.Get(name), want)
			}
		}
	})
}
