package jsonscan_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/jsonscan"
)

// whole keeps a body in one piece up to a size, step bytes at a time or a few, and moves it each time.
type whole struct {
	body        []byte
	step        int
	done, until int
	kept        []byte
	failed      error
}

func (w *whole) More() ([]byte, bool, error) {
	if w.done >= w.until && w.until < len(w.body) {
		return nil, false, nil
	}
	if w.done == len(w.body) {
		return w.kept, true, w.end()
	}
	n := min(max(w.step, 3), len(w.body)-w.done)
	all := append(slices.Clone(w.kept), w.body[w.done:w.done+n]...)
	for i := range w.kept { // nobody may look there any more
		w.kept[i] = 0
	}
	w.kept, w.done = all, w.done+n
	return all, true, nil
}

func (w *whole) end() error {
	if w.failed != nil {
		return w.failed
	}
	return io.EOF
}

func (w *whole) Read(p []byte) (int, error) {
	for i := range w.kept {
		w.kept[i] = 0
	}
	if w.done == len(w.body) {
		return 0, w.end()
	}
	n := copy(p, w.body[w.done:])
	w.done += n
	return n, nil
}

// A body that is kept in one piece is read where it lies, and in a window from where it is not kept
// any more, wherever that is.
func TestScanOfWhatIsKept(t *testing.T) {
	t.Parallel()
	body := `{"a":[1,-0.5e+10,"\u00e9 long enough for the words of eight bytes",true,{"\u0062":null,"c":{}},[]], "dd" : "x" }  `
	want, err := collect(t, strings.NewReader(body), body, everything(), jsonscan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for until := range len(body) + 1 {
		got, err := collect(t, &whole{body: []byte(body), until: until}, body, everything(), jsonscan.Options{Window: 16, MaxCapture: 1 << 10})
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("kept up to %d: %v\n%s", until, err, cmp.Diff(want, got))
		}
	}
	broken := errors.New("broken")
	for until := range 41 {
		_, err := collect(t, &whole{body: []byte(body)[:40], until: until, failed: broken}, body, everything(), jsonscan.Options{Window: 16})
		if !errors.Is(err, broken) {
			t.Errorf("kept up to %d: %v", until, err)
		}
	}
}

// What is larger than what is captured is left out, wherever the body lies.
func TestScanOfWhatIsKeptAndLarge(t *testing.T) {
	t.Parallel()
	small, large := `"`+strings.Repeat("a", 98)+`"`, `"`+strings.Repeat("b", 99)+`"`
	body := "[" + small + "," + large + "," + small + "]"
	root := jsonscan.NewNode()
	root.Link(jsonscan.Elem(), jsonscan.NewNode().Report(1, true))
	for n, until := range []int{0, 50, 150, len(body), len(body)} {
		got, err := collect(t, &whole{body: []byte(body), step: 20 * n, until: until}, body, root, jsonscan.Options{Window: 16, MaxCapture: 100})
		if err != nil || len(got) != 3 || got[0].Raw != small && until > 0 || got[1].Captured || got[2].Raw != small && until == len(body) {
			t.Errorf("kept up to %d: %v, %+v", until, err, got)
		}
	}
}

// partsWriter takes parts.
type partsWriter struct {
	bytes.Buffer
	most int
}

func (w *partsWriter) WriteParts(all [][]byte) error {
	w.most = max(w.most, len(all))
	for _, p := range all {
		w.Write(p)
	}
	return nil
}

// An editor of a body in memory makes the same of it as one that reads it, whatever is put in and
// wherever; what it was given may be changed after each edit.
func TestEditorOfWhatIsInMemory(t *testing.T) {
	t.Parallel()
	body := syncBody(120_000)
	for _, size := range []int{0, 1, 100, 9 << 10, 70 << 10} {
		for _, every := range []int64{50, 1000, 50_000} {
			var read, parts, plain bytes.Buffer
			to := &partsWriter{}
			all := []*jsonscan.Editor{
				jsonscan.NewEditor(&read, iotest.HalfReader(bytes.NewReader(body))), jsonscan.NewBytesEditor(to, body), jsonscan.NewBytesEditor(&plain, body),
			}
			data := make([]byte, size)
			for n, at := 0, int64(7); at+20 < int64(len(body)) && n < 70; n, at = n+1, at+every {
				for _, e := range all {
					for i := range data {
						data[i] = byte('a' + n%26)
					}
					edit := jsonscan.Edit{Op: jsonscan.Replace, Start: at, End: at + int64(n%20), Before: n%2 == 0, Data: data}
					if n%5 == 0 {
						edit = jsonscan.Edit{Op: jsonscan.Delete, Start: at, End: at + 9, Sep: -1}
					}
					if err := e.Apply(edit); err != nil {
						t.Fatal(err)
					}
					clear(data)
				}
			}
			for _, e := range all {
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
			}
			parts = to.Buffer
			if !bytes.Equal(read.Bytes(), parts.Bytes()) || !bytes.Equal(read.Bytes(), plain.Bytes()) {
				t.Errorf("%d bytes, every %d: %d, %d and %d bytes", size, every, read.Len(), parts.Len(), plain.Len())
			}
			if to.most > 65 || every == 50 && size == 1 && to.most < 10 {
				t.Errorf("%d bytes, every %d: %d parts at once", size, every, to.most)
			}
		}
	}
	failing := jsonscan.NewBytesEditor(failingWriter{}, body)
	if err := failing.Apply(jsonscan.Edit{Op: jsonscan.Replace, Start: 100_000, End: 100_001}); !errors.Is(err, errWriter) {
		t.Errorf("a writer that fails: %v", err)
	}
	if err := jsonscan.NewBytesEditor(failingWriter{}, body[:10]).Close(); !errors.Is(err, errWriter) {
		t.Errorf("at the end: %v", err)
	}
	short := jsonscan.NewBytesEditor(io.Discard, body[:10])
	if err := short.Apply(jsonscan.Edit{Op: jsonscan.Replace, Start: 11, End: 12}); !errors.Is(err, jsonscan.ErrEdit) {
		t.Errorf("behind the end: %v", err)
	}
}

var errWriter = errors.New("it takes nothing")

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errWriter }
