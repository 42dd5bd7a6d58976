package archtest

import (
	"errors"
	"go/ast"
	"go/token"
	"go/types"
	"testing"
)

// Package variables that change are state that no reader of a function sees. Those that
// are set where they are declared, and never again, are constants that Go cannot spell.
func TestNoMutablePackageState(t *testing.T) {
	t.Parallel()
	byDir := make(map[string][]*goFile)
	for _, f := range goFiles(t) {
		if !f.isTest() && !f.isHarness() {
			byDir[f.dir()] = append(byDir[f.dir()], f)
		}
	}
	for dir, files := range byDir {
		info := typesOf(dir, files)
		for _, f := range files {
			for _, n := range unset(f) {
				t.Errorf("%s: package variable %s is set later than here, or by whoever calls its methods", f.place(n), n.Name)
			}
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				for _, changed := range changes(n) {
					if v, ok := info.Uses[changed].(*types.Var); ok && v.Parent() != nil && v.Parent() == v.Pkg().Scope() {
						t.Errorf("%s: package variable %s is changed", f.place(changed), changed.Name)
					}
				}
				return true
			})
		}
	}
}

// typesOf resolves the names of one package. What it imports stays unknown, which does
// not matter for its own variables.
func typesOf(dir string, files []*goFile) *types.Info {
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	conf := types.Config{Importer: noImports{}, Error: func(error) {}}
	syntax := make([]*ast.File, 0, len(files))
	for _, f := range files {
		syntax = append(syntax, f.syntax)
	}
	// Its error is that imports are missing.
	_, _ = conf.Check(dir, files[0].set, syntax, info)
	return info
}

type noImports struct{}

func (noImports) Import(string) (*types.Package, error) { return nil, errors.New("not needed") }

// unset lists the package variables that are declared without a value; what an embed
// directive fills has one.
func unset(f *goFile) []*ast.Ident {
	var out []*ast.Ident
	for _, decl := range f.syntax.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, spec := range gen.Specs {
			if v, ok := spec.(*ast.ValueSpec); ok && len(v.Values) == 0 && !isEmbedded(gen.Doc) && !isEmbedded(v.Doc) {
				out = append(out, v.Names...)
			}
		}
	}
	return out
}

func isEmbedded(doc *ast.CommentGroup) bool {
	if doc == nil {
		return false
	}
	for _, c := range doc.List {
		if len(c.Text) > 11 && c.Text[:11] == "//go:embed " {
			return true
		}
	}
	return false
}

// changes returns the variables that a statement writes to, or whose address it takes.
func changes(n ast.Node) []*ast.Ident {
	var targets []ast.Expr
	switch s := n.(type) {
	case *ast.AssignStmt:
		if s.Tok != token.DEFINE {
			targets = s.Lhs
		}
	case *ast.IncDecStmt:
		targets = []ast.Expr{s.X}
	case *ast.RangeStmt:
		if s.Tok == token.ASSIGN {
			targets = []ast.Expr{s.Key, s.Value}
		}
	case *ast.UnaryExpr:
		if s.Op == token.AND {
			targets = []ast.Expr{s.X}
		}
	}
	var out []*ast.Ident
	for _, e := range targets {
		if id := variable(e); id != nil {
			out = append(out, id)
		}
	}
	return out
}

// variable returns the variable in x, x.y, x[i], *x and (x).
func variable(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}
