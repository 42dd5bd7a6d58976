package config

import (
	"errors"
	"flag"
	"reflect"
	"strings"
)

// Flags are the settings given on the command line.
type Flags struct{ given []givenFlag }

type givenFlag struct {
	name    string
	setting setting
	value   string
	file    bool
}

// Register adds a flag for every setting to a flag set: --log-level for log.level.
// Secrets have only --NAME-file, since other users of the machine can read arguments,
// and settings with secrets in them have none.
// Mistakes in the values are reported by [Load], with everybody else's.
func (f *Flags) Register(fs *flag.FlagSet) {
	docs := docComments()
	for _, s := range settings() {
		if !s.hasFlag() {
			continue
		}
		name, file := s.flag(), isSecret(s.typ)
		if file {
			name += "-file"
		}
		usage := firstSentence(docs[s.owner+"."+s.field])
		if file {
			usage = "`FILE` with: " + usage
		}
		add := func(value string) error {
			if file && value == "" {
				return errors.New("needs the path of a file")
			}
			f.given = append(f.given, givenFlag{name: name, setting: s, value: value, file: file})
			return nil
		}
		if s.typ.Kind() == reflect.Bool {
			fs.BoolFunc(name, usage, add)
			continue
		}
		fs.Func(name, usage, add)
	}
}

func firstSentence(doc string) string {
	doc = strings.ReplaceAll(doc, "\n", " ")
	first, _, _ := strings.Cut(doc, ". ")
	return strings.TrimSuffix(first, ".")
}
