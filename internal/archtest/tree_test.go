package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// root is the top folder of the repository, seen from this package.
const root = "../.."

const module = "e2ee-proxy"

// goFile is one parsed file of any module in the repository.
type goFile struct {
	name   string // slash-separated, from the root
	source []byte
	syntax *ast.File
	set    *token.FileSet
}

func (f *goFile) dir() string  { return path.Dir(f.name) }
func (f *goFile) isTest() bool { return strings.HasSuffix(f.name, "_test.go") }

// isHarness reports whether the file belongs to code that only tests and test programs use.
func (f *goFile) isHarness() bool {
	return strings.HasPrefix(f.name, "test/") || strings.HasPrefix(f.name, "internal/test") ||
		strings.HasPrefix(f.name, "internal/liar/") || strings.HasPrefix(f.name, "internal/archtest/")
}

func (f *goFile) place(n ast.Node) string {
	return fmt.Sprintf("%s:%d", f.name, f.set.Position(n.Pos()).Line)
}

// imports returns the import paths of the file.
func (f *goFile) imports() []string {
	var out []string
	for _, spec := range f.syntax.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// calls runs visit for every call of the form x.name(…), with x as written when it is
// an identifier, and for name(…) with x empty.
func (f *goFile) calls(visit func(call *ast.CallExpr, x, name string)) {
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch fun := call.Fun.(type) {
		case *ast.Ident:
			visit(call, "", fun.Name)
		case *ast.SelectorExpr:
			x := "?"
			if id, ok := fun.X.(*ast.Ident); ok {
				x = id.Name
			}
			visit(call, x, fun.Sel.Name)
		}
		return true
	})
}

// files lists every file of ours: not what tools make, and not what is kept out of git.
var files = sync.OnceValues(func() ([]string, error) {
	var out []string
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == ".git" && !d.IsDir() {
			return nil // a work tree's pointer
		}
		if d.IsDir() && slices.Contains([]string{".git", ".cache", "bin", "data", "node_modules"}, d.Name()) && name != "." {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			out = append(out, name)
		}
		return nil
	})
	return out, err
})

var parsed = sync.OnceValues(func() ([]*goFile, error) {
	names, err := files()
	if err != nil {
		return nil, err
	}
	var out []*goFile
	set := token.NewFileSet()
	for _, name := range names {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "/testdata/") {
			continue
		}
		source, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return nil, err
		}
		syntax, err := parser.ParseFile(set, name, source, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		out = append(out, &goFile{name: name, source: source, syntax: syntax, set: set})
	}
	return out, nil
})

// goFiles returns all files of ours that are Go.
func goFiles(t *testing.T) []*goFile {
	t.Helper()
	out, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 10 {
		t.Fatalf("found only %d Go files: looking in the wrong place", len(out))
	}
	return out
}

// goList is one package as the go command sees it.
type goList struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// packages asks the go command, which knows build constraints better than we do.
func packages(t *testing.T) []goList {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var out []goList
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var p goList
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
}

// readText returns the content of a file of ours.
func readText(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
