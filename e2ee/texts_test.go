package e2ee

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What a plain user reads, in warnings and placeholders, speaks of devices that are confirmed
// and of digital identities; never of cross-signing, and of no key but the recovery key
// (requirement 26.1).
func TestTextsAreForPeople(t *testing.T) {
	t.Parallel()
	texts := map[string]string{"the name of who notices are from": NoticeName}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := filepath.Glob("internal/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, inner...) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, "text") || len(spec.Values) != 1 {
				return true
			}
			ast.Inspect(spec.Values[0], func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					part, err := strconv.Unquote(lit.Value)
					if err != nil {
						t.Fatal(err)
					}
					texts[spec.Names[0].Name] += part
				}
				return true
			})
			return false
		})
	}
	if len(texts) < 17 {
		t.Errorf("only %d texts were found", len(texts))
	}
	jargon := regexp.MustCompile(`(?i)cross.?sign|\bkeys?\b|\bmaster\b|megolm|\bolm\b|ed25519|curve25519|\bpin(ned)?\b`)
	for name, text := range texts {
		if word := jargon.FindString(strings.ReplaceAll(text, "recovery key", "")); word != "" {
			t.Errorf("%s says %q: %s", name, word, text)
		}
	}
}
