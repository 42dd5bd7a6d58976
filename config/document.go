package config

import (
	_ "embed" // for the doc comments in settings.go
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"

	"e2ee-proxy/internal/rules"
)

//go:embed settings.go
var settingsSource string

//go:embed settings_policy.go
var policySource string

//go:embed settings_cluster.go
var clusterSource string

//go:embed settings_redis.go
var redisSource string

//go:embed settings_clients.go
var clientsSource string

// docComments returns the doc comments of the settings, by "Type.Field".
func docComments() map[string]string {
	docs := make(map[string]string)
	readDocComments(settingsSource, docs)
	readDocComments(policySource, docs)
	readDocComments(clusterSource, docs)
	readDocComments(redisSource, docs)
	readDocComments(clientsSource, docs)
	readDocComments(rules.Source(), docs)
	return docs
}

// readDocComments adds the doc comments of structs in a source. It is the module's own, so it
// parses; a test checks that nothing is missing.
func readDocComments(source string, docs map[string]string) {
	file, err := parser.ParseFile(token.NewFileSet(), "settings.go", source, parser.ParseComments)
	if err != nil {
		return
	}
	ast.Inspect(file, func(n ast.Node) bool {
		t, isType := n.(*ast.TypeSpec)
		if !isType {
			return true
		}
		if s, isStruct := t.Type.(*ast.StructType); isStruct {
			for _, f := range s.Fields.List {
				for _, name := range f.Names {
					docs[t.Name.Name+"."+name.Name] = strings.TrimSpace(f.Doc.Text())
				}
			}
		}
		return false
	})
}

// Example returns a commented YAML file with every setting. Only the homeserver is set; all
// others are commented out and show their defaults.
func Example() []byte {
	w := &exampleWriter{docs: docComments()}
	w.line("# Settings of e2ee-proxy. What is commented out shows the default.")
	w.line("# Every setting can also be given as an environment variable or a flag: log.level is")
	w.line("# E2EE_PROXY_LOG_LEVEL and --log-level. E2EE_PROXY_…_FILE names a file with the value;")
	w.line("# so does KEY_file here, for keys that are secret.")
	w.group(reflect.ValueOf(Default()), "")
	return []byte(w.b.String())
}

type exampleWriter struct {
	b    strings.Builder
	docs map[string]string
}

func (w *exampleWriter) line(s string) { w.b.WriteString(s + "\n") }

func (w *exampleWriter) comment(doc, indent string) {
	w.line("")
	for text := range strings.SplitSeq(doc, "\n") {
		w.line(strings.TrimRight(indent+"# "+text, " "))
	}
}

func (w *exampleWriter) group(v reflect.Value, indent string) {
	for i := range v.NumField() {
		f, key := v.Type().Field(i), v.Type().Field(i).Tag.Get("yaml")
		w.comment(w.docs[v.Type().Name()+"."+f.Name], indent)
		switch {
		case isGroup(f.Type):
			w.line(indent + key + ":")
			w.group(v.Field(i), indent+"  ")
		case f.Type.Kind() == reflect.Map:
			w.line(indent + key + ":")
			w.line(indent + `  #"@bot:example.org":`)
			w.group(reflect.New(f.Type.Elem()).Elem(), indent+"    ")
		case key == "homeserver":
			w.line(indent + key + ": https://matrix.example.org")
		default:
			w.line(indent + "#" + exampleLine(key, v.Field(i)))
		}
	}
}

// exampleLine returns a setting with its default, or with what it may look like.
func exampleLine(key string, v reflect.Value) string {
	switch text := showValue(v); {
	case isSecret(v.Type()):
		return key + `_file: ""`
	case v.Kind() == reflect.Slice:
		return key + ": []"
	case text == "" && v.Kind() == reflect.Pointer:
		return key + ": " + showValue(reflect.New(v.Type().Elem()).Elem())
	case text == "":
		return key + `: ""`
	default:
		return key + ": " + text
	}
}

