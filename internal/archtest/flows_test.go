package archtest

import (
	"go/ast"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// step is a line of a flow: functions of a file, in the order in which they are read.
type step struct {
	line      string
	file      string
	functions []string
}

// flows reads the lists of a page, by their headings.
func flows(page string) map[string][]step {
	out := make(map[string][]step)
	entry := regexp.MustCompile("^[0-9]+\\. `([^`]+)` — ((?:`[^`]+`(?:, )?)+): ")
	_, part, _ := strings.Cut(page, "\n## Four flows")
	part, _, _ = strings.Cut(part, "\n## ")
	name := ""
	for line := range strings.SplitSeq(part, "\n") {
		if title, ok := strings.CutPrefix(line, "### "); ok {
			name = title
		}
		if name == "" || line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s := step{line: line}
		if m := entry.FindStringSubmatch(line); m != nil {
			s.file = m[1]
			s.functions = strings.Split(strings.ReplaceAll(m[2], "`", ""), ", ")
		}
		out[name] = append(out[name], s)
	}
	return out
}

// Each flow is read top to bottom, in few files: every function exists, and whoever comes to
// its line has seen its name in a function above.
func TestFlowsAreReadTopToBottom(t *testing.T) {
	t.Parallel()
	const most = 8
	all := flows(readText(t, "docs/architecture.md"))
	if want := []string{"A key share", "A room key", "A send", "A sync"}; !slices.Equal(slices.Sorted(maps.Keys(all)), want) {
		t.Errorf("the flows are %q, not %q", slices.Sorted(maps.Keys(all)), want)
	}
	for name, steps := range all {
		read, named := make(map[string]bool), make(map[string]bool)
		stored := false
		for i, s := range steps {
			if s.file == "" {
				t.Errorf("%s: %q is not \"1. `file` — `Receiver.Function`: what happens\"", name, s.line)
				continue
			}
			read[s.file] = true
			if i == 0 && !strings.HasPrefix(s.file, "interceptors/") {
				t.Errorf("%s begins in %s, not with a handler", name, s.file)
			}
			for j, function := range s.functions {
				decl := findFunction(t, s.file, function)
				if decl == nil {
					t.Errorf("%s: there is no %s in %s", name, function, s.file)
					continue
				}
				if (i > 0 || j > 0) && !named[decl.Name.Name] {
					t.Errorf("%s: no function above names %s of %s", name, function, s.file)
				}
				stored = stored || names(decl)["Save"] || names(decl)["Commit"]
				maps.Copy(named, names(decl))
			}
		}
		if !stored {
			t.Errorf("%s does not come to where it is stored", name)
		}
		if len(read) > most {
			t.Errorf("%s is read in %d files, more than %d", name, len(read), most)
		}
	}
}

// Whoever looks for something by the names that CONTRIBUTING.md gives finds it.
func TestPlacesOfChangesExist(t *testing.T) {
	t.Parallel()
	found := regexp.MustCompile("`([a-z0-9_/]+\\.go)`: `([A-Za-z]+)`").FindAllStringSubmatch(readText(t, "CONTRIBUTING.md"), -1)
	if len(found) < 10 {
		t.Errorf("only %d places were found", len(found))
	}
	for _, place := range found {
		declared := false
		for _, f := range goFiles(t) {
			if f.name == place[1] {
				declared = declares(f, place[2])
			}
		}
		if !declared {
			t.Errorf("CONTRIBUTING.md: there is no %s in %s", place[2], place[1])
		}
	}
}

// declares reports whether a file has a function, method, constant or variable of that name.
func declares(f *goFile, name string) bool {
	for _, decl := range f.syntax.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Name.Name == name {
				return true
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				if value, ok := spec.(*ast.ValueSpec); ok && slices.ContainsFunc(value.Names, func(n *ast.Ident) bool { return n.Name == name }) {
					return true
				}
			}
		}
	}
	return false
}

// findFunction returns a function, or a method as Receiver.Name; nil when the file has none.
func findFunction(t *testing.T, file, name string) *ast.FuncDecl {
	t.Helper()
	receiver, method, isMethod := strings.Cut(name, ".")
	if !isMethod {
		receiver, method = "", name
	}
	for _, f := range goFiles(t) {
		if f.name != file || f.isTest() {
			continue
		}
		for _, decl := range f.syntax.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Name.Name == method && receiverOf(fn) == receiver {
				return fn
			}
		}
	}
	return nil
}

// receiverOf returns the name of a method's type; empty for a function.
func receiverOf(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return ""
	}
	kind := fn.Recv.List[0].Type
	if star, ok := kind.(*ast.StarExpr); ok {
		kind = star.X
	}
	if named, ok := kind.(*ast.Ident); ok {
		return named.Name
	}
	return "?"
}

// names returns every name that a function's body uses.
func names(fn *ast.FuncDecl) map[string]bool {
	out := make(map[string]bool)
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		if name, ok := n.(*ast.Ident); ok {
			out[name.Name] = true
		}
		return true
	})
	return out
}
