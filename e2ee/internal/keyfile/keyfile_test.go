package keyfile

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
)

// specExport is the example of the format that the reference JavaScript SDK tests with.
const specExport = exportHead + "\n" +
	"AXNhbHRzYWx0c2FsdHNhbHSIiIiIiIiIiIiIiIiIiIiIAAAACmIRUW2OjZ3L2l6j9h0lHlV3M2dx\n" +
	"cissyYBxjsfsAndErh065A8=\n" + exportTail

func sealExport(passphrase string, plain []byte) ([]byte, error) {
	var file bytes.Buffer
	w, err := NewWriter(secret.NewString(passphrase), 10, &file)
	if err != nil {
		return nil, err
	}
	err = w.End(bytes.Clone(plain))
	return file.Bytes(), err
}

func openExport(passphrase string, file []byte) ([]byte, error) {
	opened, err := Open(secret.NewString(passphrase), inMemory(file))
	if err != nil {
		return nil, err
	}
	text, err := opened.text()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(text)
}

func inMemory(file []byte) func() io.Reader {
	return func() io.Reader { return bytes.NewReader(file) }
}

// A file of another implementation opens (requirement 16.10).
func TestOpenExportOfOthers(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"as it is": specExport, "with CRLF": strings.ReplaceAll(specExport, "\n", "\r\n"), "with space around": "\n  " + specExport + "\n\n",
	} {
		plain, err := openExport("password", []byte(text))
		if err != nil || string(plain) != "plain" {
			t.Errorf("%s: %q, %v", name, plain, err)
		}
	}
}

func TestExportRoundTrip(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 2, 3, 71, 72, 73, 5000} {
		want := bytes.Repeat([]byte("x"), size)
		file, err := sealExport("pass", want)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(file)) {
			if len(line) > exportLine+1 {
				t.Errorf("a line of %d characters", len(line))
			}
		}
		got, err := openExport("pass", file)
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
		"4,294,967,295 rounds": {rounds(1<<32 - 1), ErrTooCostly},
		"too many rounds":      {rounds(wire.MaxIterations + 1), ErrTooCostly},
		"no rounds":            {rounds(0), ErrNotAnExport},
		"another passphrase":   {rounds(11), ErrWrongPassphrase},
		"a changed byte":       {wrap(func(raw []byte) []byte { raw[40] ^= 1; return raw }), ErrWrongPassphrase},
		"another version":      {wrap(func(raw []byte) []byte { raw[0] = 2; return raw }), ErrNotAnExport},
		"too short":            {wrap(func(raw []byte) []byte { return raw[:exportPrefix+31] }), ErrNotAnExport},
		"no base64":            {[]byte(exportHead + "\n!!!!\n" + exportTail), ErrNotAnExport},
		"no head":              {[]byte("hello"), ErrNotAnExport},
		"only a head":          {[]byte(exportHead), ErrNotAnExport},
		"nothing":              {nil, ErrNotAnExport},
		"too long":             {append(append([]byte(exportHead+"\n"), base64.StdEncoding.EncodeToString(raw[:exportPrefix+2])...), bytes.Repeat([]byte("A"), maxExport)...), ErrTooCostly},
		"too much space":       {bytes.Repeat([]byte(" "), maxExport+1), ErrTooCostly},
		"no tail":              {[]byte(exportHead + "\n" + base64.StdEncoding.EncodeToString(raw)), ErrNotAnExport},
		"half a tail":          {[]byte(exportHead + "\n" + base64.StdEncoding.EncodeToString(raw) + "\n-----END"), ErrNotAnExport},
		"more after the tail":  {append(wrap(func(raw []byte) []byte { return raw }), "\nx"...), ErrNotAnExport},
	} {
		if _, err := openExport("password", tt.file); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// Attack: one entry of a file is as large as a file may be.
//
// Expected: the file is refused before anything of it is stored.
func TestImportOfALargeEntry(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]error{maxImported / 2: nil, 2*maxImported + 4096: ErrTooCostly} {
		file, err := sealExport("pass", []byte(`[{"a":"`+strings.Repeat("x", size)+`"}]`))
		if err != nil {
			t.Fatal(err)
		}
		keys, err := Open(secret.NewString("pass"), inMemory(file))
		if err != nil {
			t.Fatal(err)
		}
		if err := keys.Check(); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v, want %v", size, err, want)
		}
	}
}
