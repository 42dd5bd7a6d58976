package config

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"e2ee-proxy/internal/secret"
)

const envPrefix = "E2EE_PROXY_"

// setting is one leaf of [Config]: what one variable or one flag sets. Lists and maps are
// leaves; in a variable or a flag their value is written in YAML.
type setting struct {
	path  string // "log.level"
	owner string // name of the struct type, for its doc comment
	field string // name of the field, for its doc comment
	index []int  // of the field in Config, for reflect
	typ   reflect.Type
	// kindTag names the kind of a text: a path, an address.
	kindTag string
	// unsetTag is what an empty value means where it means something.
	unsetTag string
}

func (s setting) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.path, ".", "_"))
}

func (s setting) flag() string {
	return strings.NewReplacer(".", "-", "_", "-").Replace(s.path)
}

// hasFlag reports whether the value can be written in one argument without showing a secret.
func (s setting) hasFlag() bool {
	k := s.typ.Kind()
	return k != reflect.Map && (k != reflect.Slice || !isGroup(s.typ.Elem()))
}

// settings returns every leaf of Config in the order of the struct.
func settings() []setting { return leaves(reflect.TypeFor[Config](), "", nil) }

func leaves(t reflect.Type, prefix string, index []int) []setting {
	var out []setting
	for i := range t.NumField() {
		f := t.Field(i)
		at := append(append([]int(nil), index...), i)
		path := prefix + f.Tag.Get("yaml")
		if isGroup(f.Type) {
			out = append(out, leaves(f.Type, path+".", at)...)
			continue
		}
		out = append(out, setting{path: path, owner: t.Name(), field: f.Name, index: at, typ: f.Type, kindTag: f.Tag.Get("kind"), unsetTag: f.Tag.Get("unset")})
	}
	return out
}

// isGroup reports whether t is a struct of settings rather than a value.
func isGroup(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// isSecret reports whether values of t must never be shown. They can be given as a file in
// YAML (NAME_file), and on the command line only so: other users of the machine can read
// arguments.
func isSecret(t reflect.Type) bool {
	return t == reflect.TypeFor[secret.String]() || t == reflect.TypeFor[Key]()
}

// setPrefix accepts a network or a single address.
func setPrefix(p *netip.Prefix, text string) error {
	if addr, err := netip.ParseAddr(text); err == nil {
		*p = netip.PrefixFrom(addr.WithZone(""), addr.BitLen())
		return nil
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return &valueError{strconv.Quote(text) + " is neither an address nor a network", "write it like 10.0.0.1, 10.0.0.0/8 or fd00::/8"}
	}
	*p = network.Masked()
	return nil
}

// setScalar parses text into v. An error is a *valueError.
func setScalar(v reflect.Value, text string) error {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if p, ok := v.Addr().Interface().(*netip.Prefix); ok {
		return setPrefix(p, text)
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(text)
		if err != nil {
			return &valueError{strconv.Quote(text) + " is not a duration", "write it like 30s, 10m or 1h"}
		}
		v.SetInt(int64(d))
		return nil
	}
	switch v.Kind() { //nolint:exhaustive // the other kinds are not used by settings; the default case says so
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return &valueError{strconv.Quote(text) + " is neither true nor false", "write true or false"}
		}
		v.SetBool(text == "true")
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return &valueError{strconv.Quote(text) + " is not a whole number", "write digits only"}
		}
		v.SetInt(int64(n))
	default:
		return &valueError{fmt.Sprintf("cannot hold a value (%s)", v.Type()), "report this as a bug"}
	}
	return nil
}

// showValue returns the value as it is written in YAML; empty for a zero list, map, secret
// or pointer.
func showValue(v reflect.Value) string {
	if isSecret(v.Type()) {
		return ""
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return shortDuration(x)
	case fmt.Stringer:
		if v.Kind() == reflect.Pointer && v.IsNil() {
			return ""
		}
		return x.String()
	}
	if k := v.Kind(); k == reflect.Map || k == reflect.Slice || k == reflect.Pointer {
		return ""
	}
	return fmt.Sprint(v.Interface())
}

// shortDuration returns 10m instead of 10m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Nearest returns the candidate that a misspelt name probably meant; empty if none is near.
func Nearest(name string, candidates []string) string {
	best, limit := "", 1+len(name)/4
	for _, c := range candidates {
		if d := distance(name, c); d <= limit {
			best, limit = c, d-1
		}
	}
	return best
}

// distance returns the Levenshtein distance of two names.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
