package e2ee

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"e2ee-proxy/e2ee/internal/keyfile"
	"e2ee-proxy/internal/secret"
)

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
	out, err := keyfile.NewWriter(secret.NewString("pass"), 10, file)
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
		if err := out.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(out.End([]byte("]")), file.Close()); err != nil {
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
	keys, err := keyfile.Open(secret.NewString("pass"), open)
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Check(); err != nil {
		t.Fatal(err)
	}
	err = keys.Each(func(raw []byte) error {
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
