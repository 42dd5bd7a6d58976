package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	failed, err := report(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	if failed {
		os.Exit(1)
	}
}

// line is one line of `go test -json` (cmd/test2json, and build output of cmd/go).
type line struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

type test struct{ pkg, name string }

type skipped struct {
	test
	why string
}

// state is what was read so far.
type state struct {
	out     io.Writer
	outputs map[test]*strings.Builder
	skipped []skipped
	took    map[string]float64
	failed  bool
}

// report shows a run and tells whether something in it failed.
func report(in io.Reader, out io.Writer) (failed bool, err error) {
	s := &state{out: out, outputs: map[test]*strings.Builder{}, took: map[string]float64{}}
	r := bufio.NewReader(in)
	for {
		text, err := r.ReadString('\n')
		if text != "" {
			if err := s.take(text); err != nil {
				return true, err
			}
		}
		if err == io.EOF {
			return s.failed, s.end()
		}
		if err != nil {
			return true, fmt.Errorf("read: %w", err)
		}
	}
}

// take shows what one line says.
func (s *state) take(text string) error {
	var l line
	if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &l) != nil {
		return s.show(text)
	}
	at := test{l.Package, l.Test}
	switch l.Action {
	case "output":
		return s.output(at, l.Output)
	case "build-output":
		return s.show(l.Output)
	case "build-fail":
		s.failed = true
	case "skip":
		if l.Test != "" {
			s.skipped = append(s.skipped, skipped{at, reason(s.text(at))})
		}
		delete(s.outputs, at)
	case "pass":
		s.took[l.Package] = max(s.took[l.Package], l.Elapsed)
		delete(s.outputs, at)
	case "fail":
		s.failed = true
		s.took[l.Package] = max(s.took[l.Package], l.Elapsed)
		return s.fail(at)
	}
	return nil
}

// output keeps what a test says until it is known whether it fails. What a package says is
// shown at once, but for the bare verdict that its own line repeats.
func (s *state) output(at test, text string) error {
	if at.name == "" {
		if text == "PASS\n" || text == "FAIL\n" {
			return nil
		}
		return s.show(text)
	}
	if strings.HasPrefix(text, "=== ") {
		return nil // RUN, PAUSE and CONT, which only -json makes it say
	}
	if s.outputs[at] == nil {
		s.outputs[at] = &strings.Builder{}
	}
	s.outputs[at].WriteString(text)
	return nil
}

func (s *state) text(at test) string {
	if b := s.outputs[at]; b != nil {
		return b.String()
	}
	return ""
}

// fail shows what a test said that failed; of a package also what tests said that never
// ended, as after a panic or a timeout.
func (s *state) fail(at test) error {
	var ended []test
	for other := range s.outputs {
		if other == at || at.name == "" && other.pkg == at.pkg {
			ended = append(ended, other)
		}
	}
	slices.SortFunc(ended, func(a, b test) int { return cmp.Compare(a.name, b.name) })
	for _, t := range ended {
		text := s.text(t)
		delete(s.outputs, t)
		if err := s.show(text); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) show(text string) error {
	if _, err := io.WriteString(s.out, text); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// reason returns what a skipped test said, without the lines of the test framework and the
// place.
func reason(output string) string {
	var said []string
	for text := range strings.Lines(output) {
		text = strings.TrimSpace(text)
		if text == "" || strings.HasPrefix(text, "=== ") || strings.HasPrefix(text, "--- ") {
			continue
		}
		if place, rest, found := strings.Cut(text, ": "); found && strings.Contains(place, ".go:") {
			text = rest
		}
		said = append(said, text)
	}
	if len(said) == 0 {
		return "no reason was given"
	}
	return strings.Join(said, " ")
}

// end shows what was skipped, by reason, and where the time went.
func (s *state) end() error {
	var b strings.Builder
	packages := make([]string, 0, len(s.took))
	for name := range s.took {
		packages = append(packages, name)
	}
	slices.SortFunc(packages, func(x, y string) int { return cmp.Or(cmp.Compare(s.took[y], s.took[x]), cmp.Compare(x, y)) })
	b.WriteString("\nslowest packages:")
	for _, name := range packages[:min(3, len(packages))] {
		fmt.Fprintf(&b, " %s %.0f s", name, s.took[name])
	}
	b.WriteString("\n")
	if len(s.skipped) == 0 {
		b.WriteString("skipped: nothing\n")
		return s.show(b.String())
	}
	byReason := map[string][]skipped{}
	for _, t := range s.skipped {
		byReason[t.why] = append(byReason[t.why], t)
	}
	reasons := make([]string, 0, len(byReason))
	for why := range byReason {
		reasons = append(reasons, why)
	}
	slices.Sort(reasons)
	fmt.Fprintf(&b, "skipped: %d\n", len(s.skipped))
	for _, why := range reasons {
		fmt.Fprintf(&b, "  %s\n", why)
		for _, t := range byReason[why] {
			fmt.Fprintf(&b, "    %s %s\n", t.pkg, t.name)
		}
	}
	return s.show(b.String())
}
