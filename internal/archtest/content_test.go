package archtest

import (
	"bytes"
	"go/ast"
	"go/build/constraint"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// Every package says what it promises, what it must never do and who may import it,
// once, in doc.go or in the file that has the package's name. (Nobody imports a command.)
func TestEveryPackageSaysWhatItPromises(t *testing.T) {
	t.Parallel()
	comments := make(map[string][]*goFile)
	for _, f := range goFiles(t) {
		if f.isTest() {
			continue
		}
		if _, known := comments[f.dir()]; !known {
			comments[f.dir()] = nil
		}
		if f.syntax.Doc != nil {
			comments[f.dir()] = append(comments[f.dir()], f)
		}
	}
	for dir, docs := range comments {
		if len(docs) != 1 {
			t.Errorf("%s has %d package comments, want one", dir, len(docs))
			continue
		}
		f := docs[0]
		if base := filepath.Base(f.name); base != "doc.go" && base != filepath.Base(dir)+".go" {
			t.Errorf("%s: the package comment belongs in doc.go", f.name)
		}
		text := strings.Join(strings.Fields(f.syntax.Doc.Text()), " ")
		for part, what := range map[string]string{"promises": "what it promises", "must never": "what it must never do", "mport": "who may import it"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s: the package comment does not say %s", f.name, what)
			}
		}
	}
}

// What runs before main runs unseen, and in an order that nobody reads.
func TestNoInit(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		for _, decl := range f.syntax.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init function", f.place(fn))
			}
		}
	}
}

// Calls that the house does not make.
func TestForbiddenCalls(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		f.calls(func(call *ast.CallExpr, x, name string) {
			switch {
			case name == "Msgf":
				t.Errorf("%s: Msgf hides fields in text", f.place(call))
			case x == "" && name == "panic" && !f.isTest() && !f.isHarness():
				// The decoder of QR codes can be ended in no other way, and its caller recovers. A panic of a
				// goroutine is handed on to whoever waits for it.
				if !breaksConnection(call) && f.name != "internal/qrcode/decode.go" && f.name != "internal/parallel/panics.go" {
					t.Errorf("%s: panic; return an error", f.place(call))
				}
			case x == "log" && slices.Contains([]string{"Print", "Printf", "Println", "Fatal", "Fatalf", "Fatalln", "Panic", "Default"}, name):
				t.Errorf("%s: log.%s; the global logger knows neither the request nor the level", f.place(call), name)
			case x == "spool" && name == "New" && f.name != "interceptors/internal/exchange/spools.go" && !f.isTest():
				t.Errorf("%s: spool.New; only interceptors/internal/exchange/spools.go makes spools, so that each has a bound on disk", f.place(call))
			case x == "os" && name == "Exit" && !strings.HasPrefix(f.name, "cmd/") && !f.isHarness() && !f.isTest():
				t.Errorf("%s: os.Exit outside a command", f.place(call))
			case strings.HasPrefix(name, "Skip") && f.isTest() && x == "t" && !strings.HasPrefix(f.name, "internal/testproc/"):
				t.Errorf("%s: tests are skipped by the harness's rule only", f.place(call))
			}
		})
	}
}

// breaksConnection reports whether the panic is net/http's way to abort a response.
func breaksConnection(call *ast.CallExpr) bool {
	sel, ok := call.Args[0].(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "ErrAbortHandler"
}

// A test that sleeps is slow when it passes and wrong when the machine is slow. In a
// bubble of testing/synctest time is not real.
func TestNoSleepInTests(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		if !f.isTest() && !f.isHarness() {
			continue
		}
		var bubbles []ast.Node
		f.calls(func(call *ast.CallExpr, x, name string) {
			if x == "synctest" && name == "Test" {
				bubbles = append(bubbles, call)
			}
		})
		f.calls(func(call *ast.CallExpr, x, name string) {
			inside := func(b ast.Node) bool { return b.Pos() <= call.Pos() && call.End() <= b.End() }
			if x == "time" && name == "Sleep" && !slices.ContainsFunc(bubbles, inside) {
				t.Errorf("%s: time.Sleep; await the condition", f.place(call))
			}
		})
	}
}

// A plain go build, go install and go test must work: no tag of ours, no generated
// configuration. Constraints on the operating system choose by themselves.
func TestNoBuildTags(t *testing.T) {
	t.Parallel()
	systems := []string{"unix", "linux", "darwin", "windows", "freebsd"}
	for _, f := range goFiles(t) {
		for _, group := range f.syntax.Comments {
			for _, c := range group.List {
				if !constraint.IsGoBuild(c.Text) {
					continue
				}
				expr, err := constraint.Parse(c.Text)
				if err != nil {
					t.Errorf("%s: %v", f.place(c), err)
					continue
				}
				expr.Eval(func(tag string) bool {
					if !slices.Contains(systems, tag) {
						t.Errorf("%s: build tag %s", f.place(c), tag)
					}
					return true
				})
			}
		}
	}
}

// A file is read in one go, a function on one screen.
func TestFilesAndFunctionsAreShort(t *testing.T) {
	t.Parallel()
	const maxFile, maxTestFile, maxFunc = 400, 600, 60
	for _, f := range goFiles(t) {
		limit := maxFile
		if f.isTest() {
			limit = maxTestFile // a table of cases may be long
		}
		if lines := bytes.Count(f.source, []byte("\n")); lines > limit {
			t.Errorf("%s has %d lines, more than %d", f.name, lines, limit)
		}
		if f.isTest() {
			continue
		}
		for _, decl := range f.syntax.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if lines := f.set.Position(fn.End()).Line - f.set.Position(fn.Pos()).Line + 1; lines > maxFunc {
				t.Errorf("%s: %s has %d lines, more than %d", f.place(fn), fn.Name.Name, lines, maxFunc)
			}
		}
	}
}

// What a build makes does not belong among the sources. (A binary once got there.)
func TestOnlySources(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	names, err := files()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > limit {
			t.Errorf("%s has %d bytes, more than %d", name, info.Size(), limit)
		}
	}
}

// What is unfinished is an issue, not a note; and nothing names the place where it was
// written. The words are put together here so that this file does not contain them.
func TestNoNotesAndNoWorkplaces(t *testing.T) {
	t.Parallel()
	notes := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	places := regexp.MustCompile(`(^|[\s"'=(:\x60])/(wo` + `rk|ro` + `ot|ho` + `me/[a-z0-9_]+|Us` + `ers/[a-z0-9_]+|tmp/pr` + `ep)/`)
	names, err := files()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.Valid(text) || filepath.Base(name) == "go.sum" {
			continue
		}
		for i, line := range strings.Split(string(text), "\n") {
			if notes.MatchString(line) {
				t.Errorf("%s:%d: a note of something unfinished", name, i+1)
			}
			if places.MatchString(line) {
				t.Errorf("%s:%d: names a place on somebody's machine", name, i+1)
			}
		}
	}
}
