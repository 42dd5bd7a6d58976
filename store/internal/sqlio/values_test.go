package sqlio

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzText: every text comes back as it was, in a form that both databases take.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "a", "\x00", "\x01", "\x01zz", "\xff", "ü", "a\x00\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		stored := EncodeText(s)
		if !utf8.ValidString(stored) || strings.ContainsRune(stored, 0) {
			t.Fatalf("%q is stored as %q", s, stored)
		}
		if got, err := decodeText(stored); err != nil || got != s {
			t.Fatalf("%q came back as %q, %v", s, got, err)
		}
		if _, err := decodeText(s); err != nil && !strings.HasPrefix(s, coded) {
			t.Fatalf("%q was refused: %v", s, err)
		}
	})
}
