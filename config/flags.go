package config

import (
	"errors"
	"flag"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"
)

// Flags are the settings in the command line.
type Flags struct{ given []givenFlag }

type givenFlag struct {
	name    string
	setting setting
	value   string
	file    bool
}

// Register adds a flag for every setting to a flag set: --log-level for log.level. Secrets
// have only --NAME-file, since other users of the machine can read arguments, and settings
// with secrets in them have none. Mistakes in the values are reported by [Load], with all
// others.
func (f *Flags) Register(fs *flag.FlagSet) {
	f.register(fs, func(setting) bool { return true })
}

// RegisterSome is Register for the settings with the given names.
func (f *Flags) RegisterSome(fs *flag.FlagSet, names ...string) {
	f.register(fs, func(s setting) bool { return slices.Contains(names, s.path) })
}

func (f *Flags) register(fs *flag.FlagSet, which func(setting) bool) {
	docs, defaults := docComments(), reflect.ValueOf(Default())
	for _, s := range settings() {
		if !s.hasFlag() || !which(s) {
			continue
		}
		v := &flagValue{to: f, name: s.flag(), setting: s, file: isSecret(s.typ), standard: showValue(defaults.FieldByIndex(s.index))}
		if v.file {
			v.name += "-file"
		}
		usage := firstSentence(docs[s.owner+"."+s.field])
		if v.file {
			usage = "FILE with: " + usage
		}
		fs.Var(v, v.name, usage)
	}
}

// flagValue is the flag of one setting. It has a kind and a default beside the methods of
// flag.Value.
type flagValue struct {
	to       *Flags
	name     string
	setting  setting
	file     bool
	standard string
}

// String implements flag.Value. Package flag calls it on zero values too.
func (v *flagValue) String() string { return v.standard }

// IsBoolFlag lets the name alone mean true.
func (v *flagValue) IsBoolFlag() bool { return v.setting.typ.Kind() == reflect.Bool }

// Set stores the value for [Load].
func (v *flagValue) Set(value string) error {
	if v.file && value == "" {
		return errors.New("needs the path of a file")
	}
	v.to.given = append(v.to.given, givenFlag{name: v.name, setting: v.setting, value: value, file: v.file})
	return nil
}

// Kind returns the possible values: every word of an enumeration, or the kind of value.
func (v *flagValue) Kind() string {
	if v.file {
		return "FILE"
	}
	return v.setting.kind()
}

// Default returns the value without the flag.
func (v *flagValue) Default() string {
	switch {
	case v.standard != "":
		return "default " + v.standard
	case v.setting.path == "homeserver":
		return "required"
	}
	if v.setting.unsetTag != "" {
		return "default " + v.setting.unsetTag
	}
	return "default: none"
}

// IsSetting reports whether a flag's value is one that [Flags] has registered.
func IsSetting(v flag.Value) bool {
	_, is := v.(*flagValue)
	return is
}

// kind returns the kind of a setting's values.
func (s setting) kind() string {
	if words := wordsOf(s.typ); len(words) > 0 {
		return strings.Join(words, "|")
	}
	if s.kindTag != "" {
		return s.kindTag
	}
	switch s.typ {
	case reflect.TypeFor[URL]():
		return "URL"
	case reflect.TypeFor[Size]():
		return "SIZE"
	case reflect.TypeFor[Date]():
		return "DATE"
	case reflect.TypeFor[time.Duration]():
		return "DURATION"
	case reflect.TypeFor[[]netip.Prefix]():
		return "[NETWORK, …]"
	case reflect.TypeFor[[]id.UserID]():
		return "[USER, …]"
	case reflect.TypeFor[bool]():
		return "true|false"
	case reflect.TypeFor[int]():
		return "NUMBER"
	}
	return "TEXT"
}

func firstSentence(doc string) string {
	doc = strings.ReplaceAll(doc, "\n", " ")
	first, _, _ := strings.Cut(doc, ". ")
	return strings.TrimSuffix(first, ".")
}
