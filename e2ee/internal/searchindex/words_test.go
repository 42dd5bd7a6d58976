package searchindex

import (
	"slices"
	"strings"
	"testing"
)

func TestWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                        "",
		" .,!?-":                  "",
		"Hello, World!":           "hello world",
		"a I 4 go":                "a i 4 go",
		"ÖLOFEN Straße":           "ölofen straße",
		"O\u0308lofen":            "ölofen", // decomposed
		"ﬁne ２０２６ Ⅻ":              "fine 2026 xii",
		"don't e-mail me@hs.org":  "don t e mail me hs org",
		"snake_case":              "snake case",
		"ПРИВЕТ мир":              "привет мир",
		"Ελλάς":                   "ελλάς",
		"नमस्ते दुनिया":           "नमस्ते दुनिया",
		"شكرا جزيلا":              "شكرا جزيلا",
		"東京":                      "東 京 東京",
		"東京タワー":                   "東 京 東京 タ 京タ ワ タワ ー ワー",
		"iPhone東京":                "iphone 東 京 東京",
		"한국어 말":                   "한 국 한국 어 국어 말",
		"ไทย":                     "ไ ท ไท ย ทย",
		"👍🏽 ok \u200d":            "ok",
		"Ｈｅｌｌｏ":                   "hello",
		"x\u0301":                 "x\u0301",
		"\u0301x":                 "\u0301x",
		"nul\x00in\xffvalid":      "nul in valid",
		strings.Repeat("a", 1000): strings.Repeat("a", 1000),
	} {
		var got []string
		for _, r := range runs(normal(text)) {
			r.words(func(w string) { got = append(got, w) })
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q has %q, want %q", text, strings.Join(got, " "), want)
		}
	}
}

func TestTerms(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		term, text string
		want       bool
	}{
		{"lighthouse", "To the LIGHTHOUSE!", true},
		{"to lighthouse", "Lighthouse, to", true},
		{"light", "lighthouse", false}, // whole words
		{"a", "a b", true},
		{"a", "ab", false},
		{"", "anything", false},
		{"?!", "?!", false},
		{"京", "東京", true},
		{"東京", "東京タワー", true},
		{"京東", "東京", false},
		{"東京京", "東京 京京", false}, // all pairs, but not the run
		{"東京 tower", "Tower 東京", true},
		{"東京 tower", "Tower 東", false},
		{"ไทย", "ภาษาไทยนะ", true},
	} {
		term := NewTerm(tt.term)
		if got := term.In([]string{tt.text}); got != tt.want {
			t.Errorf("%q in %q: %t", tt.term, tt.text, got)
		}
		// Whatever is in a text is found by its words.
		has := make(map[string]bool)
		for _, r := range runs(normal(tt.text)) {
			r.words(func(w string) { has[w] = true })
		}
		for _, r := range term.runs {
			r.wanted(func(w string) {
				if tt.want && !has[w] {
					t.Errorf("%q in %q: the word %q is not indexed", tt.term, tt.text, w)
				}
			})
		}
	}
	if !NewTerm("two words").In([]string{"one has words", "another two"}) {
		t.Error("words in two members are not found")
	}
	if got := NewTerm("The 東京 tower").Highlights(); !slices.Equal(got, []string{"the", "東京", "tower"}) {
		t.Errorf("highlights: %q", got)
	}
	if got := len(NewTerm(strings.Repeat("a b ", 1000)).runs); got > 100 {
		t.Errorf("%d words are looked for", got)
	}
}

// FuzzWords: whatever a text is, every part of it that is cut at its words is found in it.
func FuzzWords(f *testing.F) {
	f.Add("To the Lighthouse 東京タワー", 3)
	f.Add("ﬁ\u0301ne\xff", 0)
	f.Fuzz(func(t *testing.T, text string, at int) {
		all := runs(normal(text))
		if len(all) == 0 {
			return
		}
		r := all[max(at, 0)%len(all)]
		if !(Term{[]run{r}}).In([]string{text}) {
			t.Errorf("%q is not in %q", r.text, text)
		}
	})
}

// However many hashes there are, they are in the order in which they are looked for.
func TestSortPairs(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 255, 256, 5000} {
		h := newHasher([]byte("key"))
		var pairs []uint64
		for i := range n {
			for _, w := range []int{i, i % 7} {
				pairs = append(pairs, uint64(h.word(KeyBody, string(rune(w))))<<32|uint64(i))
			}
		}
		want := slices.Sorted(slices.Values(pairs))
		if got := sortPairs(pairs); !slices.Equal(got, want) {
			t.Errorf("%d pairs are not in order", len(got))
		}
	}
}
