// Package secret holds types for values that must never be printed.
//
// It promises that formatting, logging, or marshalling a value of these types shows a fixed
// word and never the content; only Reveal returns the content. It must never get a method
// that returns the content under another name. Anybody may import it.
package secret

import (
	"fmt"
	"log/slog"
)

const redacted = "‹redacted›"

// String is a secret text, such as an access token or a password.
type String struct{ v string }

// NewString wraps a secret text.
func NewString(v string) String { return String{v} }

// Reveal returns the text itself.
func (s String) Reveal() string { return s.v }

// IsZero reports whether there is no text.
func (s String) IsZero() bool { return s.v == "" }

// String implements fmt.Stringer and never shows the text.
func (String) String() string { return redacted }

// GoString implements fmt.GoStringer and never shows the text.
func (String) GoString() string { return redacted }

// Format implements fmt.Formatter, so that no verb shows the text.
func (String) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler and never shows the text.
func (String) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText reads a secret from configuration.
func (s *String) UnmarshalText(b []byte) error { s.v = string(b); return nil }

// LogValue implements slog.LogValuer and never shows the text.
func (String) LogValue() slog.Value { return slog.StringValue(redacted) }

// Bytes is a secret byte string, such as a key or a pickle.
type Bytes []byte

// Reveal returns the bytes themselves, not a copy.
func (b Bytes) Reveal() []byte { return b }

// Wipe overwrites the bytes with zeros.
func (b Bytes) Wipe() { clear(b) }

// String implements fmt.Stringer and never shows the bytes.
func (Bytes) String() string { return redacted }

// GoString implements fmt.GoStringer and never shows the bytes.
func (Bytes) GoString() string { return redacted }

// Format implements fmt.Formatter, so that no verb shows the bytes.
func (Bytes) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler and never shows the bytes.
func (Bytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer and never shows the bytes.
func (Bytes) LogValue() slog.Value { return slog.StringValue(redacted) }
