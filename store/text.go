package store

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// How Go values become columns, the same for both databases:
//   - A time is microseconds since 1970 UTC; the zero time is 0.
//   - A bool is 0 or 1.
//   - JSON, messages and everything sealed are bytes; nil and empty are the same.
//   - A text that PostgreSQL could not hold as it is (a zero byte, invalid UTF-8), or that
//     begins with the byte 1, is that byte and its hexadecimal form. Others choose many of
//     these texts, and must not be able to make a transaction fail.
//   - A text that is part of a key is at most MaxID bytes.

// MaxID is the length in bytes up to which an identifier can be stored; about half of it
// for one that is not text. Matrix itself allows 255 for the identifiers that it limits.
// Three of this length still fit into one row of a PostgreSQL index.
const MaxID = 512

const coded = "\x01"

// args collects the parameters of a statement and the first error in them.
type args struct {
	vals []any
	err  error
}

func (a *args) num(v int64) { a.vals = append(a.vals, v) }
func (a *args) bytes(v []byte) {
	if v == nil {
		v = []byte{}
	}
	a.vals = append(a.vals, v)
}
func (a *args) flag(v bool)      { a.vals = append(a.vals, claim(v)) }
func (a *args) time(v time.Time) { a.vals = append(a.vals, micros(v)) }

// text adds a text of any length.
func (a *args) text(v string) { a.vals = append(a.vals, encodeText(v)) }

// id adds a text that is part of a key.
func (a *args) id(v string) {
	coded := encodeText(v)
	if len(coded) > MaxID && a.err == nil {
		a.err = fmt.Errorf("%w: %d bytes", ErrTooLong, len(v))
	}
	a.vals = append(a.vals, coded)
}

func claim(v bool) int64 {
	if v {
		return 1
	}
	return 0
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func encodeText(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 && !strings.HasPrefix(s, coded) {
		return s
	}
	return coded + hex.EncodeToString([]byte(s))
}

func decodeText(s string) (string, error) {
	digits, ok := strings.CutPrefix(s, coded)
	if !ok {
		return s, nil
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		return "", errors.New("text column is damaged")
	}
	return string(b), nil
}

// textColumn reads a text into any string type.
type textColumn[T ~string] struct{ to *T }

func text[T ~string](to *T) textColumn[T] { return textColumn[T]{to} }

// Scan implements sql.Scanner.
func (c textColumn[T]) Scan(v any) error {
	var s string
	switch v := v.(type) {
	case string:
		s = v
	case []byte:
		s = string(v)
	default:
		return fmt.Errorf("text column holds %T", v)
	}
	s, err := decodeText(s)
	*c.to = T(s)
	return err
}

// timeColumn reads a time.
type timeColumn struct{ to *time.Time }

// Scan implements sql.Scanner.
func (c timeColumn) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("time column holds %T", v)
	}
	*c.to = time.Time{}
	if n != 0 {
		*c.to = time.UnixMicro(n).UTC()
	}
	return nil
}

// flagColumn reads a bool.
type flagColumn struct{ to *bool }

// Scan implements sql.Scanner.
func (c flagColumn) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("claim column holds %T", v)
	}
	*c.to = n != 0
	return nil
}

// jsonColumn reads JSON as it was stored; an empty column becomes nil.
type jsonColumn struct{ to *json.RawMessage }

// Scan implements sql.Scanner.
func (c jsonColumn) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok {
		return fmt.Errorf("JSON column holds %T", v)
	}
	*c.to = nil
	if len(b) > 0 {
		*c.to = append(json.RawMessage(nil), b...)
	}
	return nil
}
