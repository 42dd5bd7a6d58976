package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A citation is a word and a list of numbers: "requirements 9.3, 9.4", "attacks A12 and N2",
// "Attack vector (46, N8)", "requirements 1.2 to 1.6". What stands in brackets in the name of a
// test's row, "(A10)", is one too.
const citedNumber = `[ANT]?\d+(?:\.\d+)?`

func citations() (inText, inNames *regexp.Regexp) {
	word := `(?:[Rr]equirements?|[Cc]onflicts?|[Aa]ttacks?(?: vectors?)?|[Tt]raps?)`
	return regexp.MustCompile(`\b` + word + ` \(?(` + citedNumber +
			`(?:(?:,? and |[,;] | to )(?:` + word + ` )?` + citedNumber + `\b)*)`),
		regexp.MustCompile(`\(([AN]\d+(?:, [AN]\d+)*)\)`)
}

// Who reads "requirement 9.5" finds it: every rule that something cites is on one of the pages.
func TestEveryCitationHasARow(t *testing.T) {
	t.Parallel()
	var known []string
	for _, p := range pages() {
		for _, r := range rulesOf(t, p.name) {
			known = append(known, r.numbers...)
		}
	}
	cited := 0
	check := func(place, text string, form *regexp.Regexp) {
		for _, m := range form.FindAllStringSubmatch(strings.Join(strings.Fields(text), " "), -1) {
			numbers, err := citedIn(m[1])
			if err != nil {
				t.Errorf("%s: %q: %v", place, m[0], err)
			}
			for _, n := range numbers {
				if cited++; !slices.Contains(known, n) {
					t.Errorf("%s: %q: no page has a row %s", place, m[0], n)
				}
			}
		}
	}
	inText, inNames := citations()
	nameless := regexp.MustCompile(`\b[Tt]rap:|\b(?:[Aa]ttacks?|[Tt]raps?) "`)
	for _, f := range goFiles(t) {
		if f.dir() == "internal/archtest" {
			continue
		}
		for _, group := range f.syntax.Comments {
			text := group.Text()
			check(f.place(group), text, inText)
			if nameless.MatchString(strings.Join(strings.Fields(text), " ")) {
				t.Errorf("%s: an attack that has a name has a number: cite it", f.place(group))
			}
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && f.isTest() && lit.Kind == token.STRING {
				check(f.place(lit), lit.Value, inNames)
			}
			return true
		})
	}
	for name, text := range scripts(t) {
		check(name, text, inText)
	}
	for _, r := range rulesOf(t, "docs/attacks.md") {
		source := "requirement " + r.cells[3]
		if regexp.MustCompile(`^requirement ` + citedNumber + `(, ` + citedNumber + `)*$`).MatchString(source) {
			check(r.place, source, inText)
		}
	}
	if cited < 500 {
		t.Errorf("found only %d citations: looking in the wrong place", cited)
	}
}

// citedIn returns the numbers of a list, with those that a range leaves out.
func citedIn(list string) (out []string, err error) {
	numbers := regexp.MustCompile(citedNumber).FindAllStringIndex(list, -1)
	for i, at := range numbers {
		n := list[at[0]:at[1]]
		if i > 0 && list[numbers[i-1][1]:at[0]] == " to " {
			var section, from, to int
			before := out[len(out)-1]
			if _, err := fmt.Sscanf(n, "%d.%d", &section, &to); err == nil {
				if _, err := fmt.Sscanf(before, fmt.Sprint(section, ".%d"), &from); err != nil || from >= to {
					return out, fmt.Errorf("a range from %s to %s", before, n)
				}
				out = append(out, counted(fmt.Sprint(section, "."), from+1, to)...)
				continue
			}
			if _, err := fmt.Sscanf(before+" "+n, "%d %d", &from, &to); err != nil || from >= to {
				return out, fmt.Errorf("a range from %s to %s", before, n)
			}
			out = append(out, counted("", from+1, to)...)
			continue
		}
		out = append(out, n)
	}
	return out, nil
}

// scripts are files of tests that are not Go, by name.
func scripts(t *testing.T) map[string]string {
	t.Helper()
	names, err := files()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, name := range names {
		if slices.Contains([]string{".txtar", ".sql", ".sh"}, filepath.Ext(name)) {
			text, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				t.Fatal(err)
			}
			out[name] = string(text)
		}
	}
	if len(out) < 20 {
		t.Fatalf("found only %d scripts: looking in the wrong place", len(out))
	}
	return out
}
