package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/jsonscan"
)

// choice is what to do to a child of the outermost container of a document.
type choice byte

const (
	keep choice = iota
	swap
	drop
)

// apply edits the children of the outermost container of body as chosen, puts front and
// back (lists of elements or members) there unless empty, and returns the result and the
// children it should have.
func apply(t testing.TB, body string, todo func(int) choice, front, back string) (string, []string) {
	t.Helper()
	root := jsonscan.NewNode().Report(1, false)
	child := jsonscan.NewNode().Report(2, false)
	root.Link(jsonscan.Any(), child)
	root.Link(jsonscan.Elem(), child)
	var values []jsonscan.Value
	_, err := jsonscan.Scan(strings.NewReader(body), root, jsonscan.Options{}, func(v *jsonscan.Value) error {
		values = append(values, *v)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	outer, children := values[len(values)-1], values[:len(values)-1]
	var out bytes.Buffer
	e := jsonscan.NewEditor(&out, iotest.OneByteReader(strings.NewReader(body)))
	do := func(c jsonscan.Edit) {
		if err := e.Apply(c); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
	}
	var want []string
	stands := false // something that stays stands before
	comma := false  // the next child that stays needs a comma in front
	if front != "" {
		first := len(children) > 0 && todo(0) == keep
		do(jsonscan.Edit{Op: jsonscan.Insert, Start: outer.Start + 1, After: first, Data: []byte(front)})
		want, stands, comma = append(want, front), true, !first
	}
	for i, v := range children {
		from := v.Start
		if v.Member >= 0 {
			from = v.Member
		}
		switch todo(i) {
		case keep:
			want = append(want, body[from:v.End])
			stands = true
		case swap:
			do(jsonscan.Edit{Op: jsonscan.Replace, Start: from, End: from, Before: comma && i == 0})
			do(jsonscan.Edit{Op: jsonscan.Replace, Start: v.Start, End: v.End, Data: []byte(`"swapped"`)})
			want = append(want, body[from:v.Start]+`"swapped"`)
			stands = true
		case drop:
			do(jsonscan.Edit{Op: jsonscan.Delete, Start: from, End: v.End, Sep: v.Sep, Before: stands})
		}
	}
	if back != "" {
		do(jsonscan.Edit{Op: jsonscan.Insert, Start: outer.End - 1, Before: stands, Data: []byte(back)})
		want = append(want, back)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String(), want
}

func TestEditor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ body, plan, front, back, want string }{
		{`[1, 2, 3]`, "kkk", "", "", `[1, 2, 3]`},
		{`[1, 2, 3]`, "dkk", "", "", `[ 2, 3]`},
		{`[1, 2, 3]`, "kdk", "", "", `[1, 3]`},
		{`[1, 2, 3]`, "kkd", "", "", `[1, 2]`},
		{`[1 , 2 , 3 ]`, "ddd", "", "", `[  ]`},
		{`[1 , 2 , 3 ]`, "ddk", "", "", `[  3 ]`},
		{`[1,2,3]`, "dsd", "", "", `["swapped"]`},
		{`[1,2,3]`, "sdd", "0", "4", `[0,"swapped",4]`},
		{`[1,2,3]`, "ddd", "0", "", `[0]`},
		{`[1,2,3]`, "ddd", "0", "4", `[0,4]`},
		{`[1,2,3]`, "ddd", "", "4", `[4]`},
		{`[1,2,3]`, "kdd", "0", "", `[0,1]`},
		{`[ ]`, "", "0", "", `[0 ]`},
		{`[ ]`, "", "", "4", `[ 4]`},
		{`[ ]`, "", "0", "4", `[0 ,4]`},
		{`{"a":1,"b":2}`, "dk", "", "", `{"b":2}`},
		{`{"a":1,"b":2}`, "kd", "", `"c":3`, `{"a":1,"c":3}`},
		{`{"a":1,"b":2}`, "sd", `"z":0`, ``, `{"z":0,"a":"swapped"}`},
		{`{"a":[1,{"b":[2]}]}`, "d", ``, `"c":3`, `{"c":3}`},
	} {
		got, _ := apply(t, tt.body, func(i int) choice { return choice(strings.IndexByte("ksd", tt.plan[i])) }, tt.front, tt.back)
		if got != tt.want {
			t.Errorf("%s %s front %q back %q:\n got %s\nwant %s", tt.body, tt.plan, tt.front, tt.back, got, tt.want)
		}
	}
}

func TestEditorRefusesEditsOutOfPlace(t *testing.T) {
	t.Parallel()
	for name, edits := range map[string][]jsonscan.Edit{
		"no operation":     {{}},
		"behind the end":   {{Op: jsonscan.Insert, Start: 100}},
		"end before start": {{Op: jsonscan.Replace, Start: 3, End: 1}},
		"backwards":        {{Op: jsonscan.Insert, Start: 4}, {Op: jsonscan.Delete, Start: 1, End: 2, Sep: -1}},
	} {
		e := jsonscan.NewEditor(&bytes.Buffer{}, strings.NewReader(`[1,2,3]`))
		var err error
		for _, c := range edits {
			err = e.Apply(c)
		}
		if !errors.Is(err, jsonscan.ErrEdit) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestEditorReportsReadErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk gone")
	e := jsonscan.NewEditor(&bytes.Buffer{}, iotest.ErrReader(broken))
	if err := e.Apply(jsonscan.Edit{Op: jsonscan.Insert, Start: 1}); !errors.Is(err, broken) {
		t.Errorf("Apply: %v", err)
	}
	if err := jsonscan.NewEditor(&bytes.Buffer{}, iotest.ErrReader(broken)).Close(); !errors.Is(err, broken) {
		t.Errorf("Close: %v", err)
	}
}

// FuzzEditor: whatever is done to the children of a valid container, the result is
// valid and its children are those expected, in order.
func FuzzEditor(f *testing.F) {
	f.Add(`[1,2,3]`, []byte{0, 1, 2}, true, true)
	f.Add(`{"a":1, "b":{"c":[]} , "a":3}`, []byte{2, 2, 2}, false, true)
	f.Add(` [ {} , [ ] ,"x,]"]`, []byte{2, 0}, true, false)
	f.Fuzz(func(t *testing.T, body string, plan []byte, atFront, atBack bool) {
		trimmed := strings.TrimLeft(body, " \t\r\n")
		if !json.Valid([]byte(body)) || len(plan) == 0 || trimmed[0] != '{' && trimmed[0] != '[' {
			return
		}
		var front, back string
		if atFront {
			front = `"front"`
		}
		if atBack {
			back = `"back"`
		}
		if trimmed[0] == '{' {
			front, back = member(front), member(back)
		}
		got, want := apply(t, body, func(i int) choice { return choice(plan[i%len(plan)]) % (drop + 1) }, front, back)
		if !json.Valid([]byte(got)) {
			t.Fatalf("%q became %q", body, got)
		}
		root := jsonscan.NewNode()
		child := jsonscan.NewNode().Report(1, false)
		root.Link(jsonscan.Any(), child)
		root.Link(jsonscan.Elem(), child)
		var children []string
		_, err := jsonscan.Scan(strings.NewReader(got), root, jsonscan.Options{}, func(v *jsonscan.Value) error {
			children = append(children, got[max(v.Member, 0):v.End])
			if v.Member < 0 {
				children[len(children)-1] = got[v.Start:v.End]
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, children); diff != "" {
			t.Fatalf("children of %q from %q (-want +got):\n%s", got, body, diff)
		}
	})
}

func member(s string) string {
	if s == "" {
		return ""
	}
	return s + ":0"
}
