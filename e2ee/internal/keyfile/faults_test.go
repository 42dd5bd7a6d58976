package keyfile

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"e2ee-proxy/internal/secret"
)

var errDisk = errors.New("the disk is gone")

// More of the vectors that the reference web client tests the format with
// (MegolmExportEncryption-test): the text, its passphrase and the file.
func TestOpenMoreExportsOfOthers(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ plain, passphrase, body string }{
		{"Hello, World", "betterpassword", "AW1vcmVzYWx0bW9yZXNhbHT//////////wAAAAAAAAAAAAAD6KyBpe1Niv5M5NPm4ZATsJo5nghk\nKYu63a0YQ5DRhUWEKk7CcMkrKnAUiZny"},
		{"alphanumericallyalphanumericallyalphanumericallyalphanumerically", "SWORDFISH", "AXllc3NhbHR5Z29vZG5lc3P//////////wAAAAAAAAAAAAAD6OIW+Je7gwvjd4kYrb+49gKCfExw\nMgJBMD4mrhLkmgAngwR1pHjbWXaoGybtiAYr0moQ93GrBQsCzPbvl82rZhaXO3iH5uHo/RCEpOqp\nPgg29363BGR+/Ripq/VCLKGNbw=="},
	} {
		text := exportHead + "\n" + v.body + "\n" + exportTail
		if plain, err := openExport(v.passphrase, []byte(text)); err != nil || string(plain) != v.plain {
			t.Errorf("%q: %q, %v", v.plain, plain, err)
		}
		for _, wrong := range []string{"", v.passphrase + " ", strings.ToUpper(v.passphrase) + "x"} {
			if _, err := openExport(wrong, []byte(text)); !errors.Is(err, ErrWrongPassphrase) {
				t.Errorf("%q opens with %q: %v", v.plain, wrong, err)
			}
		}
	}
}

// A file is the same however the network cuts it, and wherever its lines end.
func TestExportsInPieces(t *testing.T) {
	t.Parallel()
	var want []string
	var list strings.Builder
	for i := range 30 {
		want = append(want, fmt.Sprintf(`{"n":%d,"x":"%s"}`, i, strings.Repeat("y", i*37)))
		list.WriteString(map[bool]string{true: "[", false: ","}[i == 0] + want[i])
	}
	file, err := sealExport("pass", []byte(list.String()+"]"))
	if err != nil {
		t.Fatal(err)
	}
	oneLine := strings.ReplaceAll(string(file), "\n", "")
	oneLine = strings.Replace(strings.Replace(oneLine, exportHead, exportHead+"\n", 1), exportTail, "\n"+exportTail, 1)
	for name, open := range map[string]func() io.Reader{
		"whole":               inMemory(file),
		"by bytes":            func() io.Reader { return iotest.OneByteReader(bytes.NewReader(file)) },
		"by halves":           func() io.Reader { return iotest.HalfReader(bytes.NewReader(file)) },
		"the end with a part": func() io.Reader { return iotest.DataErrReader(bytes.NewReader(file)) },
		"in one line":         inMemory([]byte(oneLine)),
		"with tabs":           inMemory(bytes.ReplaceAll(file, []byte("\n"), []byte("\n\t"))),
	} {
		opened, err := Open(secret.NewString("pass"), open)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for range 2 { // it can be read again
			var got []string
			if err := opened.Each(func(raw []byte) error { got = append(got, string(raw)); return nil }); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %d entries, %v", name, len(got), err)
			}
		}
		if err := opened.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Attack: a file with the right passphrase, which somebody gave to the user, has a text that
// is no list of entries, or a list that ends in the middle.
//
// Expected: it is refused as a whole by Check, before anything of it is stored.
func TestTextsOfAFileThatAreNoList(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		`[]`: nil, ` [ {"a":1} , 7 ] `: nil, `[null,"text",[]]`: nil,
		``: ErrNotAnExport, `{}`: ErrNotAnExport, `"text"`: ErrNotAnExport, `null`: ErrNotAnExport, `plain`: ErrNotAnExport,
		`[`: ErrNotAnExport, `[{"a":1}`: ErrNotAnExport, `[{"a":1},`: ErrNotAnExport, `[{"a":1},]`: ErrNotAnExport, `[{"a":1} {"b":2}]`: ErrNotAnExport,
		`[{"a":1,"a":2}]`: ErrNotAnExport, `[{a:1}]`: ErrNotAnExport, "[\"\xff\"]": ErrNotAnExport, `[]]`: ErrNotAnExport, `[][]`: ErrNotAnExport, `[] x`: ErrNotAnExport,
		`[` + strings.Repeat("0,", maxImport-1) + `0]`: nil,
		`[` + strings.Repeat("0,", maxImport) + `0]`:   ErrTooCostly,
	} {
		file, err := sealExport("pass", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		opened, err := Open(secret.NewString("pass"), inMemory(file))
		if err != nil {
			t.Fatal(err)
		}
		if err := opened.Check(); !errors.Is(err, want) {
			t.Errorf("%.40s: %v, want %v", text, err, want)
		}
	}
	file, err := sealExport("pass", []byte(`[1,2,3]`))
	if err != nil {
		t.Fatal(err)
	}
	opened, err := Open(secret.NewString("pass"), inMemory(file))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = opened.Each(func([]byte) error {
		if seen++; seen == 2 {
			return errDisk
		}
		return nil
	})
	if !errors.Is(err, errDisk) || seen != 2 {
		t.Errorf("after an error of who reads, %d entries were read, %v", seen, err)
	}
}

// The disk breaks at any byte of a file: the error is the disk's, not one that tells the user
// that the file or the passphrase is wrong. A file that became shorter since it was opened is
// an error too.
func TestFilesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	file, err := sealExport("pass", []byte(`[{"a":1},{"b":"`+strings.Repeat("x", 200)+`"}]`))
	if err != nil {
		t.Fatal(err)
	}
	breaks := func(at int) func() io.Reader {
		return func() io.Reader { return io.MultiReader(bytes.NewReader(file[:at]), iotest.ErrReader(errDisk)) }
	}
	for at := range len(file) {
		if _, err := Open(secret.NewString("pass"), breaks(at)); !errors.Is(err, errDisk) {
			t.Fatalf("at byte %d: %v", at, err)
		}
		if _, err := Open(secret.NewString("pass"), inMemory(file[:at])); !errors.Is(err, ErrNotAnExport) && at < len(file)-1 { // the last is a line end
			t.Fatalf("cut at byte %d: %v", at, err)
		}
	}
	whole := true
	opened, err := Open(secret.NewString("pass"), func() io.Reader {
		if whole {
			return bytes.NewReader(file)
		}
		return bytes.NewReader(file[:len(file)/2])
	})
	if err != nil {
		t.Fatal(err)
	}
	whole = false
	if err := opened.Check(); err == nil {
		t.Error("half a file is whole")
	}
	for at := range len(file) - len(exportTail) - 60 { // behind that comes the MAC, which is not read again
		opened.open = breaks(at)
		if err := opened.Check(); !errors.Is(err, errDisk) {
			t.Fatalf("broken at byte %d after it was opened: %v", at, err)
		}
	}
}

