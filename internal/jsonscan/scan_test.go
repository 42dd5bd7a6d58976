package jsonscan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/jsonscan"
)

// everything returns a graph that walks into every container and reports every value.
func everything() *jsonscan.Node {
	n := jsonscan.NewNode().Report(1, true)
	n.Link(jsonscan.Any(), n)
	n.Link(jsonscan.Elem(), n)
	return n
}

// report is a Value without what may differ between windows.
type report struct {
	ID                               int
	Kind                             byte
	Start, End, Member, Sep, Inside  int64
	Index, Count                     int
	Raw                              string
	Captured, Flagged, ConsistentEnd bool
}

func collect(t testing.TB, r io.Reader, body string, root *jsonscan.Node, opt jsonscan.Options) ([]report, error) {
	t.Helper()
	var got []report
	_, err := jsonscan.Scan(r, root, opt, func(v *jsonscan.Value) error {
		if v.Raw != nil && string(v.Raw) != body[v.Start:v.End] {
			t.Errorf("Raw is %q, the body has %q there", v.Raw, body[v.Start:v.End])
		}
		if v.Sep >= 0 && body[v.Sep] != ',' {
			t.Errorf("Sep is at %q", body[v.Sep])
		}
		if v.Member >= 0 && body[v.Member] != '"' {
			t.Errorf("Member is at %q", body[v.Member])
		}
		if v.Inside > 0 && body[v.Inside-1] != '{' && body[v.Inside-1] != '[' {
			t.Errorf("Inside is behind %q", body[v.Inside-1])
		}
		got = append(got, report{
			ID: v.ID, Kind: v.Kind, Start: v.Start, End: v.End, Member: v.Member, Sep: v.Sep,
			Inside: v.Inside, Index: v.Index, Count: v.Count, Raw: string(v.Raw), Captured: v.Raw != nil, Flagged: v.Flagged,
		})
		return nil
	})
	return got, err
}

