package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// requirements are the rules that docs/msc4153.md accounts for: how many there are in each
// section, numbered from 1.
func requirements() map[int]int { return map[int]int{1: 26, 13: 19, 14: 7, 15: 5, 16: 10, 17: 9} }

const pageOfRules = "docs/msc4153.md"

// rule is a row of the page.
type rule struct {
	line    int
	numbers []string
	cells   []string
}

// Every rule of MSC4153 and of what it rests on is on the page: as one that is done, with a
// test that exists and a setting that exists, or as one that is not, with the reason.
func TestEveryRuleOfMSC4153HasATest(t *testing.T) {
	t.Parallel()
	done, open := rulesOf(t)
	seen := make(map[string]bool)
	for _, table := range [][]rule{done, open} {
		for _, r := range table {
			for _, n := range r.numbers {
				seen[n] = true
			}
		}
		wantNoRuleTwice(t, table)
	}
	want := make(map[string]bool)
	for section, count := range requirements() {
		for i := range count {
			n := fmt.Sprintf("%d.%d", section, i+1)
			want[n] = true
			if !seen[n] {
				t.Errorf("%s says nothing of %s", pageOfRules, n)
			}
		}
	}
	for n := range seen {
		if !want[n] {
			t.Errorf("%s: there is no rule %s", pageOfRules, n)
		}
	}
	settings := settingNames(t)
	for _, r := range done {
		wantSettings(t, r, settings)
		wantTests(t, r)
	}
	for _, r := range open {
		if len(r.cells) != 3 || r.cells[1] == "" || r.cells[2] == "" {
			t.Errorf("%s:%d: a rule that is not done needs what it asks and why", pageOfRules, r.line)
		}
	}
}

// The rest of the page names tests too.
func TestThePageOfRulesNamesRealTests(t *testing.T) {
	t.Parallel()
	text := readText(t, pageOfRules)
	names := regexp.MustCompile("`[a-z0-9/-]+\\.Test[^`]*`").FindAllString(text, -1)
	if len(names) < 100 {
		t.Fatalf("found only %d names of tests: looking in the wrong place", len(names))
	}
	for _, name := range names {
		if why := missingTest(t, strings.Trim(name, "`")); why != "" {
			t.Errorf("%s names %s: %s", pageOfRules, name, why)
		}
	}
}

// Every row of the page of what is in clear ends with tests, which exist.
func TestEveryRowOfClearTextHasATest(t *testing.T) {
	t.Parallel()
	const page = "docs/clear-text.md"
	rows := 0
	for i, line := range strings.Split(readText(t, page), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| what |") || strings.HasPrefix(line, "| ---") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "| "), "|")
		names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(cells) != 4 || len(names) == 0 {
			t.Errorf("%s:%d: a row has four cells, and its last one tests", page, i+1)
		}
		for _, name := range names {
			if why := missingTest(t, name[1]); why != "" {
				t.Errorf("%s:%d: %s: %s", page, i+1, name[1], why)
			}
		}
	}
	if rows < 15 {
		t.Errorf("%s has only %d rows: looking in the wrong place", page, rows)
	}
}

// rulesOf reads the tables: those before the section of what is not done, and that one.
func rulesOf(t *testing.T) (done, open []rule) {
	t.Helper()
	into := &done
	number := regexp.MustCompile(`^\d+\.\d+$`)
	for i, line := range strings.Split(readText(t, pageOfRules), "\n") {
		if strings.HasPrefix(line, "## What is not done") {
			into = &open
		}
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| no.") || strings.HasPrefix(line, "| ---") {
			continue
		}
		r := rule{line: i + 1}
		for cell := range strings.SplitSeq(strings.Trim(line, "| "), "|") {
			r.cells = append(r.cells, strings.TrimSpace(cell))
		}
		for n := range strings.SplitSeq(r.cells[0], ", ") {
			if !number.MatchString(n) {
				t.Errorf("%s:%d: %q is no number of a rule", pageOfRules, r.line, n)
			}
			r.numbers = append(r.numbers, n)
		}
		*into = append(*into, r)
	}
	if len(done) < 40 || len(open) == 0 {
		t.Fatalf("found only %d and %d rules: looking in the wrong place", len(done), len(open))
	}
	return done, open
}

func wantNoRuleTwice(t *testing.T, table []rule) {
	t.Helper()
	lines := make(map[string]int)
	for _, r := range table {
		for _, n := range r.numbers {
			if lines[n] != 0 {
				t.Errorf("%s:%d: %s is in line %d already", pageOfRules, r.line, n, lines[n])
			}
			lines[n] = r.line
		}
	}
}

// settingNames are the settings that exist: a test of config pins the page to the code.
func settingNames(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, m := range regexp.MustCompile("(?m)^### `([^`]+)`$").FindAllStringSubmatch(readText(t, "docs/configuration.md"), -1) {
		out = append(out, m[1])
	}
	if len(out) < 20 {
		t.Fatalf("found only %d settings: looking in the wrong place", len(out))
	}
	return out
}

func wantSettings(t *testing.T, r rule, settings []string) {
	t.Helper()
	if len(r.cells) != 5 || slices.Contains(r.cells, "") {
		t.Errorf("%s:%d: a rule has five cells, none of them empty", pageOfRules, r.line)
		return
	}
	if r.cells[3] == "none" {
		return
	}
	for name := range strings.SplitSeq(r.cells[3], ", ") {
		if bare := strings.Trim(name, "`"); !slices.Contains(settings, bare) {
			t.Errorf("%s:%d: there is no setting %s", pageOfRules, r.line, bare)
		}
	}
}

func wantTests(t *testing.T, r rule) {
	t.Helper()
	names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(r.cells[len(r.cells)-1], -1)
	if len(names) == 0 {
		t.Errorf("%s:%d: %s has no test", pageOfRules, r.line, r.cells[0])
	}
	for _, name := range names {
		if why := missingTest(t, name[1]); why != "" {
			t.Errorf("%s:%d: %s: %s", pageOfRules, r.line, name[1], why)
		}
	}
}

// missingTest says why a test is none: "folder.TestName", or "folder.TestName/row" of
// a table, whose name must stand in that function as it is.
func missingTest(t *testing.T, name string) string {
	t.Helper()
	path, row, hasRow := strings.Cut(name, ".Test")
	if !hasRow {
		return "it is not named like a test"
	}
	function, row, hasRow := strings.Cut("Test"+row, "/")
	for _, f := range goFiles(t) {
		if !f.isTest() || f.dir() != path {
			continue
		}
		for _, decl := range f.syntax.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || fn.Name.Name != function {
				continue
			}
			if hasRow && !holdsText(fn, row) {
				return "it has no such row"
			}
			return ""
		}
	}
	return "there is no such test"
}

// holdsText reports whether a string is written out in a function.
func holdsText(fn *ast.FuncDecl, text string) (found bool) {
	ast.Inspect(fn, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			s, err := strconv.Unquote(lit.Value)
			found = found || (err == nil && s == text)
		}
		return !found
	})
	return found
}
