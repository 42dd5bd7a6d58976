package searchindex

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// What a word is: the longest run of letters, digits and the marks on them, after Unicode's
// NFKC and in lower case, whatever its length. Scripts that are written without blanks have
// no such words: there each character is one, and each two neighbours are.

// maxText is how much of a text is looked at, in bytes. An event has no more.
const maxText = 64 << 10

// normal returns a text in the form in which words are compared.
func normal(text string) string {
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	return strings.ToLower(norm.NFKC.String(strings.ToLower(text)))
}

// kind is what a character is part of.
type kind int

const (
	kindNone  kind = iota // between words
	kindMark              // part of what stands before it
	kindWord              // of a word
	kindDense             // of a script without blanks
)

func kindOf(r rune) kind {
	if r < utf8.RuneSelf {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' {
			return kindWord
		}
		return kindNone
	}
	switch {
	case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar, unicode.Hangul, unicode.Bopomofo, unicode.Yi),
		r == 'ー': // the mark of a long vowel, which belongs to no script
		return kindDense
	case unicode.IsMark(r):
		return kindMark
	case unicode.IsLetter(r), unicode.IsNumber(r):
		return kindWord
	}
	return kindNone
}

// run is a part of a normalised text that is all words of one kind.
type run struct {
	text  string
	dense bool
}

// runs returns the runs of a normalised text.
func runs(text string) []run { return appendRuns(nil, text) }

func appendRuns(all []run, text string) []run {
	start, now := 0, kindNone
	end := func(at int) {
		if now != kindNone {
			all = append(all, run{text[start:at], now == kindDense})
		}
	}
	for i, r := range text {
		next := kindOf(r)
		if next == kindMark && now != kindNone {
			continue
		}
		if next == kindMark { // with nothing before it
			next = kindWord
		}
		if next != now {
			end(i)
			start, now = i, next
		}
	}
	end(len(text))
	return all
}

// words calls each for the words under which a run is found.
func (r run) words(each func(string)) {
	if !r.dense {
		each(r.text)
		return
	}
	before := -1
	for i := 0; i < len(r.text); {
		_, size := utf8.DecodeRuneInString(r.text[i:])
		each(r.text[i : i+size])
		if before >= 0 {
			each(r.text[before : i+size])
		}
		before, i = i, i+size
	}
}

// wanted calls each for the words that are looked for to find a run. Of a script without
// blanks those are the pairs: whoever has them all need not have the run, see [Term.In].
func (r run) wanted(each func(string)) {
	if !r.dense || utf8.RuneCountInString(r.text) == 1 {
		each(r.text)
		return
	}
	r.words(func(w string) {
		if utf8.RuneCountInString(w) > 1 {
			each(w)
		}
	})
}

// Term is what somebody looks for.
type Term struct{ runs []run }

// NewTerm returns what a text asks for: all of its words, in any order.
func NewTerm(text string) Term {
	const most = 32 // words
	all := runs(normal(text))
	return Term{all[:min(len(all), most)]}
}

// Empty reports whether there is no word in it.
func (t Term) Empty() bool { return len(t.runs) == 0 }

// Highlights returns the words to mark in what was found.
func (t Term) Highlights() []string {
	all := make([]string, len(t.runs))
	for i, r := range t.runs {
		all[i] = r.text
	}
	return all
}

// In reports whether the texts together have all the words.
func (t Term) In(texts []string) bool {
	if t.Empty() {
		return false
	}
	has := make(map[string]bool)
	dense := make([]string, len(texts))
	for i, text := range texts {
		dense[i] = normal(text)
		for _, r := range runs(dense[i]) {
			if !r.dense {
				has[r.text] = true
			}
		}
	}
	for _, r := range t.runs {
		found := has[r.text]
		for i := 0; r.dense && !found && i < len(dense); i++ {
			found = strings.Contains(dense[i], r.text)
		}
		if !found {
			return false
		}
	}
	return true
}
