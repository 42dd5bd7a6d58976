package jsonscan

import (
	"bufio"
	"io"
)

// The ends of an [Editor]: a body that is read through a buffer is written through one; of a body in
// memory nothing is copied.

// source is a body that is read from its start.
type source interface {
	Peek(n int) ([]byte, error)
	Buffered() int
	Discard(n int) (int, error)
	copyRest(to sink) error
}

// sink takes a body.
type sink interface {
	// Write and WriteByte copy what they are given, as far as it is needed later.
	Write(p []byte) (int, error)
	WriteByte(c byte) error
	// Keep takes a part of the source, which stays as it is.
	Keep(p []byte) error
	Flush() error
}

type stream struct{ *bufio.Reader }

func (s stream) copyRest(to sink) error {
	_, err := s.WriteTo(to)
	return err //nolint:wrapcheck // the editor says what failed
}

type buffered struct{ *bufio.Writer }

func (b buffered) Keep(p []byte) error {
	_, err := b.Write(p)
	return err //nolint:wrapcheck // the editor says what failed
}

// memory is the rest of a body in memory.
type memory struct{ rest []byte }

func (m *memory) Peek(n int) ([]byte, error) {
	if n > len(m.rest) {
		return m.rest, io.EOF
	}
	return m.rest[:n], nil
}

func (m *memory) Buffered() int { return len(m.rest) }

func (m *memory) Discard(n int) (int, error) {
	m.rest = m.rest[n:]
	return n, nil
}

func (m *memory) copyRest(to sink) error { return to.Keep(m.rest) }

// PartsWriter takes several parts of a body at once.
type PartsWriter interface {
	io.Writer
	// WriteParts writes all of them, and keeps nothing of them.
	WriteParts(all [][]byte) error
}

const (
	// manyParts is how many parts are written at once, and partsCopied how much of them is copied, in
	// bytes.
	manyParts, partsCopied = 64, 16 << 10
)

// parts collects what is to be written.
type parts struct {
	dst    io.Writer
	all    [][]byte
	size   int
	copied []byte // those that were copied
	last   bool   // the last part is the end of copied
	one    [1]byte
}

// NewBytesEditor is like [NewEditor], for a document in memory. dst is written to in large pieces, or
// in many parts at once if it is a [PartsWriter].
func NewBytesEditor(dst io.Writer, src []byte) *Editor {
	return &Editor{src: &memory{src}, dst: &parts{dst: dst}}
}

func (w *parts) Write(p []byte) (int, error) {
	if len(p) > partsCopied/2 { // it is written before the caller changes it
		if err := w.Keep(p); err != nil {
			return 0, err
		}
		return len(p), w.Flush()
	}
	if len(w.copied)+len(p) > partsCopied {
		if err := w.Flush(); err != nil {
			return 0, err
		}
	}
	w.add(p)
	return len(p), nil
}

// add copies a part for which there is room.
func (w *parts) add(p []byte) {
	if w.copied == nil {
		w.copied = make([]byte, 0, partsCopied)
	}
	from := len(w.copied)
	w.copied = append(w.copied, p...)
	w.size += len(p)
	if n := len(w.all) - 1; w.last {
		w.all[n] = w.copied[from-len(w.all[n]):]
		return
	}
	w.all, w.last = append(w.all, w.copied[from:]), true
}

func (w *parts) WriteByte(c byte) error {
	w.one[0] = c
	_, err := w.Write(w.one[:])
	return err
}

func (w *parts) Keep(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	w.all, w.last = append(w.all, p), false
	if w.size += len(p); w.size >= editorBuffer || len(w.all) >= manyParts {
		return w.Flush()
	}
	return nil
}

func (w *parts) Flush() error {
	all := w.all
	w.all, w.size, w.copied, w.last = w.all[:0], 0, w.copied[:0], false
	if to, ok := w.dst.(PartsWriter); ok && len(all) > 0 {
		return to.WriteParts(all) //nolint:wrapcheck // the editor says what failed
	}
	for _, p := range all {
		if _, err := w.dst.Write(p); err != nil {
			return err //nolint:wrapcheck // the editor says what failed
		}
	}
	return nil
}
