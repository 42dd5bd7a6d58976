package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
)

// maxFile is the largest file that is read: configuration, secrets.
const maxFile = 1 << 20

// Sources are the places where settings come from, least important first.
type Sources struct {
	// File is the path of the YAML file. Empty: that of E2EE_PROXY_CONFIG, if set.
	File string
	// Environ is the environment, as returned by os.Environ.
	Environ []string
	// Flags are the flags of the command line; see [Flags].
	Flags *Flags
	// Offline is for commands that only read the database: no homeserver is needed.
	Offline bool
	// Inspect, when not nil, also checks what the settings name.
	Inspect *Inspection
}

// Load reads all sources and checks the result. The error is an [*Error] with every
// problem; the Config is usable only without one.
func Load(src Sources) (*Config, error) {
	cfg := Default()
	l := &loader{cfg: reflect.ValueOf(&cfg).Elem(), origin: map[string]string{}}
	l.readFile(cmp.Or(src.File, lookup(src.Environ, envPrefix+"CONFIG")))
	l.readEnviron(src.Environ)
	l.readFlags(src.Flags)
	l.validate(&cfg, src.Offline)
	if src.Inspect != nil {
		l.inspect(&cfg, *src.Inspect)
	}
	if len(l.problems) > 0 {
		return nil, &Error{Problems: l.problems}
	}
	return &cfg, nil
}

func lookup(environ []string, name string) string {
	for _, pair := range environ {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}

type loader struct {
	cfg      reflect.Value
	origin   map[string]string
	problems []Problem
	named    []namedFile
}

func (l *loader) problem(where, path, what, do string) {
	l.problems = append(l.problems, Problem{Where: where, Setting: path, What: what, Do: do})
}

func (l *loader) decoder(source string, lines bool) *decoder {
	return &decoder{source: source, files: readSmall, problems: &l.problems, named: &l.named, origin: l.origin, lines: lines}
}

func (l *loader) readFile(path string) {
	if path == "" {
		return
	}
	text, err := readRaw(path)
	if err != nil {
		l.problem(path, "", err.Error(), "check the path given with --config or E2EE_PROXY_CONFIG")
		return
	}
	l.named = append(l.named, namedFile{where: path, file: path})
	d := l.decoder(path, true)
	if root := d.parse(text); root != nil {
		d.value(root, l.cfg, "")
	}
}

// readEnviron sets values from E2EE_PROXY_NAME, or from the file that E2EE_PROXY_NAME_FILE
// names.
func (l *loader) readEnviron(environ []string) {
	byName := make(map[string]setting)
	names := make([]string, 0)
	for _, s := range settings() {
		byName[s.env()] = s
		names = append(names, s.env())
	}
	given := make(map[string]bool)
	for _, pair := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, envPrefix) || isForeignVariable(name) {
			continue
		}
		s, direct := byName[name]
		base := strings.TrimSuffix(name, "_FILE")
		if !direct {
			var known bool
			if s, known = byName[base]; !known {
				l.problem(name, "", "is not a setting", unknownDo(name, names))
				continue
			}
			text, err := readSmall(value)
			if err != nil {
				l.problem(name, s.path, err.Error(), "check the path and who may read it")
				continue
			}
			l.named = append(l.named, namedFile{name, s.path, value})
			value = text
		}
		if given[s.path] {
			l.problem(name, s.path, "is given directly and as a file", "unset one of the two variables")
		}
		given[s.path] = true
		l.setText(name, s, value)
	}
}

// isForeignVariable reports whether a variable with our prefix is no setting: --config's own, those
// that Kubernetes sets for a service named e2ee-proxy, and those of this project's tests.
func isForeignVariable(name string) bool {
	rest := strings.TrimPrefix(name, envPrefix)
	return rest == "CONFIG" || rest == "PORT" || rest == "REQUIRE_ALL" ||
		strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "SERVICE_") || strings.HasPrefix(rest, "TEST_")
}

func unknownDo(name string, known []string) string {
	if guess := Nearest(name, known); guess != "" {
		return "did you mean " + guess + "?"
	}
	return "unset it; the names are in docs/configuration.md"
}

func (l *loader) readFlags(f *Flags) {
	if f == nil {
		return
	}
	given := make(map[string]bool)
	for _, g := range f.given {
		name, value := "--"+g.name, g.value
		if g.file {
			text, err := readSmall(value)
			if err != nil {
				l.problem(name, g.setting.path, err.Error(), "check the path and who may read it")
				continue
			}
			l.named = append(l.named, namedFile{name, g.setting.path, value})
			value = text
		}
		if given[g.setting.path] {
			l.problem(name, g.setting.path, "is given twice", "keep one of them")
		}
		given[g.setting.path] = true
		l.setText(name, g.setting, value)
	}
}

// setText sets a leaf from a variable or a flag. Lists and maps are written in YAML there.
func (l *loader) setText(source string, s setting, text string) {
	v := l.cfg.FieldByIndex(s.index)
	d := l.decoder(source, false)
	l.origin[s.path] = source
	if k := s.typ.Kind(); k != reflect.Map && k != reflect.Slice {
		d.set(nil, v, s.path, text)
		return
	}
	v.SetZero()
	if root := d.parse([]byte(text)); root != nil {
		d.value(root, v, s.path)
	}
}

// readSmall reads a file with one value, without the line end after it.
func readSmall(path string) (string, error) {
	b, err := readRaw(path)
	return strings.TrimRight(string(b), "\r\n"), err
}

// readRaw reads a file of moderate size. Errors name the path and the reason, and
// never the content.
func readRaw(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // G304: the administrator names the file
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, pathlessError(err))
	}
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(f, maxFile+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, pathlessError(err))
	}
	if n > maxFile {
		return nil, fmt.Errorf("%s is larger than %s", path, Size(maxFile))
	}
	return b.Bytes(), nil
}

// pathlessError returns the error without the operation and the path, which the caller names.
func pathlessError(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}