func TestScanReportsPlaces(t *testing.T) {
	t.Parallel()
	const body = ` { "a" : [ 1 , {"x":null} ,[ ]], "b":{"k1":{"v":"é\n"},"k\u0032":{"v":2, "w":3}} , "c" : true } `
	root := jsonscan.NewNode().Report(1, false)
	root.Down(jsonscan.Key("a"), jsonscan.Elem()).Report(2, true)
	root.Down(jsonscan.Key("b"), jsonscan.Any()).Report(3, false)
	root.Down(jsonscan.Key("b"), jsonscan.Any(), jsonscan.Key("v")).Report(4, true)
	root.Down(jsonscan.Prefix("c")).Report(5, true)
	var got []string
	_, err := jsonscan.Scan(strings.NewReader(body), root, jsonscan.Options{}, func(v *jsonscan.Value) error {
		got = append(got, fmt.Sprintf("%d %q at %d of %d name %q", v.ID, v.Raw, v.Index, v.Count, v.Name(0)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`2 "1" at 0 of 0 name ""`,
		`2 "{\"x\":null}" at 1 of 0 name ""`,
		`2 "[ ]" at 2 of 0 name ""`,
		`4 "\"é\\n\"" at 0 of 0 name "k1"`,
		`3 "" at 0 of 1 name "k1"`,
		`4 "2" at 0 of 0 name "k2"`,
		`3 "" at 1 of 2 name "k2"`,
		`5 "true" at 2 of 0 name ""`,
		`1 "" at 0 of 3 name ""`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
}

func TestScanNamesOfAnyStepsThatAreSingleValues(t *testing.T) {
	t.Parallel()
	root := jsonscan.NewNode()
	root.Down(jsonscan.Any(), jsonscan.Any()).Report(1, true)
	var got []string
	_, err := jsonscan.Scan(strings.NewReader(`{"a":{"b":1,"c":[]},"d":{"e":2}}`), root, jsonscan.Options{}, func(v *jsonscan.Value) error {
		got = append(got, string(v.Name(0))+"."+string(v.Name(1))+"="+string(v.Raw)+string(v.Name(2)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a.b=1", "a.c=[]", "d.e=2"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestScanFlagsWatchedNames(t *testing.T) {
	t.Parallel()
	opt := jsonscan.Options{Watch: []string{"decrypted", "dev.e2ee-proxy.*"}}
	for body, want := range map[string]bool{
		`[{"a":1}]`:                                    false,
		`[{"decrypted":true}]`:                         true,
		`[{"decrypt\u0065d":true}]`:                    true,
		`[{"a":[[{"dev.e2ee-proxy.trust":0}]]}]`:       true,
		`[{"a":[[{"d\u0065v.e2ee-proxy.trust":0}]]}]`:  true,
		`[{"a":"decrypted","b":["dev.e2ee-proxy.x"]}]`: false,
		`[{"decryptedx":1,"dev.e2ee-proxy":1}]`:        false,
	} {
		inner := jsonscan.NewNode()
		inner.Down(jsonscan.Elem()).Report(1, true)
		outer := jsonscan.NewNode()
		outer.Down(jsonscan.Elem()).Report(1, true).Down(jsonscan.Key("zzz"))
		for _, root := range []*jsonscan.Node{inner, outer, everything()} {
			got, err := collect(t, strings.NewReader(body), body, root, opt)
			if err != nil {
				t.Fatal(err)
			}
			var flagged bool
			for _, r := range got {
				flagged = flagged || r.Flagged
			}
			if flagged != want {
				t.Errorf("%s: flagged %v, want %v", body, flagged, want)
			}
		}
	}
}

func TestScanGivesUpLargeCapturesOnly(t *testing.T) {
	t.Parallel()
	body := `[{"a":"` + strings.Repeat("x", 500) + `","b":"small"},{"a":"y"}]`
	root := jsonscan.NewNode()
	event := root.Down(jsonscan.Elem()).Report(1, true)
	event.Down(jsonscan.Key("b")).Report(2, true)
	got, err := collect(t, iotest.OneByteReader(strings.NewReader(body)), body, root, jsonscan.Options{Window: 16, MaxCapture: 100})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range got {
		lines = append(lines, fmt.Sprint(r.ID, " ", r.Captured, " ", r.Raw))
	}
	if diff := cmp.Diff([]string{`2 true "small"`, `1 false `, `1 true {"a":"y"}`}, lines); diff != "" {
		t.Errorf("captures (-want +got):\n%s", diff)
	}
}

func TestScanEndsAtTheErrorOfVisit(t *testing.T) {
	t.Parallel()
	want := errors.New("enough")
	_, err := jsonscan.Scan(strings.NewReader(`[1,2,`), everything(), jsonscan.Options{}, func(*jsonscan.Value) error { return want })
	if !errors.Is(err, want) {
		t.Errorf("error is %v", err)
	}
}

func TestScanTellsReadErrorsFromSyntax(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	r := io.MultiReader(strings.NewReader(`{"a":[1,"x`), iotest.ErrReader(broken))
	_, err := jsonscan.Scan(r, everything(), jsonscan.Options{}, func(*jsonscan.Value) error { return nil })
	if !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	var syntax *jsonscan.SyntaxError
	_, err = jsonscan.Scan(strings.NewReader(`{"a":[1,"x`), jsonscan.NewNode(), jsonscan.Options{}, nil)
	if !errors.As(err, &syntax) || syntax.Offset != 10 {
		t.Errorf("error is %v", err)
	}
}

// Nesting costs bits and no stack: attacks A26 and 63.
func TestScanDepth(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", jsonscan.MaxDepth) + "0" + strings.Repeat("]", jsonscan.MaxDepth)
	if _, err := jsonscan.Scan(strings.NewReader(deep), jsonscan.NewNode(), jsonscan.Options{}, nil); err != nil {
		t.Errorf("%d levels: %v", jsonscan.MaxDepth, err)
	}
	if _, err := jsonscan.Scan(strings.NewReader("["+deep+"]"), jsonscan.NewNode(), jsonscan.Options{}, nil); !errors.Is(err, jsonscan.ErrDepth) {
		t.Errorf("one more: %v", err)
	}
	if _, err := jsonscan.Scan(strings.NewReader(deep), everything(), jsonscan.Options{}, nil); !errors.Is(err, jsonscan.ErrDepth) {
		t.Errorf("in a cyclic graph: %v", err)
	}
	mixed := strings.Repeat(`{"a":[`, 50_000) + "0" + strings.Repeat(`]}`, 50_000)
	if _, err := jsonscan.Scan(strings.NewReader(mixed), jsonscan.NewNode(), jsonscan.Options{}, nil); err != nil {
		t.Errorf("objects and arrays: %v", err)
	}
	wrong := strings.Repeat(`{"a":[`, 50_000) + "0" + strings.Repeat(`}]`, 50_000)
	if _, err := jsonscan.Scan(strings.NewReader(wrong), jsonscan.NewNode(), jsonscan.Options{}, nil); err == nil {
		t.Error("crossed brackets were accepted")
	}
}

func FuzzScan(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,-0.5e+10,"\u00e9\ud800",true,false,null,{},[]]}`, " [ ] ", `"x`, `{"a":1,}`, `[1,]`, `01`, `1.`, `1e`,
		`-`, `"\x"`, "\"\t\"", "\"\xff\"", `{"a" 1}`, `{1:2}`, `tru`, `nul`, ``, ` `, `1 2`, `[}`, `{"a":1]`, "\x00", `{"a":1,"a":2}`,
		"\ufeff{}", "[1\x00]", `"\ud83d\ude00 long enough for the words of eight bytes"`, `"0123456\"89012345\\7"`,
	} {
		f.Add([]byte(s), uint8(0))
	}
	f.Fuzz(func(t *testing.T, data []byte, window uint8) {
		d := jsontext.NewDecoder(bytes.NewReader(data), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		_, err := d.ReadValue()
		if err == nil {
			if _, err = d.ReadToken(); errors.Is(err, io.EOF) {
				err = nil
			} else {
				err = errors.New("more than one value")
			}
		}
		want := err == nil
		if std := json.Valid(data); std != want && !bytes.Contains(data, []byte("[[[[[[[[")) {
			t.Fatalf("the references disagree: jsontext %v (%v), encoding/json %v", want, err, std)
		}
		var first []report
		for n, opt := range []jsonscan.Options{{}, {Window: 16 + int(window), MaxCapture: 1 << 20}} {
			_, err := jsonscan.Scan(iotest.HalfReader(bytes.NewReader(data)), jsonscan.NewNode(), opt, nil)
			if got := err == nil; got != want {
				t.Fatalf("skip: valid %v, want %v (%v)", got, want, err)
			}
			reports, err := collect(t, iotest.HalfReader(bytes.NewReader(data)), string(data), everything(), opt)
			if errors.Is(err, jsonscan.ErrDepth) {
				return
			}
			if got := err == nil; got != want {
				t.Fatalf("walk: valid %v, want %v (%v)", got, want, err)
			}
			kept, err := collect(t, &whole{body: data, until: len(data) * int(window) / 255}, string(data), everything(), opt)
			if got := err == nil; got != want || want && !slices.Equal(kept, reports) {
				t.Fatalf("the reports of what is kept differ: %v\n%s", err, cmp.Diff(reports, kept))
			}
			if n == 0 {
				first = reports
			} else if !slices.Equal(first, reports) {
				t.Fatalf("the reports depend on the window:\n%s", cmp.Diff(first, reports))
			}
		}
	})
}
