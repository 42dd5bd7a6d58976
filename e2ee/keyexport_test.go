package e2ee

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"e2ee-proxy/internal/secret"
)

// specExport is the example of the format that the reference JavaScript SDK tests with.
const specExport = exportHead + "\n" +
	"AXNhbHRzYWx0c2FsdHNhbHSIiIiIiIiIiIiIiIiIiIiIAAAACmIRUW2OjZ3L2l6j9h0lHlV3M2dx\n" +
	"cissyYBxjsfsAndErh065A8=\n" + exportTail

// A file of another implementation opens (requirement 16.10).
func TestOpenExportOfOthers(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"as it is": specExport, "with CRLF": strings.ReplaceAll(specExport, "\n", "\r\n"), "with space around": "\n  " + specExport + "\n\n",
	} {
		plain, err := openExport(secret.NewString("password"), []byte(text))
		if err != nil || string(plain) != "plain" {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
	}
}

func TestExportRoundTrip(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 2, 3, 71, 72, 73, 5000} {
		var file bytes.Buffer
		w, err := newExportWriter(secret.NewString("pass"), 10, &file)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte("x"), size)
		if err := w.end(bytes.Clone(want)); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(file.String()) {
			if len(line) > exportLine+1 {
				t.Errorf("a line of %d characters", len(line))
			}
		}
		got, err := openExport(secret.NewString("pass"), file.Bytes())
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %q, %v", size, got, err)
		}
	}
}

// Attack: a file that somebody gave to the user costs hours, or much memory, or is not
// what it seems. It is refused before any of its content is looked at.
func TestHostileExports(t *testing.T) {
	t.Parallel()
	raw, err := base64.StdEncoding.DecodeString(strings.Split(specExport, "\n")[1] + strings.Split(specExport, "\n")[2])
	if err != nil {
		t.Fatal(err)
	}
	wrap := func(change func(raw []byte) []byte) []byte {
		return []byte(exportHead + "\n" + base64.StdEncoding.EncodeToString(change(bytes.Clone(raw))) + "\n" + exportTail)
	}
	rounds := func(n uint32) []byte {
		return wrap(func(raw []byte) []byte { binary.BigEndian.PutUint32(raw[33:], n); return raw })
	}
	for name, tt := range map[string]struct {
		file []byte
		want error
	}{
		"4,294,967,295 rounds": {rounds(1<<32 - 1), ErrExportTooCostly},
		"too many rounds":      {rounds(maxIterations + 1), ErrExportTooCostly},
		"no rounds":            {rounds(0), ErrNotAnExport},
		"another passphrase":   {rounds(11), ErrWrongPassphrase},
		"a changed byte":       {wrap(func(raw []byte) []byte { raw[40] ^= 1; return raw }), ErrWrongPassphrase},
		"another version":      {wrap(func(raw []byte) []byte { raw[0] = 2; return raw }), ErrNotAnExport},
		"too short":            {wrap(func(raw []byte) []byte { return raw[:exportPrefix+31] }), ErrNotAnExport},
		"no base64":            {[]byte(exportHead + "\n!!!!\n" + exportTail), ErrNotAnExport},
		"no head":              {[]byte("hello"), ErrNotAnExport},
		"only a head":          {[]byte(exportHead), ErrNotAnExport},
		"nothing":              {nil, ErrNotAnExport},
		"too long":             {append(append([]byte(exportHead+"\n"), base64.StdEncoding.EncodeToString(raw[:exportPrefix+2])...), bytes.Repeat([]byte("A"), MaxExport)...), ErrExportTooCostly},
		"too much space":       {bytes.Repeat([]byte(" "), MaxExport+1), ErrExportTooCostly},
		"no tail":              {[]byte(exportHead + "\n" + base64.StdEncoding.EncodeToString(raw)), ErrNotAnExport},
		"half a tail":          {[]byte(exportHead + "\n" + base64.StdEncoding.EncodeToString(raw) + "\n-----END"), ErrNotAnExport},
		"more after the tail":  {append(wrap(func(raw []byte) []byte { return raw }), "\nx"...), ErrNotAnExport},
	} {
		if _, err := openExport(secret.NewString("password"), tt.file); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// Attack: a file of keys as large as may be, which is held in memory several times over
// while it is opened, takes the memory of everybody.
//
// Expected: it is read where it lies; what is in memory does not grow with it.
func TestImportedFileIsNotHeldInMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.txt")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := newExportWriter(secret.NewString("pass"), 10, file)
	if err != nil {
		t.Fatal(err)
	}
	const entries, size = 2000, 20_000
	entry := []byte(`,{"room_id":"!r:hs","session_id":"` + strings.Repeat("x", size) + `"}`)
	for i := range entries {
		text := bytes.Clone(entry)
		if i == 0 {
			text[0] = '['
		}
		if err := out.write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(out.end([]byte("]")), file.Close()); err != nil {
		t.Fatal(err)
	}
	var opened []*os.File
	open := func() io.Reader {
		f, err := os.Open(path)
		if err != nil {
			t.Error(err)
		}
		opened = append(opened, f)
		return f
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before, most, n := heap(), int64(0), 0
	keys, err := authenticate(secret.NewString("pass"), open)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkImport(keys); err != nil {
		t.Fatal(err)
	}
	err = keys.each(func(raw []byte) error {
		if n++; n%500 == 0 {
			most = max(most, heap()-before)
		}
		if _, err := importedSession(bytes.Clone(raw)); err == nil {
			t.Error("an entry of nothing was taken")
		}
		return nil
	})
	for _, f := range opened {
		_ = f.Close()
	}
	if err != nil || n != entries {
		t.Errorf("%d entries: %v", n, err)
	}
	if most > 2<<20 {
		t.Errorf("the heap grew by %d bytes for a file of %d", most, entries*size)
	}
}

// Attack: one entry of a file is as large as a file may be.
//
// Expected: the file is refused before anything of it is stored.
func TestImportOfALargeEntry(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]error{maxImported / 2: nil, 2*maxImported + 4096: ErrExportTooCostly} {
		file, err := SealExport(secret.NewString("pass"), []byte(`[{"a":"`+strings.Repeat("x", size)+`"}]`))
		if err != nil {
			t.Fatal(err)
		}
		keys, err := authenticate(secret.NewString("pass"), KeyFile(file))
		if err != nil {
			t.Fatal(err)
		}
		if err := checkImport(keys); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", size, err, want)
		}
	}
}
