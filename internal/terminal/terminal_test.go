package terminal

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// Every line fits, and begins where it should; a word that is too long stays whole.
func TestWrap(t *testing.T) {
	t.Parallel()
	text := Wrap(strings.Repeat("verschlüsselt ", 20)+strings.Repeat("x", 100), 8, "  ->    ")
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		begin := "        "
		if i == 0 {
			begin = "  ->    "
		}
		if !strings.HasPrefix(line, begin) || utf8.RuneCountInString(line) > Width && !strings.HasSuffix(line, "xxx") || strings.TrimRight(line, " ") != line {
			t.Errorf("line %d is %q", i, line)
		}
	}
	if len(lines) != 5 || Wrap("", 4, "") != "\n" {
		t.Errorf("got %d lines:\n%s", len(lines), text)
	}
}

// Attack: somebody gives a device or a homeserver's text a name that moves the cursor, hides
// what was written, or writes backwards, so that a person reads something else than is said.
func TestTextFromElsewhereMovesNothing(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"PHONE":                             "PHONE",
		"\x1b[2J\x1b[1;31mAll is well":      "[2J[1;31mAll is well",
		"BOT\r(confirmed)":                  "BOT(confirmed)",
		"a\nb":                              "a b",
		"\u202edemrifnoc":                   "demrifnoc",
		"x\u009b31mred\u200b\ufeff\x00\x7f": "x31mred",
		"grün ☃":                            "grün ☃",
	} {
		if got := Clean(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// Without a terminal nobody is asked, nothing is coloured and nothing moves; secrets are lines
// of standard input.
func TestWithoutATerminal(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	term := New(strings.NewReader("first\r\nsecond"), &out, &errs, nil)
	if term.Shows || term.Talks() || term.Paint(Bad, "x") != "x" {
		t.Error("it is taken for a terminal")
	}
	for _, want := range []string{"first", "second"} {
		if got, err := term.Secret(t.Context(), "Passphrase: "); err != nil || got.Reveal() != want {
			t.Errorf("got %q, error %v, want %q", got.Reveal(), err, want)
		}
	}
	if _, err := term.Secret(t.Context(), "More: "); !errors.Is(err, ErrNothing) {
		t.Errorf("at the end: %v", err)
	}
	bar := term.Progress("Importing", 10, true)
	bar.Set(5, 10)
	if n, err := bar.Writer(&out).Write([]byte("x")); n != 1 || err != nil {
		t.Error(n, err)
	}
	bar.End()
	if errs.Len() > 0 || out.String() != "x" {
		t.Errorf("it wrote %q and %q", errs.String(), out.String())
	}
}

// Colours and bars are for terminals; NO_COLOR and TERM=dumb take the colours away.
func TestOnATerminal(t *testing.T) {
	t.Parallel()
	var errs bytes.Buffer
	term := &Terminal{err: &errs, moves: true, colour: true}
	if got := term.Paint(Good, "well"); got != "\x1b[32mwell\x1b[0m" {
		t.Errorf("got %q", got)
	}
	bar := term.Progress("Restoring", -1, false)
	bar.Set(3, 12)
	bar.Set(12, 12)
	bar.End()
	if !strings.Contains(errs.String(), "Restoring") {
		t.Errorf("the bar is %q", errs.String())
	}
}
