package attachment

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/internal/strictjson"
)

const (
	// maxTextRead is the longest text that is looked at in what is too large for memory, in bytes.
	maxTextRead = 1 << 20
	// maxNamed is how many files such a body may name.
	maxNamed = 32 << 10
	// readSize is how much is read of it at once.
	readSize = 32 << 10
)

// ErrTooMuch means that a text is too long to be looked at, or that there are too many files.
var ErrTooMuch = errors.New("a text is too long to look for files in it, or names too many")

// Named returns the content URIs in the texts of a JSON value, wherever they stand.
func Named(raw []byte) []string {
	all, _ := named(bytes.NewReader(raw), math.MaxInt, math.MaxInt)
	return all
}

// NamedIn is [Named] for what is not in memory. It may return [ErrTooMuch].
func NamedIn(from io.Reader) ([]string, error) {
	return named(bufio.NewReaderSize(from, readSize), maxTextRead, maxNamed)
}

func named(from io.Reader, longest, most int) ([]string, error) {
	var all []string
	seen := make(map[string]bool)
	err := eachText(from, longest, func(_ string, _, _ int64, text string) error {
		for {
			from, to, ok := NextURI(text)
			if !ok {
				return nil
			}
			uri := strings.Clone(text[from:to]) // the text may be long
			text = text[to:]
			if seen[uri] {
				continue
			}
			if len(all) >= most {
				return ErrTooMuch
			}
			seen[uri] = true
			all = append(all, uri)
		}
	})
	return all, err
}

// InClear returns a JSON value with the URIs of known files replaced by those of copies in
// clear, wherever they stand. Files that were sent to encrypted rooms are copied only for what
// refers to them by a URL. Everything else stays byte for byte.
func InClear(raw []byte, known map[string]File, toCopy Copy) ([]byte, error) {
	var out bytes.Buffer
	if err := inClear(&out, bytes.NewReader(raw), int64(len(raw)), math.MaxInt, known, toCopy); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// InClearTo is [InClear] for what is not in memory: it writes the value to out. It may return
// [ErrTooMuch].
func InClearTo(out io.Writer, raw io.ReaderAt, size int64, known map[string]File, toCopy Copy) error {
	return inClear(out, raw, size, maxTextRead, known, toCopy)
}

func inClear(out io.Writer, raw io.ReaderAt, size int64, longest int, known map[string]File, toCopy Copy) error {
	var done int64
	upTo := func(end int64) error {
		_, err := io.Copy(out, io.NewSectionReader(raw, done, end-done))
		return err //nolint:wrapcheck // it says what failed
	}
	err := eachText(bufio.NewReaderSize(io.NewSectionReader(raw, 0, size), readSize), longest, func(name string, from, to int64, text string) error {
		which := copyFresh(toCopy)
		if isReference(name, text) {
			which = toCopy
		}
		changed, err := replaceURIs(text, known, which)
		if err != nil || changed == text {
			return err
		}
		if err := upTo(from); err != nil {
			return err
		}
		done = to
		if _, err := out.Write(strictjson.AppendQuote(nil, changed)); err != nil {
			return fmt.Errorf("write a text: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return upTo(size)
}

// eachText calls do for every text that is a value and may have content URIs, with the name of
// the member and its place. What follows a place that is no JSON is left out. A text that is longer
// than longest is [ErrTooMuch]; other errors are the reader's, and those of do.
func eachText(raw io.Reader, longest int, do func(name string, from, to int64, text string) error) error {
	ahead := &bounded{from: raw, longest: longest}
	dec := jsontext.NewDecoder(ahead, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	ahead.at = dec.InputOffset
	for {
		if dec.PeekKind() != jsontext.KindString {
			if _, err := dec.ReadToken(); err != nil {
				return ahead.err // what is no JSON passes as it came, or is refused by others
			}
			continue
		}
		kind, n := dec.StackIndex(dec.StackDepth())
		quoted, err := dec.ReadValue()
		if err != nil {
			return ahead.err
		}
		if kind == jsontext.KindBeginObject && n%2 == 0 || !MayNameURIs(quoted) {
			continue // a name, or an ordinary text
		}
		text, _ := jsontext.AppendUnquote(nil, quoted) // what is no Unicode becomes U+FFFD
		if !bytes.Contains(text, []byte(scheme)) {
			continue
		}
		to := dec.InputOffset()
		if err := do(dec.StackPointer().LastToken(), to-int64(len(quoted)), to, string(text)); err != nil {
			return err
		}
	}
}

// bounded is what a decoder reads from, which must hold all of a text: it ends before that is too
// long.
type bounded struct {
	from    io.Reader
	longest int
	at      func() int64 // how far the decoder is
	read    int64
	err     error // why it ended, unless that is the end
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.err == nil && b.read-b.at() > int64(b.longest) {
		b.err = ErrTooMuch
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.from.Read(p)
	b.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err //nolint:wrapcheck // it is the reader's, io.EOF above all
}
