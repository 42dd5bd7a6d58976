package keyfile

import (
	"bufio"
	"bytes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
)

// Check checks, before anything is stored, that the file is one complete list and not too
// long.
func (f *File) Check() error {
	n := 0
	return f.Each(func([]byte) error {
		if n++; n > maxImport {
			return ErrTooCostly
		}
		return nil
	})
}

// File is a file whose MAC was right.
type File struct {
	open  func() io.Reader
	block cipher.Block
	iv    []byte
	size  int64 // of the text in it, in bytes
}

// Open opens a file and checks its MAC over the whole of it.
func Open(passphrase secret.String, open func() io.Reader) (*File, error) {
	raw := exportBytes(open())
	prefix := make([]byte, exportPrefix)
	if _, err := io.ReadFull(raw, prefix); err != nil {
		return nil, notAnExport(err)
	}
	rounds := binary.BigEndian.Uint32(prefix[33:])
	switch {
	case prefix[0] != exportVersion, rounds == 0:
		return nil, ErrNotAnExport
	case rounds > wire.MaxIterations:
		return nil, ErrTooCostly
	}
	block, mac, err := deriveExport(passphrase, prefix)
	if err != nil {
		return nil, err
	}
	mac.Write(prefix)
	// The MAC comes last, so as many bytes are always held back.
	in, sum := bufio.NewReader(raw), make([]byte, 0, sha256.Size)
	buf := make([]byte, 4<<10)
	var size int64
	for err == nil {
		var n int
		n, err = in.Read(buf[len(sum):])
		copy(buf, sum)
		n += len(sum)
		body := max(n-sha256.Size, 0)
		mac.Write(buf[:body])
		size += int64(body)
		sum = append(sum[:0], buf[body:n]...)
	}
	switch {
	case !errors.Is(err, io.EOF):
		return nil, notAnExport(err)
	case len(sum) < sha256.Size:
		return nil, ErrNotAnExport
	case !hmac.Equal(mac.Sum(nil), sum):
		return nil, ErrWrongPassphrase
	}
	return &File{open: open, block: block, iv: prefix[17:33], size: size}, nil
}

// notAnExport returns ErrNotAnExport for an error in the file's format, and other read
// errors unchanged.
func notAnExport(err error) error {
	var letters base64.CorruptInputError
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &letters) {
		return ErrNotAnExport
	}
	return err
}

// text returns a new reader of the decrypted text.
func (f *File) text() (io.Reader, error) {
	raw := exportBytes(f.open())
	if _, err := io.CopyN(io.Discard, raw, exportPrefix); err != nil {
		return nil, fmt.Errorf("read a file of keys: %w", err)
	}
	return &cipher.StreamReader{S: cipher.NewCTR(f.block, f.iv), R: io.LimitReader(raw, f.size)}, nil
}

// Each calls entry with every entry of a file. An entry is valid until the next call.
func (f *File) Each(entry func(raw []byte) error) error {
	text, err := f.text()
	if err != nil {
		return err
	}
	source := &source{Reader: text}
	meter := &strictjson.Meter{R: source, Limit: maxImported}
	dec := jsontext.NewDecoder(meter)
	bad := func(err error) error {
		switch {
		case source.err != nil:
			return source.err
		case errors.Is(err, strictjson.ErrMalformed):
			return ErrTooCostly // a single entry
		}
		return ErrNotAnExport
	}
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != jsontext.KindBeginArray {
		return bad(err)
	}
	for dec.PeekKind() != jsontext.KindEndArray {
		raw, err := dec.ReadValue()
		if err != nil {
			return bad(err)
		}
		meter.Used = 0
		if err := entry(raw); err != nil {
			return err
		}
	}
	if _, err = dec.ReadToken(); err != nil {
		return bad(err)
	}
	if _, end := dec.ReadToken(); !errors.Is(end, io.EOF) {
		return bad(end)
	}
	return nil
}

// source keeps the error of the file that is read, which decoders hide behind their own.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// exportBytes returns a reader of the bytes between a file's first and last line.
func exportBytes(file io.Reader) io.Reader {
	letters := &source{Reader: &exportText{from: bufio.NewReader(file)}}
	return &decoder{letters, base64.NewDecoder(base64.RawStdEncoding, letters)}
}

// decoder reads base64. Unlike the standard decoder it does not call an end in the middle of
// a group malformed when the file could not be read further.
type decoder struct {
	letters *source
	bytes   io.Reader
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.bytes.Read(p)
	if err != nil && d.letters.err != nil {
		err = d.letters.err
	}
	return n, err
}

// exportText reads the base64 letters of a file, without other white space and padding. The
// decoder that reads from it ignores line ends.
type exportText struct {
	from  *bufio.Reader
	got   int
	begun bool
	err   error
}

func (t *exportText) Read(p []byte) (int, error) {
	if t.err == nil && !t.begun {
		t.begun = true
		t.err = t.head()
	}
	n := 0
	for t.err == nil && n < len(p) {
		if letters := t.letters(p[n:]); letters > 0 {
			n += letters
			continue
		}
		var c byte
		if c, t.err = t.from.ReadByte(); t.err != nil {
			t.err = noTail(t.err)
			break
		}
		if t.got++; t.got > maxExport {
			t.err = ErrTooCostly
			break
		}
		switch c {
		case ' ', '\t', '\r', '\n', '=':
		case '-': // not in the base64 alphabet
			t.err = t.tail()
		default:
			p[n] = c
			n++
		}
	}
	return n, t.err
}

// letters copies buffered bytes up to the next one that is not, or may not be, a letter of
// base64.
func (t *exportText) letters(p []byte) int {
	run, _ := t.from.Peek(min(len(p), t.from.Buffered())) // never more than is buffered
	n := bytes.IndexAny(run, " \t\r\n=-")
	if n < 0 {
		n = len(run)
	}
	n = copy(p, run[:n])
	t.got += n
	_, _ = t.from.Discard(n)
	if t.got > maxExport {
		t.err = ErrTooCostly
	}
	return n
}

// noTail turns an early end of a file into an error.
func noTail(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrNotAnExport
	}
	return fmt.Errorf("read a file of keys: %w", err)
}

// head reads white space and the first line of a file.
func (t *exportText) head() error {
	for {
		c, err := t.from.ReadByte()
		if err != nil {
			return noTail(err)
		}
		if t.got++; t.got > maxExport {
			return ErrTooCostly
		}
		if !isSpace(c) {
			return t.expect(exportHead)
		}
	}
}

// tail reads the last line of a file, from its second character, and white space.
func (t *exportText) tail() error {
	if err := t.expect(exportTail); err != nil {
		return err
	}
	for {
		switch c, err := t.from.ReadByte(); {
		case errors.Is(err, io.EOF):
			return io.EOF
		case err != nil:
			return noTail(err)
		case !isSpace(c):
			return ErrNotAnExport
		}
		if t.got++; t.got > maxExport {
			return ErrTooCostly
		}
	}
}

// expect reads the rest of a line whose first byte was read.
func (t *exportText) expect(line string) error {
	if err := t.from.UnreadByte(); err != nil {
		return noTail(err)
	}
	got := make([]byte, len(line))
	switch _, err := io.ReadFull(t.from, got); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), err == nil && string(got) != line:
		return ErrNotAnExport
	case err != nil:
		return noTail(err)
	}
	return nil
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }
