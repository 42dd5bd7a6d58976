package archtest

import (
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

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

// settingNames returns the settings that exist: a test of config pins the page to the code.
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

// missingTest returns why a test is none: "folder.TestName", or "folder.TestName/row" of a
// table, whose name must stand in that function as it is.
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
