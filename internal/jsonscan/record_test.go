package jsonscan_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/jsonscan"
)

// records returns a graph of lists of records, in which values at three levels are noted.
func records() *jsonscan.Node {
	event := jsonscan.NewNode()
	for n, path := range [][]string{
		{"type"}, {"state_key"}, {"content", "membership"}, {"content", "url"}, {"unsigned", "prev_content", "membership"},
		{"origin_server_ts"}, {"a"}, {""}, {"content", "m.relates_to", "rel_type"},
	} {
		at := event
		for _, name := range path {
			at = at.Down(jsonscan.Key(name))
		}
		at.Note(n)
	}
	event.Record(1)
	root := jsonscan.NewNode().Report(2, false)
	root.Link(jsonscan.Elem(), event)
	root.Down(jsonscan.Any()).Report(3, false).Link(jsonscan.Elem(), event)
	root.Link(jsonscan.Key("alone"), event)
	return root
}

// scanned returns everything that the records in a body report.
func scanned(r io.Reader, root *jsonscan.Node, opt jsonscan.Options) ([]string, error) {
	var got []string
	_, err := jsonscan.Scan(r, root, opt, func(v *jsonscan.Value) error {
		var line strings.Builder
		fmt.Fprint(&line, v.ID, " ", string(v.Kind), v.Start, v.End, v.Member, v.Sep, v.Inside, v.Index, v.Count, " ", string(v.Name(0)), " ", v.Raw != nil, " ", string(v.Raw))
		if v.ID == 1 {
			fmt.Fprint(&line, " ", v.Repeated(), " ", v.Raw != nil && v.Flagged) // it may be flagged without a reason when it is not captured
			for n := range jsonscan.MaxNotes {
				if at := v.Noted(n); at.Count > 0 {
					fmt.Fprint(&line, " ", n, at.Count, " ", string(at.Kind), " ", at.At, " ", string(at.Raw))
				}
			}
		}
		got = append(got, line.String())
		return nil
	})
	return got, err
}

const anEvent = `{"type":"m.room.member","state_key":"@a:b","content":{"membership":"join","url":{"x":[1,{}]},"body":"a \"b\" \u00e9 c"},` +
	`"origin_server_ts":1432735824653,"unsigned":{"prev_content":{"membership":"leave"},"age":-0.5e+3},"type":null}`

func TestRecordNotesValues(t *testing.T) {
	t.Parallel()
	body := `[` + anEvent + `,{},7]`
	for _, opt := range []jsonscan.Options{{}, jsonscan.Options{}.Slow()} {
		got := map[int]string{}
		err := jsonscan.ScanBytes([]byte(body), records(), opt, func(v *jsonscan.Value) error {
			for n := range jsonscan.MaxNotes {
				if at := v.Noted(n); at.Count > 0 {
					got[n] = fmt.Sprint(at.Count, " ", string(at.Kind), " ", string(at.Raw))
					if v.Index != 0 || body[1+at.At:][:len(at.Raw)] != string(at.Raw) {
						t.Errorf("note %d of %q is at %d", n, v.Raw, at.At)
					}
				}
			}
			return nil
		})
		want := map[int]string{
			0: "2 n null", 1: `1 " "@a:b"`, 2: `1 " "join"`, 3: `1 { {"x":[1,{}]}`, 4: `1 " "leave"`, 5: "1 1 1432735824653",
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v, notes (-want +got):\n%s", err, diff)
		}
	}
}

// What is noted of a record that is too large to be captured is known all the same.
func TestRecordThatIsLarge(t *testing.T) {
	t.Parallel()
	body := `[{"type":"x","content":{"body":"` + strings.Repeat("y", 500) + `","membership":"join"},"state_key":""},{"type":"z"}]`
	for _, window := range []int{16, 4096} {
		for _, opt := range []jsonscan.Options{{Window: window, MaxCapture: 100}, jsonscan.Options{Window: window, MaxCapture: 100}.Slow()} {
			got, err := scanned(strings.NewReader(body), records(), opt)
			if err != nil || len(got) != 3 || !strings.Contains(got[0], `false  false false 0 1 " 8 "x" 1 1 `) || !strings.Contains(got[0], ` "join"`) || !strings.Contains(got[1], `{"type":"z"}`) {
				t.Errorf("window %d: %v, %q", window, err, got)
			}
		}
	}
}

// A graph that is changed after its records were made is followed as it is now.
func TestRecordThatIsChanged(t *testing.T) {
	t.Parallel()
	event := jsonscan.NewNode()
	content := event.Down(jsonscan.Key("content"))
	content.Down(jsonscan.Key("membership")).Note(0)
	event.Record(1)
	content.Down(jsonscan.Key("body")).Note(1)
	err := jsonscan.ScanBytes([]byte(`{"content":{"body":7}}`), event, jsonscan.Options{}, func(v *jsonscan.Value) error {
		if got := string(v.Noted(1).Raw); got != "7" {
			t.Errorf("noted %q", got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// The quick way reports what the slow one does, byte by byte, of whatever comes, and fails where
// it does.
func FuzzQuick(f *testing.F) {
	for _, s := range []string{
		anEvent, `{"a":1}`, `{"":[]}`, `{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":1e+}`, `{"a":0}`, `{"a":tru}`, `{"a":null,}`, `{"a" : [ 1 , { } ] }`,
		`{"\u0061":1,"a":2}`, `{"content":{"membership":"join"},"content":[{"decrypted":1}]}`, `{"m.relations":{"decrypted":1}}`, `{"dev.e2ee-proxy.x":1}`,
		`{"a":"\ud83d\ude00 long enough \x"}`, "{\"a\":\"0123456\t\"}", `{"a":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`,
		`{"a":[}}`, `{"a":{]}`, `{"a":[{"b":[1,2,{"c":true}]},false]}`, "{\"a\":\"\xff\"}", `{"type":"x" "a":1}`, `7`, `[[{}]]`,
	} {
		f.Add([]byte(s), uint8(0))
	}
	f.Fuzz(func(t *testing.T, event []byte, window uint8) {
		for _, form := range []string{`%s`, `[%s,%s]`, `{"k":[%s,{"type":7},%s],"alone":%s}`} {
			body := bytes.ReplaceAll([]byte(form), []byte("%s"), event)
			for _, opt := range []jsonscan.Options{{Watch: watch}, {Watch: watch, Window: 16 + 3*int(window)}, {Watch: watch, Window: 64, MaxCapture: 40 + int(window)}} {
				want, failed := scanned(bytes.NewReader(body), records(), opt.Slow())
				for _, r := range []io.Reader{bytes.NewReader(body), iotest.HalfReader(bytes.NewReader(body))} {
					got, err := scanned(r, records(), opt)
					var a, b *jsonscan.SyntaxError
					if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (failed == nil) || errors.As(err, &a) && errors.As(failed, &b) && *a != *b {
						t.Fatalf("%q: %v, the slow way %v:\n%s", body, err, failed, diff)
					}
				}
			}
		}
	})
}
