package archtest

import (
	"regexp"
	"strings"
	"testing"
)

// docs/control-api.md is what users have of the control API: every call has its section,
// and every code that a call, a problem or a warning can have is in it. Nothing else is.
func TestControlAPIIsDocumented(t *testing.T) {
	page := readText(t, "docs/control-api.md")
	calls := regexp.MustCompile(`\{method: "([A-Z]+)", pattern: own \+ "/([^"]+)"`).FindAllStringSubmatch(readText(t, "proxy/routes_other.go"), -1)
	if len(calls) < 15 {
		t.Fatalf("only %d calls were found", len(calls))
	}
	known := make(map[string]bool)
	for _, call := range calls {
		name := call[1] + " " + call[2]
		known[name] = true
		if !strings.Contains(page, "[`"+name+"`](#") {
			t.Errorf("%s is not in the table of calls", name)
		}
		if !regexp.MustCompile(`(?m)^## .*` + regexp.QuoteMeta(name) + `(,|$)`).MatchString(page) {
			t.Errorf("%s has no section", name)
		}
	}
	for _, said := range regexp.MustCompile("\\| \\[`([A-Z]+ [^`]+)`\\]").FindAllStringSubmatch(page, -1) {
		if !known[said[1]] {
			t.Errorf("%s is documented and does not exist", said[1])
		}
	}
	codes := make(map[string]bool)
	for _, source := range []struct{ file, code string }{
		{"interceptors/internal/control/errors.go", `"(DEV\.E2EE_PROXY\.[A-Z_]+)"`},
		{"e2ee/internal/status/problems.go", `Problem\{\s*"([a-z_]+)"`},
		{"e2ee/internal/notices/warnings.go", `(?m)^\tCode[A-Z]\w+ += "([a-z_]+)"`},
	} {
		found := regexp.MustCompile(source.code).FindAllStringSubmatch(readText(t, source.file), -1)
		if len(found) < 5 {
			t.Fatalf("%s: only %d codes were found", source.file, len(found))
		}
		for _, code := range found {
			codes[code[1]] = true
			if !strings.Contains(page, "`"+code[1]+"`") {
				t.Errorf("%s of %s is not documented", code[1], source.file)
			}
		}
	}
	for _, said := range regexp.MustCompile("`(DEV\\.E2EE_PROXY\\.[A-Z_]+)`").FindAllStringSubmatch(page, -1) {
		if code := said[1]; !codes[code] && code != "DEV.E2EE_PROXY.CANNOT_ENCRYPT" && code != "DEV.E2EE_PROXY.DEVICE_NOT_SIGNED" {
			t.Errorf("%s is documented and does not exist", code)
		}
	}
}
