package verification

import (
	_ "embed"
	"strings"
)

//go:embed emoji.txt
var emojiTable string

// emojiOf returns an emoji by its number, with its name in every language that the
// specification has (requirement 13.15).
func emojiOf(number int) Emoji {
	line := 0
	for text := range strings.Lines(emojiTable) {
		if strings.HasPrefix(text, "#") {
			continue
		}
		if line != number {
			line++
			continue
		}
		fields := strings.Split(strings.TrimSuffix(text, "\n"), "\t")
		out := Emoji{Symbol: fields[0], Name: fields[1], Names: make(map[string]string, len(fields)-2)}
		for _, field := range fields[2:] {
			language, name, _ := strings.Cut(field, "=")
			out.Names[language] = name
		}
		return out
	}
	return Emoji{}
}