// Markdown returns the reference of all settings, as kept in docs/configuration.md.
func Markdown() []byte {
	w := &exampleWriter{docs: docComments()}
	w.line(markdownHead)
	w.sections(reflect.ValueOf(Default()), "")
	return []byte(strings.TrimRight(w.b.String(), "\n") + "\n")
}

const markdownHead = `# Settings

<!-- Generated from config/settings.go: go test ./config -run Markdown -update -->

A setting has one name in three spellings: ` + "`log.level`" + ` in the YAML file (nested:
` + "`log:`" + `, below it ` + "`level:`" + `), ` + "`E2EE_PROXY_LOG_LEVEL`" + ` in the environment,
` + "`--log-level`" + ` as a flag. Flags win over the environment, the environment over the file, the
file over the defaults. The file is named by ` + "`--config`" + ` or ` + "`E2EE_PROXY_CONFIG`" + `.

- ` + "`E2EE_PROXY_…_FILE`" + ` names a file that holds the value. Keys that are secret can be given
  as ` + "`KEY_file`" + ` in YAML too, and on the command line only so.
- Lists and maps are written in YAML in a variable or a flag:
  ` + "`E2EE_PROXY_POLICY_BRIDGES='[\"@bridge:example.org\"]'`" + `.
- A key or variable that is not listed here is an error, and so is a value that makes no sense. All
  of them are reported at once. ` + "`e2ee-proxy config check`" + ` only reports, and exits with 3.
- ` + "`e2ee-proxy config example`" + ` prints a commented file with every setting.
- Durations are written like ` + "`30s`, `10m`, `1h`" + `, sizes like ` + "`512KiB`, `4MiB`" + `.
`

func (w *exampleWriter) sections(v reflect.Value, prefix string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		path, doc := prefix+f.Tag.Get("yaml"), w.docs[v.Type().Name()+"."+f.Name]
		switch {
		case isGroup(f.Type):
			w.line(fmt.Sprintf("## %s\n\n%s\n", path, doc))
			w.sections(v.Field(i), path+".")
		case f.Type.Kind() == reflect.Map:
			w.line(fmt.Sprintf("## %s\n\n%s\n", path, doc))
			w.line(w.spellings(path, v.Field(i)) + "\n")
			w.sections(reflect.New(f.Type.Elem()).Elem(), path+".USER.")
		case f.Type.Kind() == reflect.Slice && isGroup(f.Type.Elem()):
			w.line(fmt.Sprintf("### `%s`\n\n%s\n", path, doc))
			w.line(w.spellings(path, v.Field(i)) + "\n")
			w.sections(reflect.New(f.Type.Elem()).Elem(), path+"[].")
		default:
			w.line(fmt.Sprintf("### `%s`\n\n%s\n", path, doc))
			w.line(w.spellings(path, v.Field(i)) + "\n")
		}
	}
}

// spellings names the variable, the flag, the words and the default of a setting.
func (w *exampleWriter) spellings(path string, v reflect.Value) string {
	var parts []string
	if s := (setting{path: path, typ: v.Type()}); !strings.Contains(path, ".USER.") && !strings.Contains(path, "[]") {
		parts = append(parts, "`"+s.env()+"`")
		switch {
		case isSecret(s.typ):
			parts[0] += ", `--" + s.flag() + "-file`"
		case s.hasFlag():
			parts[0] += ", `--" + s.flag() + "`"
		}
	}
	if words := wordsOf(v.Type()); len(words) > 0 {
		parts = append(parts, "one of `"+strings.Join(words, "`, `")+"`")
	}
	if isSecret(v.Type()) {
		parts = append(parts, "secret")
	}
	if text := showValue(v); text != "" {
		parts = append(parts, "default `"+text+"`")
	}
	if len(parts) == 0 {
		return "Within the list or map only."
	}
	return strings.ToUpper(parts[0][:1]) + parts[0][1:] + strings.Join(append([]string{""}, parts[1:]...), "; ") + "."
}
