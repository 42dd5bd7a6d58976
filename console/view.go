package console

import (
	"fmt"
	"html/template"
	"io/fs"
	"net/url"
	"path"
	"strings"
	"time"

	"e2ee-proxy/console/internal/gate"
)

// view is what the templates are given.
type view struct {
	Template, Title string
	// Place is the entry of the menu that is shown as the present one.
	Place string
	User  string
	Admin bool
	Held  []Held
	// Acting is the device for which the person acts.
	Acting    string
	FormToken string
	// Done says what was done just now.
	Done string
	// Live pages are looked at again when something happens; Again is how many seconds a browser
	// without script waits before that, 0 if it does not.
	Live  bool
	Again int
	// InClear warns that what is typed in can be read on its way.
	InClear bool
	Data    any
}

// view begins a page.
func (q *query) view(name, title string) *view {
	v := &view{
		Template: name, Title: title, Place: name, Held: q.held, Acting: string(q.acting),
		FormToken: q.c.gate.FormToken(q.Writer, q.Request, q.session), Admin: q.isAdmin(),
		Done: done(q.Request.URL.Query().Get("done")),
	}
	if q.session.Known() {
		v.User = string(q.session.UserID)
	}
	origin := q.c.gate.Origin(q.Request)
	v.InClear = origin.Scheme != "https" && !gate.IsHere(origin.Host)
	return v
}

// show answers with a page.
func (q *query) show(name, place, title string, data any) error {
	v := q.view(name, title)
	v.Place, v.Data = place, data
	return q.write(200, v)
}

// load reads the templates and the files beside them.
func (c *Console) load() error {
	c.templates, c.static = make(map[string]*template.Template), make(map[string][]byte)
	base, err := template.New("layout").Funcs(functions()).ParseFS(assets, "templates/layout.html")
	if err != nil {
		return err
	}
	names, err := fs.Glob(assets, "templates/*.html")
	if err != nil {
		return err
	}
	for _, file := range names {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "layout" {
			continue
		}
		one, err := base.Clone()
		if err == nil {
			one, err = one.ParseFS(assets, file)
		}
		if err != nil {
			return err
		}
		c.templates[name] = one
	}
	for _, name := range []string{"style.css", "live.js"} {
		if c.static[name], err = assets.ReadFile("static/" + name); err != nil {
			return err
		}
	}
	return nil
}

func functions() template.FuncMap {
	return template.FuncMap{
		"path":  pathOf,
		"group": group,
		"when":  when,
		"state": stateWords,
		"many":  many,
		"entry": func(v *view, place, path, text string) entry { return entry{path, text, v.Place == place} },
		"deref": func(b *bool) bool { return *b },
		"at":    func(t *time.Time) time.Time { return *t },

		"ownState": ownState, "warningName": warningName,
	}
}

// pathOf joins parts of a path below the console's. What does not begin with a slash is a name,
// which is escaped.
func pathOf(parts ...string) string {
	var b strings.Builder
	b.WriteString(gate.Path)
	for i, p := range parts {
		if i > 0 && !strings.HasPrefix(p, "/") {
			p = url.PathEscape(p)
		}
		b.WriteString(p)
	}
	return b.String()
}

// entry is an entry of the menu.
type entry struct {
	Path, Text string
	Here       bool
}

// ownState says how the digital identity of an account stands, as seen by itself.
func ownState(state string) string {
	if state == "none" {
		return "none"
	}
	return "set up"
}

// warningName says in a few words what a warning is about; its whole text is for its account only.
func warningName(code string) string {
	switch code {
	case "identity_changed":
		return "Identity was reset"
	case "verification_lost":
		return "Verified identity was reset"
	case "own_identity_changed":
		return "Own identity was reset"
	case "device_not_signed":
		return "Device not confirmed"
	case "backup_broken":
		return "History not saved"
	case "secret_storage_missing":
		return "No recovery"
	case "verification_requested":
		return "Somebody wants to verify"
	}
	return code
}

// group writes a key in groups of four, as people compare them.
func group(key string) string {
	var b strings.Builder
	for i, c := range key {
		if i > 0 && i%4 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(c)
	}
	return b.String()
}

// when writes a time, which is always of the same zone: the server does not know the person's.
func when(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") }

// many writes a number of things.
func many(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// file answers with one of the files beside the templates.
func file(name, kind string) func(q *query) error {
	return func(q *query) error {
		h := q.Writer.Header()
		h.Set("Content-Type", kind)
		h.Set("Cache-Control", "max-age=300")
		_, err := q.Writer.Write(q.c.static[name])
		return err
	}
}
