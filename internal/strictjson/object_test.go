package strictjson

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// Attack A26: duplicate names, invalid UTF-8, lone surrogates, deep nesting, numbers
// without end and data after the object. What is touched is parsed strictly: none of
// these is read as one thing here and as another by the client.
func TestObjectsAreReadStrictly(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]string{
		"duplicate name":    `{"a":1,"a":2}`,
		"escaped duplicate": `{"a":1,"\u0061":2}`,
		"nested duplicate":  `{"a":{"b":1,"b":2}}`,
		"invalid UTF-8":     "{\"a\":\"\xff\"}",
		"lone surrogate":    `{"a":"\ud800"}`,
		"deep nesting":      `{"a":` + strings.Repeat("[", 10001) + strings.Repeat("]", 10001) + `}`,
		"data after it":     `{"a":1} {}`,
		"not an object":     `["a"]`,
		"no value":          `{"a":}`,
		"cut off":           `{"a":1`,
		"empty":             ``,
	} {
		t.Run(name, func(t *testing.T) {
			if obj, err := Parse([]byte(raw)); err == nil {
				t.Errorf("read as %s", obj.Encode())
			}
		})
	}
}

func TestObjectsKeepWhatTheyDoNotKnow(t *testing.T) {
	t.Parallel()
	const raw = `{ "b" : [1, 2.50, {"x":null}] , "a":"\u00e9" , "":1e400}`
	obj, err := Parse([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"b":[1, 2.50, {"x":null}],"a":"\u00e9","":1e400}`
	if got := string(obj.Encode()); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if s, ok := obj.Text("a"); !ok || s != "é" {
		t.Errorf("text is %q, %v", s, ok)
	}
	if _, ok := obj.Text("b"); ok {
		t.Error("an array was read as text")
	}
	if got := string(obj.Without("b").Set("a", Quote(`"`)).Encode()); got != `{"a":"\"","":1e400}` {
		t.Errorf("changed to %s", got)
	}
}

func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":{"b":[1,"\u0000"]}}`, `{"a":1,"a":2}`, `{"é":"\ud83d\ude00"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		obj, err := Parse(raw)
		if err != nil {
			return
		}
		out := obj.Encode()
		if !json.Valid(out) {
			t.Fatalf("%q became invalid: %q", raw, out)
		}
		again, err := Parse(out)
		if err != nil || !bytes.Equal(again.Encode(), out) {
			t.Fatalf("%q is not stable: %q, %v", raw, out, err)
		}
	})
}
