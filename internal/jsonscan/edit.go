package jsonscan

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Op is the kind of an [Edit]. The zero value is not an edit.
type Op int

const (
	// Replace puts Data in the place of the value from Start to End. Data is a value.
	Replace Op = iota + 1
	// Delete removes the element or member from Start to End with one of the commas around it.
	// Of a member, Start is the offset of its name.
	Delete
	// Insert puts Data at Start, where an element or member may be: behind the opening bracket
	// of a container or before its closing one. Data is one or more elements or members, with
	// commas between them.
	Insert
)

// Edit is one change to a body whose offsets a [Scan] reported.
type Edit struct {
	Op         Op
	Start, End int64
	// Sep, for Delete, is the offset of the comma before Start, -1 when there is none.
	Sep int64
	// Before reports, for Delete and Insert, whether something precedes this place in its
	// container that is kept or was inserted. For Replace it puts a comma in front.
	Before bool
	// After reports, for Insert, whether the next element is kept as it is.
	After bool
	Data  []byte
}

// ErrEdit means that an edit does not fit the body or the edits before it.
var ErrEdit = errors.New("jsonscan: edit out of place")

const editorBuffer = 64 << 10

// Editor copies a body and applies edits on the way. The edits must be in the order of the
// body and not overlap.
//
// An insertion at the front of a container whose first element is edited too leaves After
// unset, because that element may be deleted; if it is kept, its Replace has Before set.
type Editor struct {
	src source
	dst sink
	pos int64 // of src
	// swallow is set behind a deleted first element: the comma that follows is removed too.
	swallow bool
}

// NewEditor returns an editor that copies src, a valid JSON document, to dst.
func NewEditor(dst io.Writer, src io.Reader) *Editor {
	return &Editor{src: stream{bufio.NewReaderSize(src, editorBuffer)}, dst: buffered{bufio.NewWriterSize(dst, editorBuffer)}}
}

// Splice applies edits to a document in memory and returns the result.
func Splice(data []byte, edits []Edit) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(data))
	e := &Editor{src: &memory{data}, dst: &parts{dst: &out}}
	for _, c := range edits {
		if err := e.Apply(c); err != nil {
			return nil, err
		}
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Apply copies the body up to the edit and applies it.
func (e *Editor) Apply(c Edit) error {
	var err error
	switch c.Op {
	case Replace:
		if err = e.copyTo(c.Start); err == nil && c.Before {
			err = e.dst.WriteByte(',')
		}
		if err == nil {
			err = e.put(c.Data)
		}
		if err == nil {
			err = e.dropTo(c.End)
		}
	case Delete:
		from := c.Start
		if c.Before && c.Sep >= 0 {
			from = c.Sep
		}
		if err = e.copyTo(from); err == nil {
			err = e.dropTo(c.End)
		}
		e.swallow = !c.Before
	case Insert:
		err = e.insert(c)
	default:
		err = ErrEdit
	}
	return err
}

func (e *Editor) insert(c Edit) error {
	if err := e.copyTo(c.Start); err != nil {
		return err
	}
	if c.Before {
		if err := e.dst.WriteByte(','); err != nil {
			return fmt.Errorf("jsonscan: write body: %w", err)
		}
	}
	if err := e.put(c.Data); err != nil {
		return err
	}
	if !c.After {
		return nil
	}
	if err := e.dst.WriteByte(','); err != nil {
		return fmt.Errorf("jsonscan: write body: %w", err)
	}
	return nil
}

// Close copies the rest of the body. It does not close src or dst.
func (e *Editor) Close() error {
	if err := e.skipComma(-1); err != nil {
		return err
	}
	if err := e.src.copyRest(e.dst); err != nil {
		return fmt.Errorf("jsonscan: copy body: %w", err)
	}
	return e.Flush()
}

// Flush writes what has been copied so far.
func (e *Editor) Flush() error {
	if err := e.dst.Flush(); err != nil {
		return fmt.Errorf("jsonscan: write body: %w", err)
	}
	return nil
}

func (e *Editor) put(data []byte) error {
	if _, err := e.dst.Write(data); err != nil {
		return fmt.Errorf("jsonscan: write body: %w", err)
	}
	return nil
}

// copyTo copies the body up to an offset.
func (e *Editor) copyTo(to int64) error {
	if err := e.skipComma(to); err != nil {
		return err
	}
	return e.pass(to, true)
}

// dropTo skips the body up to an offset.
func (e *Editor) dropTo(to int64) error { return e.pass(to, false) }

// pass reads up to an offset, straight from the reader's buffer.
func (e *Editor) pass(to int64, keep bool) error {
	if to < e.pos {
		return ErrEdit
	}
	for e.pos < to {
		if _, err := e.src.Peek(1); err != nil {
			return e.short(err)
		}
		n := int(min(int64(e.src.Buffered()), to-e.pos))
		if keep {
			part, err := e.src.Peek(n)
			if err != nil {
				return e.short(err)
			}
			if err = e.dst.Keep(part); err != nil {
				return fmt.Errorf("jsonscan: write body: %w", err)
			}
		}
		if _, err := e.src.Discard(n); err != nil {
			return e.short(err)
		}
		e.pos += int64(n)
	}
	return nil
}

func (e *Editor) short(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrEdit
	}
	return fmt.Errorf("jsonscan: read body: %w", err)
}

// skipComma skips the comma behind a deleted first element, with the white space before it, if
// there is one before the offset limit (-1: none).
func (e *Editor) skipComma(limit int64) error {
	for e.swallow && (limit < 0 || e.pos < limit) {
		next, err := e.src.Peek(1)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return e.short(err)
		}
		switch next[0] {
		case ' ', '\t', '\n', '\r':
		case ',':
			e.swallow = false
		default:
			e.swallow = false
			return nil
		}
		if _, err := e.src.Discard(1); err != nil {
			return e.short(err)
		}
		e.pos++
	}
	e.swallow = false
	return nil
}
