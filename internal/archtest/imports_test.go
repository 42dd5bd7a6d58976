package archtest

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layers, lowest first: a package may import its own layer and the ones below it.
func layers() []string {
	return []string{"config", "store", "trustcache", "e2ee", "interceptors", "console", "cluster", "proxy", "cmd"}
}

// layer returns the height of a package of ours; -1 for internal packages and tests.
func layer(importPath string) int {
	top, _, _ := strings.Cut(strings.TrimPrefix(importPath, module+"/"), "/")
	return slices.Index(layers(), top)
}

func isOurs(importPath string) bool { return strings.HasPrefix(importPath, module+"/") }

func isHarnessPath(importPath string) bool {
	f := goFile{name: strings.TrimPrefix(importPath, module+"/") + "/x.go"}
	return f.isHarness()
}

// Imports run downwards only, so that a package can be read knowing only what is below it.
func TestImportsRunDownwards(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if isHarnessPath(p.ImportPath) {
			continue
		}
		from := layer(p.ImportPath)
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if !isOurs(imported) || imported == p.ImportPath {
				continue
			}
			to := layer(imported)
			if from < 0 && to >= 0 {
				t.Errorf("%s imports %s: internal packages know nothing of Matrix's layers", p.ImportPath, imported)
			}
			if from >= 0 && to > from {
				t.Errorf("%s imports %s, which is above it: %s", p.ImportPath, imported, strings.Join(layers(), " < "))
			}
		}
		for _, imported := range p.Imports {
			if isHarnessPath(imported) {
				t.Errorf("%s imports %s: only tests may use the harness", p.ImportPath, imported)
			}
		}
	}
}

// A harness that reaches into the proxy's packages would test its own copy of their
// mistakes; the programs under test/ may use what they try out.
func TestHarnessKnowsNothingOfTheProxy(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if !isHarnessPath(p.ImportPath) || !strings.HasPrefix(p.ImportPath, module+"/internal/") {
			continue
		}
		for _, imported := range p.Imports {
			if isOurs(imported) && layer(imported) >= 0 {
				t.Errorf("%s imports %s", p.ImportPath, imported)
			}
		}
	}
}

// forbidden imports, each with its reason and with those who may.
func forbidden() []struct {
	path   string // ends in / for everything below
	reason string
	may    func(*goFile) bool
} {
	nobody := func(*goFile) bool { return false }
	tests := func(f *goFile) bool { return f.isTest() || f.isHarness() }
	return []struct {
		path   string
		reason string
		may    func(*goFile) bool
	}{
		{"maunium.net/go/mautrix/crypto", "its machine does not separate accounts and holds locks over the network: design section 3", nobody},
		{"maunium.net/go/mautrix/crypto/", "cryptography is the business of e2ee and trustcache only", func(f *goFile) bool {
			return tests(f) || strings.HasPrefix(f.name, "e2ee/") || strings.HasPrefix(f.name, "trustcache/")
		}},
		{"net/http/httputil", "what passes is relayed by package proxy itself, as it was judged", tests},
		{"github.com/rs/zerolog/log", "the global logger knows neither the request nor the level", nobody},
		{"github.com/stretchr/testify/", "tests use testing and go-cmp", nobody},
		{"github.com/tidwall/sjson", "a member is set by strictjson.Object, which leaves the others as they are", nobody},
		{"github.com/cenkalti/backoff/v5", "pauses are made by internal/backoff", func(f *goFile) bool { return f.name == "internal/backoff/backoff.go" }},
		{"github.com/go-chi/chi/v5", "what clients ask for is judged by the table of package proxy", func(f *goFile) bool {
			return strings.HasPrefix(f.name, "internal/ops/") || strings.HasPrefix(f.name, "cluster/") || strings.HasPrefix(f.name, "interceptors/internal/control/")
		}},
		{"github.com/redis/go-redis/v9", "what Redis says is believed by nobody but internal/rediscache, which checks it", func(f *goFile) bool {
			return strings.HasPrefix(f.name, "internal/rediscache/") || strings.HasPrefix(f.name, "internal/testredis/")
		}},
		{"github.com/redis/go-redis/v9/", "as the client itself", func(f *goFile) bool {
			return strings.HasPrefix(f.name, "internal/rediscache/") || strings.HasPrefix(f.name, "internal/testredis/")
		}},
		{"gopkg.in/yaml.v3", "it is no longer maintained: go.yaml.in/yaml/v3 is", nobody},
		{"net/http/pprof", "it registers itself on the default mux", nobody},
		{"expvar", "it registers itself on the default mux", nobody},
		{"math/rand", "use crypto/rand, or math/rand/v2 where nothing depends on it", nobody},
		{"unsafe", "memory safety is a promise", nobody},
		{"C", "a plain go build must work with CGO_ENABLED=0", nobody},
		{"plugin", "a plain go build must work with CGO_ENABLED=0", nobody},
	}
}

func TestForbiddenImports(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		for _, imported := range f.imports() {
			for _, rule := range forbidden() {
				match := imported == rule.path || (strings.HasSuffix(rule.path, "/") && strings.HasPrefix(imported, rule.path))
				if match && !rule.may(f) {
					t.Errorf("%s imports %s: %s", f.name, imported, rule.reason)
				}
			}
		}
	}
}

type goMod struct {
	Require []struct {
		Path     string
		Indirect bool
	}
	Replace []json.RawMessage
}

func readMod(t *testing.T, dir string) goMod {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json")
	cmd.Dir = filepath.Join(root, dir)
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod edit -json: %v", err)
	}
	var m goMod
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// A replaced module is not what `go install` gives to others.
func TestNoReplacedModules(t *testing.T) {
	t.Parallel()
	names, err := files()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if filepath.Base(name) == "go.mod" && len(readMod(t, filepath.Dir(name)).Replace) > 0 {
			t.Errorf("%s replaces a module", name)
		}
	}
}

// Every module that we import ourselves has a line that says why, and go.mod does not
// call it indirect.
func TestDirectDependenciesAreExplained(t *testing.T) {
	t.Parallel()
	mod := readMod(t, ".")
	direct := make(map[string]bool)
	for _, p := range packages(t) {
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			best := ""
			for _, r := range mod.Require {
				if (imported == r.Path || strings.HasPrefix(imported, r.Path+"/")) && len(r.Path) > len(best) {
					best = r.Path
				}
			}
			if best != "" {
				direct[best] = true
			}
		}
	}
	docs := readText(t, "docs/dependencies.md")
	for _, r := range mod.Require {
		explained := strings.Contains(docs, "| `"+r.Path+"` |")
		switch {
		case direct[r.Path] && !explained:
			t.Errorf("%s has no line in docs/dependencies.md", r.Path)
		case direct[r.Path] && r.Indirect:
			t.Errorf("go.mod calls %s indirect, but it is imported: run go mod tidy", r.Path)
		case !direct[r.Path] && !r.Indirect:
			t.Errorf("go.mod calls %s direct, but nothing imports it: run go mod tidy", r.Path)
		case !direct[r.Path] && explained:
			t.Errorf("docs/dependencies.md explains %s, which nothing imports", r.Path)
		}
	}
}
