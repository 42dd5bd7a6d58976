package rules

import (
	"regexp"
	"strings"
	"testing"
)

// A pattern matches what the regular expression with the same meaning matches.
func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{
		{"*", ""}, {"", ""}, {"?", "ä"}, {"a*b*c", "aXbXbc"}, {"*a", "ba"}, {"a*", "ab"}, {"**", "x"}, {"?*?", "ab"}, {"a?c", "abc"},
		{"[a]", "a"}, {"\\*", "\\x"}, {"*.example.org", "a.example.org"}, {"@*:x", "@*:x"}, {"*ab", "aab"}, {"?", "\xff"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if strings.ContainsRune(pattern, '\uFFFD') || len(pattern) > 64 || len(text) > 256 || strings.ToValidUTF8(pattern+text, "") != pattern+text {
			return // a regular expression has no way to say it
		}
		re := regexp.MustCompile("(?s)^" + strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern)) + "$")
		g := newGlob(pattern)
		if got, want := g.match(text), re.MatchString(text); got != want {
			t.Errorf("%q fits %q: %v, want %v", pattern, text, got, want)
		}
	})
}
