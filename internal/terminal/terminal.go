package terminal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"e2ee-proxy/internal/secret"
)

// Width is how wide a line may be, in characters.
const Width = 80

// Terminal is where a command reads and writes.
type Terminal struct {
	in       *bufio.Reader
	inFile   *os.File // nil for what is no terminal
	out, err io.Writer

	// Shows reports whether standard output is a terminal, and talks whether standard error is
	// one as well as standard input, so that somebody can be asked.
	Shows bool
	talks bool
	// moves reports whether standard error is a terminal, so that what is there can be replaced.
	moves  bool
	colour bool
}

// New returns a terminal on streams. NO_COLOR in the environment forbids colours, and so does
// TERM=dumb.
func New(in io.Reader, out, errs io.Writer, environ []string) *Terminal {
	t := &Terminal{in: bufio.NewReader(in), out: out, err: errs, Shows: Is(out), moves: Is(errs)}
	if f, ok := in.(*os.File); ok && Is(f) {
		t.inFile = f
	}
	t.talks = t.inFile != nil && t.moves
	t.colour = t.Shows && !slices.ContainsFunc(environ, func(v string) bool {
		return v == "TERM=dumb" || strings.HasPrefix(v, "NO_COLOR=") && v != "NO_COLOR="
	})
	return t
}

// Is reports whether something that is read or written is a terminal.
func Is(s any) bool {
	f, ok := s.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Talks reports whether there is a person who can be asked.
func (t *Terminal) Talks() bool { return t.talks }

// Style is how a text looks. The zero value is plain.
type Style int

// The styles.
const (
	Plain Style = iota
	Bold
	Good
	Careful
	Bad
	Faint
)

// Paint returns a text in a style, where there are colours.
func (t *Terminal) Paint(s Style, text string) string {
	if !t.colour || text == "" {
		return text
	}
	code := ""
	switch s {
	case Plain:
		return text
	case Bold:
		code = "1"
	case Good:
		code = "32"
	case Careful:
		code = "33"
	case Bad:
		code = "31"
	case Faint:
		code = "2"
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Clean returns a text from elsewhere without what would move the cursor, start a colour or
// turn the direction of writing around.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == utf8.RuneError:
			return -1
		}
		return r
	}, text)
}

// Wrap breaks a text into lines of at most [Width] characters; every line but the first begins
// with indent spaces. The first has them too, unless first says what it begins with.
func Wrap(text string, indent int, first string) string {
	pad := strings.Repeat(" ", indent)
	begin := pad
	if first != "" {
		begin = first
	}
	var b strings.Builder
	line, length, empty := begin, utf8.RuneCountInString(begin), true
	for word := range strings.FieldsSeq(text) {
		n := utf8.RuneCountInString(word)
		if !empty && length+1+n > Width {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line, length, empty = pad, indent, true
		}
		if !empty {
			line, length = line+" ", length+1
		}
		line, length, empty = line+word, length+n, false
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
	return b.String()
}

// Tell writes something to the person that is no result.
func (t *Terminal) Tell(text string) {
	// If standard error is gone, nobody can read it.
	_, _ = io.WriteString(t.err, text)
}

// Ask asks for a line, until the context ends.
func (t *Terminal) Ask(ctx context.Context, question string) (string, error) {
	if t.talks {
		t.Tell(question)
	}
	line, err := typed(ctx, func() (string, error) { return t.in.ReadString('\n') })
	if err != nil && ctx.Err() != nil {
		t.Tell("\n")
		return "", ctx.Err()
	}
	if err != nil && (!errors.Is(err, io.EOF) || line == "") {
		if errors.Is(err, io.EOF) {
			return "", ErrNothing
		}
		return "", fmt.Errorf("read the answer: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// ErrNothing means that nothing came where something was asked for.
var ErrNothing = errors.New("nothing came on standard input")

// Secret asks for a secret, which is not shown, until the context ends. Without a terminal it
// is the next line of standard input.
func (t *Terminal) Secret(ctx context.Context, question string) (secret.String, error) {
	if t.inFile == nil {
		line, err := t.Ask(ctx, "")
		return secret.NewString(line), err
	}
	fd := int(t.inFile.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return secret.String{}, fmt.Errorf("look at the terminal: %w", err)
	}
	t.Tell(question)
	line, err := typed(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	t.Tell("\n")
	if err != nil && ctx.Err() != nil {
		return secret.String{}, errors.Join(ctx.Err(), term.Restore(fd, before))
	}
	if err != nil {
		return secret.String{}, fmt.Errorf("read without showing: %w", err)
	}
	defer clear(line)
	return secret.NewString(string(line)), nil
}

// typed reads what a person types, until the context ends. Nothing can interrupt reading: it
// goes on then until the program ends, which has to be soon, and nobody may be asked again.
func typed[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type answer struct {
		what T
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		what, err := read()
		answered <- answer{what, err}
	}()
	select {
	case a := <-answered:
		return a.what, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}