// full is a disk that takes only so many bytes.
type full struct{ left int }

func (f *full) Write(p []byte) (int, error) {
	if len(p) > f.left {
		n := f.left
		f.left = 0
		return n, errDisk
	}
	f.left -= len(p)
	return len(p), nil
}

// The disk is full at any byte of a file that is written: whoever writes is told, and no file
// without an end is taken for a whole one.
func TestFilesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	write := func(w io.Writer) error {
		out, err := NewWriter(secret.NewString("pass"), 1, w)
		if err != nil {
			return err
		}
		for range 3 {
			if err := out.Write(bytes.Repeat([]byte("x"), 50)); err != nil {
				return err
			}
		}
		return out.End([]byte("end"))
	}
	var whole bytes.Buffer
	if err := write(&whole); err != nil {
		t.Fatal(err)
	}
	for room := range whole.Len() {
		if err := write(&full{left: room}); !errors.Is(err, errDisk) {
			t.Fatalf("with room for %d of %d bytes: %v", room, whole.Len(), err)
		}
	}
	if err := write(&full{left: whole.Len()}); err != nil {
		t.Error(err)
	}
}

// What is written is the format byte by byte (Client-Server API, "Key export format"): version,
// salt, IV with bit 63 clear, rounds, and no two files have the same salt or IV.
func TestWrittenPrefix(t *testing.T) {
	t.Parallel()
	salts := make(map[string]bool)
	for range 40 {
		file, err := sealExport("pass", []byte("text"))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(file), "\n")
		if lines[0] != exportHead || lines[len(lines)-2] != exportTail || lines[len(lines)-1] != "" {
			t.Fatalf("the file is %q", lines)
		}
		raw, err := base64.StdEncoding.DecodeString(strings.Join(lines[1:len(lines)-2], ""))
		if err != nil || len(raw) != exportPrefix+len("text")+32 {
			t.Fatalf("%d bytes, %v", len(raw), err)
		}
		if raw[0] != 1 || raw[17+8]&0x80 != 0 || binary.BigEndian.Uint32(raw[33:37]) != 10 {
			t.Errorf("version %d, IV %x, rounds %d", raw[0], raw[17:33], binary.BigEndian.Uint32(raw[33:37]))
		}
		if salts[string(raw[1:17])] || salts[string(raw[17:33])] || bytes.Contains(raw, []byte("text")) {
			t.Error("a salt or an IV is used twice, or the text is in clear")
		}
		salts[string(raw[1:17])], salts[string(raw[17:33])] = true, true
	}
}
