package archtest

import (
	"slices"
	"strings"
	"testing"
)

// inner lists the packages inside a layer, lowest first. Those of one row do not know each
// other; the layer's own package is above them all.
func inner() map[string][][]string {
	return map[string][][]string{
		"e2ee": {
			{"locks"},
			{"wire"},
			{"olm", "keyfile"},
			{"megolm"},
			{"identity", "takeover", "orgrules"},
			{"core"},
			{"rooms", "channel", "files", "auditing", "ownership"},
			{"devicekeys"},
			{"keybackup"},
			{"ownidentity"},
			{"roomkeys"},
			{"ownbackup"},
			{"gossip", "notices", "rollout", "live", "moves", "late", "searchindex", "sharedhistory", "verification"},
			{"status", "todevice", "roomevents", "schedule", "native", "overview", "controlroom"},
			{"unread", "checkup"},
		},
		"interceptors": {
			{"engineerr", "thumbnail"},
			{"exchange"},
			{"control", "filter", "bundled", "media", "native"},
			{"rewrite", "controlroom"},
		},
		"console": {
			{"gate"},
		},
		"store": {
			{"sqlio"},
		},
	}
}

// Inside a layer too imports run downwards only: a package imports those of lower rows.
func TestInnerImportsRunDownwards(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, p := range packages(t) {
		from, row, ok := innerRow(t, p.ImportPath)
		if !ok {
			continue
		}
		seen[from] = true
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if imported == p.ImportPath {
				continue
			}
			top, _, _ := strings.Cut(from, "/")
			if imported == module+"/"+top {
				t.Errorf("%s imports the package that it is a part of", p.ImportPath)
			}
			if to, below, ok := innerRow(t, imported); ok && below >= row {
				t.Errorf("%s imports %s, which is not below it", from, to)
			}
		}
	}
	for top, rows := range inner() {
		for _, name := range slices.Concat(rows...) {
			if !seen[top+"/internal/"+name] {
				t.Errorf("there is no package %s/internal/%s", top, name)
			}
		}
	}
}

// innerRow returns the name of a package inside a layer, and its row; ok is false for
// others.
func innerRow(t *testing.T, importPath string) (name string, row int, ok bool) {
	t.Helper()
	name = strings.TrimPrefix(importPath, module+"/")
	top, part, inside := strings.Cut(name, "/internal/")
	if !inside || !slices.Contains(layers(), top) {
		return "", 0, false
	}
	row = slices.IndexFunc(inner()[top], func(row []string) bool { return slices.Contains(row, part) })
	if row < 0 {
		t.Errorf("%s has no row in inner()", name)
	}
	return name, row, row >= 0
}

// A package inside a layer is read in one go, and so is the engine where its parts meet.
func TestInnerPackagesAreSmall(t *testing.T) {
	t.Parallel()
	most := func(dir string) int {
		if dir == "e2ee" {
			return 20
		}
		return 12
	}
	files := make(map[string]int)
	for _, f := range goFiles(t) {
		if _, _, ok := innerRow(t, module+"/"+f.dir()); (ok || f.dir() == "e2ee") && !f.isTest() {
			files[f.dir()]++
		}
	}
	for dir, n := range files {
		if n > most(dir) {
			t.Errorf("%s has %d files, more than %d", dir, n, most(dir))
		}
	}
}
