package sqlio

import (
	"database/sql"
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

// ErrTooLong means that an identifier is longer than [MaxID] bytes.
var ErrTooLong = errors.New("identifier is too long to be stored")

const coded = "\x01"

// Args collects the parameters of a statement and the first error in them.
type Args struct {
	Vals []any
	Err  error
}

// Num adds a number.
func (a *Args) Num(v int64) { a.Vals = append(a.Vals, v) }

// Bytes adds bytes; nil and empty are the same.
func (a *Args) Bytes(v []byte) {
	if v == nil {
		v = []byte{}
	}
	a.Vals = append(a.Vals, v)
}

// Flag adds a bool.
func (a *Args) Flag(v bool) { a.Vals = append(a.Vals, boolToInt(v)) }

// Time adds a time.
func (a *Args) Time(v time.Time) { a.Vals = append(a.Vals, Micros(v)) }

// Text adds a text of any length.
func (a *Args) Text(v string) { a.Vals = append(a.Vals, EncodeText(v)) }

// ID adds a text that is part of a key.
func (a *Args) ID(v string) {
	coded := EncodeText(v)
	if len(coded) > MaxID && a.Err == nil {
		a.Err = fmt.Errorf("%w: %d bytes", ErrTooLong, len(v))
	}
	a.Vals = append(a.Vals, coded)
}

func boolToInt(v bool) int64 {
	if v {
		return 1
	}
	return 0
}

// Micros returns a time as a column holds it.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// EncodeText returns a text as a column holds it.
func EncodeText(s string) string {
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

type textColumn[T ~string] struct{ to *T }

// TextInto reads a text into any string type.
func TextInto[T ~string](to *T) sql.Scanner { return textColumn[T]{to} }

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

// TimeInto reads a time.
func TimeInto(to *time.Time) sql.Scanner { return timeColumn{to} }

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

// FlagInto reads a bool.
func FlagInto(to *bool) sql.Scanner { return flagColumn{to} }

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

// JSONInto reads JSON as it was stored; an empty column becomes nil.
func JSONInto(to *json.RawMessage) sql.Scanner { return jsonColumn{to} }

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
