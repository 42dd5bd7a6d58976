package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// manPages writes the manual's pages, one for each command and one for all, into a folder.
func manPages(p *process, c command, args []string) error {
	rest, done, err := p.parseArgs(c, flag.NewFlagSet(c.name, flag.ContinueOnError), args)
	if done || err != nil {
		return err
	}
	pages := manual()
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		if err := os.WriteFile(filepath.Join(rest[0], name), []byte(pages[name]), 0o644); err != nil { //nolint:gosec // everybody may read the manual
			return fmt.Errorf("write the manual: %w", err)
		}
	}
	return p.print(fmt.Sprintf("%d pages are in %s; read one with: man %s\n", len(pages), rest[0], filepath.Join(rest[0], "e2ee-proxy.1")))
}

// manual returns every page by the name of its file.
func manual() map[string]string {
	pages := map[string]string{"e2ee-proxy.1": mainPage()}
	for _, c := range commands() {
		if !c.hidden() {
			pages[c.page()+".1"] = commandPage(c)
		}
	}
	return pages
}

// page is the name of a command's page.
func (c command) page() string { return "e2ee-proxy-" + strings.ReplaceAll(c.name, " ", "-") }

func mainPage() string {
	var b strings.Builder
	b.WriteString(heading("e2ee-proxy", "end-to-end encryption for Matrix clients that cannot"))
	b.WriteString(".SH SYNOPSIS\n.B e2ee-proxy\n.I COMMAND\n[\\fIflags\\fR]\n.SH DESCRIPTION\n" +
		"A Matrix client points its homeserver URL at the proxy, which holds the keys of its device, encrypts what it\nsends and decrypts what it gets.\n.SH COMMANDS\n")
	for _, c := range commands() {
		if !c.hidden() {
			b.WriteString(".TP\n.BR " + roff(c.page()) + " (1)\n" + roff(c.about()) + "\n")
		}
	}
	b.WriteString(".SH EXIT STATUS\n")
	for _, e := range exitCodes() {
		fmt.Fprintf(&b, ".TP\n.B %d\n%s\n", e.code, roff(e.meaning))
	}
	var calls []string
	for _, c := range commands() {
		if c.name == "serve" || c.name == "doctor" {
			calls = append(calls, c.call(c.examples[0]))
		}
	}
	return b.String() + examplesSection(calls)
}

func commandPage(c command) string {
	var b strings.Builder
	b.WriteString(heading(c.page(), c.summary))
	b.WriteString(".SH SYNOPSIS\n.B e2ee-proxy " + roff(c.name) + "\n")
	if c.args != "" {
		b.WriteString(".I " + roff(c.args) + "\n")
	}
	flags, settingsToo := c.shown(flagsOf(c))
	if len(flags) > 0 || settingsToo {
		b.WriteString("[\\fIflags\\fR]\n")
	}
	if len(flags) > 0 {
		b.WriteString(".SH OPTIONS\n")
	}
	for _, d := range flags {
		b.WriteString(".TP\n\\fB" + roff(d.written()) + "\\fR\n" + roff(d.usage) + "\n")
	}
	if settingsToo {
		b.WriteString(".PP\nEvery setting is a flag too; see\n.BR e2ee\\-proxy\\-serve (1).\n")
	}
	var calls []string
	for _, example := range c.examples {
		calls = append(calls, c.call(example))
	}
	b.WriteString(examplesSection(calls))
	b.WriteString(".SH SEE ALSO\n.BR e2ee\\-proxy (1)\n")
	return b.String()
}

// examplesSection shows calls as they are typed.
func examplesSection(calls []string) string {
	if len(calls) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(".SH EXAMPLES\n.PP\n.nf\n.RS\n")
	for _, call := range calls {
		b.WriteString(roff(call) + "\n")
	}
	b.WriteString(".RE\n.fi\n")
	return b.String()
}

func heading(page, summary string) string {
	return fmt.Sprintf(".TH %s 1 \"\" \"e2ee-proxy %s\"\n.nh\n.ad l\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(page)), roff(build().version), roff(page), roff(summary))
}

// roff escapes a text for a page of the manual.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...", "\n", " ").Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		return `\&` + text
	}
	return text
}
