package config

import (
	"bytes"
	"flag"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

// show lists every setting with its value, for comparing.
func show(c *Config) map[string]string {
	out := make(map[string]string)
	for _, s := range settings() {
		out[s.path] = showValue(reflect.ValueOf(c).Elem().FieldByIndex(s.index))
	}
	return out
}

func TestNamesAreUnique(t *testing.T) {
	t.Parallel()
	seen := make(map[string]string)
	for _, s := range settings() {
		names := []string{s.env(), s.env() + "_FILE", s.flag()}
		if isSecret(s.typ) {
			names = append(names, s.flag()+"-file")
		}
		for _, name := range names {
			if other, taken := seen[name]; taken {
				t.Errorf("%s names both %s and %s", name, other, s.path)
			}
			seen[name] = s.path
		}
		if isForeignVariable(s.env()) {
			t.Errorf("%s is not read: it belongs to somebody else", s.env())
		}
	}
}

func TestEverySettingIsDocumented(t *testing.T) {
	t.Parallel()
	docs := docComments()
	var walk func(v reflect.Type)
	walk = func(v reflect.Type) {
		for f := range v.Fields() {
			if f.Tag.Get("yaml") == "" {
				t.Errorf("%s.%s has no yaml tag", v.Name(), f.Name)
			}
			if docs[v.Name()+"."+f.Name] == "" {
				t.Errorf("%s.%s has no doc comment", v.Name(), f.Name)
			}
			if u := f.Type; isGroup(u) {
				walk(u)
			} else if k := u.Kind(); (k == reflect.Map || k == reflect.Slice) && isGroup(u.Elem()) && !isSecret(u) {
				walk(u.Elem())
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

func TestExampleIsValid(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, string(Example()), nil)
	want := Default()
	want.Homeserver = cfg.Homeserver
	if diff := cmp.Diff(show(&want), show(cfg)); diff != "" || cfg.Homeserver.String() != "https://matrix.example.org" {
		t.Errorf("the example differs from the defaults (-want +got):\n%s", diff)
	}
}

// What is commented out in the example is right too: with every # before a key taken
// away it still gives the defaults. Keys that name files are left out.
func TestExampleWithoutCommentsIsTheDefault(t *testing.T) {
	t.Parallel()
	text := regexp.MustCompile(`(?m)^( *)#([a-z"])`).ReplaceAllString(string(Example()), "$1$2")
	text = regexp.MustCompile(`(?m)^ *[a-z_]+_file: ""\n`).ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, `    require_cross_signing: true`, "    require_cross_signing: false")
	text = strings.ReplaceAll(text, `    notices: on`, "    notices: off")
	cfg := mustLoad(t, text, nil)
	want := Default()
	want.Homeserver = cfg.Homeserver
	if diff := cmp.Diff(show(&want), show(cfg)); diff != "" {
		t.Errorf("the example without its comments differs from the defaults (-want +got):\n%s", diff)
	}
	if len(cfg.Accounts) != 1 || cfg.CrossSigningRequired("@bot:example.org") || !cfg.NoticesHidden("@bot:example.org") {
		t.Errorf("accounts of the example: %v", cfg.Accounts)
	}
}

func TestMarkdown(t *testing.T) {
	t.Parallel()
	const path = "../docs/configuration.md"
	if *update {
		if err := os.WriteFile(path, Markdown(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Markdown()) {
		t.Errorf("%s is not what the doc comments say; run: go test ./config -run Markdown -update", path)
	}
}

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"lissten", "listen", 1}, {"levl", "level", 1}, {"abc", "cba", 2}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// Every flag says what it takes, in words that tell more than that it is text.
func TestEveryFlagSaysWhatItTakes(t *testing.T) {
	t.Parallel()
	var flags Flags
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	flags.Register(fs)
	n := 0
	fs.VisitAll(func(f *flag.Flag) {
		n++
		v, ok := f.Value.(*flagValue)
		if !ok || v.Kind() == "" || v.Kind() == "TEXT" {
			t.Errorf("--%s says that it takes %v; give its field in settings.go the tag kind", f.Name, f.Value)
			return
		}
		if words := wordsOf(v.setting.typ); len(words) > 0 && v.Kind() != strings.Join(words, "|") {
			t.Errorf("--%s says that it takes %s, not %v", f.Name, v.Kind(), words)
		}
		if !strings.HasPrefix(v.Default(), "default") && v.Default() != "required" {
			t.Errorf("--%s does not say what holds without it: %s", f.Name, v.Default())
		}
	})
	if n < 30 {
		t.Errorf("only %d flags", n)
	}
}
