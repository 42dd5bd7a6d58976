package archtest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// page is one of the pages of rules. Every one has the same tables: a number, what is asked,
// what the proxy does, a setting or a source, and tests or the word for why there are none.
type page struct {
	name    string
	numbers []string // of the rows that it has
}

// pages returns the pages of rules with their numbers, which never change their meaning.
func pages() []page {
	return []page{
		{"docs/msc4153.md", sections(map[int]int{1: 26, 13: 19, 14: 7, 15: 5, 16: 10, 17: 9})},
		{"docs/requirements.md", sections(map[int]int{
			0: 12, 2: 10, 3: 12, 4: 9, 5: 5, 6: 14, 7: 6, 8: 11, 9: 8, 10: 7, 11: 6, 12: 14,
			18: 7, 19: 12, 20: 6, 21: 2, 22: 3, 23: 9, 24: 4, 25: 4, 26: 2,
		})},
		{"docs/attacks.md", slices.Concat(
			counted("A", 1, 28), counted("", 29, 75), counted("", 81, 91), counted("", 131, 139), counted("R", 1, 10), counted("N", 1, 9), counted("T", 1, 20), counted("C", 1, 12))},
	}
}

// sections returns the numbers of sections, each numbered from 1.
func sections(counts map[int]int) (out []string) {
	for section, count := range counts {
		out = append(out, counted(fmt.Sprintf("%d.", section), 1, count)...)
	}
	return out
}

func counted(prefix string, from, to int) (out []string) {
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprint(prefix, i))
	}
	return out
}

// without returns the words for why a row has no test.
func without() []string { return []string{"not built yet", "no test yet", "asks nothing"} }

// rule is a row of a page.
type rule struct {
	place   string // page and line
	numbers []string
	fourth  string // what the fourth column is: "setting" or "source"
	cells   []string
}

// hasTests reports whether the row names tests, or says why it has none.
func (r rule) hasTests() bool { return !slices.Contains(without(), r.cells[4]) }

// Every rule is on its page: with tests that exist and a setting that exists, or with the
// word for why it has no test.
func TestEveryRuleHasATest(t *testing.T) {
	t.Parallel()
	settings := settingNames(t)
	for _, p := range pages() {
		rules := rulesOf(t, p.name)
		seen := make(map[string]bool)
		twice := make(map[string]string)
		for _, r := range rules {
			for _, n := range r.numbers {
				seen[n] = true
				// A rule of which a part is not built has a row for that part.
				key := fmt.Sprint(n, r.hasTests())
				if twice[key] != "" {
					t.Errorf("%s: %s is in %s already", r.place, n, twice[key])
				}
				twice[key] = r.place
				if !slices.Contains(p.numbers, n) {
					t.Errorf("%s: there is no rule %s", r.place, n)
				}
			}
			if r.fourth == "setting" {
				wantSettings(t, r, settings)
			}
			if r.hasTests() {
				wantTests(t, r)
			}
		}
		for _, n := range p.numbers {
			if !seen[n] {
				t.Errorf("%s says nothing of %s", p.name, n)
			}
		}
	}
}

// What stands outside the tables names tests too.
func TestThePagesOfRulesNameRealTests(t *testing.T) {
	t.Parallel()
	for _, p := range pages() {
		names := regexp.MustCompile("`[a-z0-9/-]+\\.Test[^`]*`").FindAllString(readText(t, p.name), -1)
		if len(names) < 100 {
			t.Fatalf("%s: found only %d names of tests: looking in the wrong place", p.name, len(names))
		}
		for _, name := range names {
			if why := missingTest(t, strings.Trim(name, "`")); why != "" {
				t.Errorf("%s names %s: %s", p.name, name, why)
			}
		}
	}
}

// rulesOf reads the tables of a page.
func rulesOf(t *testing.T, name string) (out []rule) {
	t.Helper()
	number := regexp.MustCompile(`^(\d+\.\d+|[ACNRT]?\d+)$`)
	fourth := ""
	for i, line := range strings.Split(readText(t, name), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") {
			continue
		}
		r := rule{place: fmt.Sprintf("%s:%d", name, i+1)}
		for cell := range strings.SplitSeq(strings.Trim(line, "| "), "|") {
			r.cells = append(r.cells, strings.TrimSpace(cell))
		}
		if len(r.cells) != 5 || slices.Contains(r.cells, "") {
			t.Fatalf("%s: a row has five cells, none of them empty", r.place)
		}
		if r.cells[0] == "no." {
			fourth = r.cells[3]
			if fourth != "setting" && fourth != "source" || r.cells[4] != "test" {
				t.Errorf("%s: a table ends with a setting or a source, and with tests", r.place)
			}
			continue
		}
		r.fourth = fourth
		for n := range strings.SplitSeq(r.cells[0], ", ") {
			if !number.MatchString(n) {
				t.Errorf("%s: %q is no number of a rule", r.place, n)
			}
			r.numbers = append(r.numbers, n)
		}
		out = append(out, r)
	}
	if len(out) < 60 {
		t.Fatalf("%s: found only %d rules: looking in the wrong place", name, len(out))
	}
	return out
}

func wantSettings(t *testing.T, r rule, settings []string) {
	t.Helper()
	if r.cells[3] == "none" {
		return
	}
	for name := range strings.SplitSeq(r.cells[3], ", ") {
		if bare := strings.Trim(name, "`"); !slices.Contains(settings, bare) {
			t.Errorf("%s: there is no setting %s", r.place, bare)
		}
	}
}

func wantTests(t *testing.T, r rule) {
	t.Helper()
	names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(r.cells[4], -1)
	if len(names) == 0 {
		t.Errorf("%s: %s has no test", r.place, r.cells[0])
	}
	for _, name := range names {
		if why := missingTest(t, name[1]); why != "" {
			t.Errorf("%s: %s: %s", r.place, name[1], why)
		}
	}
}
