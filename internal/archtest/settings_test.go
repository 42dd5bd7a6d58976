package archtest

import (
	"go/ast"
	"maps"
	"strings"
	"testing"
)

// A setting that is read and then does nothing is a lie to whoever sets it.
func TestEverySettingIsUsed(t *testing.T) {
	t.Parallel()
	used := make(map[string]bool)
	declared := make(map[string]string)
	for _, f := range goFiles(t) {
		switch {
		case f.isTest():
		case strings.HasPrefix(f.name, "config/settings"):
			maps.Copy(declared, settingFields(f))
		case strings.HasPrefix(f.name, "cmd/"):
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					used[sel.Sel.Name] = true
				}
				return true
			})
		}
	}
	if len(declared) < 20 {
		t.Fatalf("found only %d settings: looking in the wrong place", len(declared))
	}
	// Read by methods of Config, which the commands call.
	for name, method := range map[string]string{"EnforceFrom": "At", "Mode": "At", "RequireCrossSigning": "CrossSigningRequired", "Account": "CrossSigningRequired", "Notices": "NoticesHidden", "HideWarnings": "NoticesHidden", "MediaLinks": "LinksShown", "Links": "LinksShown"} {
		used[name] = used[method]
	}
	for name, place := range declared {
		if !used[name] {
			t.Errorf("%s: %s is not used by any command", place, name)
		}
	}
}

// settingFields returns the fields with a yaml tag, by name.
func settingFields(f *goFile) map[string]string {
	out := make(map[string]string)
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		if field, ok := n.(*ast.Field); ok && field.Tag != nil && strings.Contains(field.Tag.Value, "yaml:") {
			out[field.Names[0].Name] = f.place(field)
		}
		return true
	})
	return out
}
