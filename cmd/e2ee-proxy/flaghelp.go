package main

import (
	"flag"
	"strings"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/terminal"
)

// selfDescribing is a flag's value with a kind and a default.
type selfDescribing interface {
	Kind() string
	Default() string
}

// describedFlag is a flag in words.
type describedFlag struct {
	name  string
	kind  string // what it takes; empty for a switch
	alone bool   // it may stand without a value
	usage string
}

// describeFlag returns what a flag takes and does.
func describeFlag(f *flag.Flag) describedFlag {
	kind, usage := flag.UnquoteUsage(f)
	if v, ok := f.Value.(selfDescribing); ok {
		kind, usage = v.Kind(), f.Usage+" ("+v.Default()+")"
	}
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return describedFlag{name: f.Name, kind: kind, alone: ok && b.IsBoolFlag(), usage: usage}
}

// written is the flag as help shows it.
func (d describedFlag) written() string {
	switch {
	case d.alone && d.kind == "": // package flag says nothing of a switch of its own
		return "--" + d.name
	case d.alone: // the name alone means true, and what follows is another argument
		return "--" + d.name + "[=" + d.kind + "]"
	}
	return "--" + d.name + " " + d.kind
}

// synopsis is how a command is called.
func (c command) synopsis() string {
	text := "e2ee-proxy " + c.name
	if c.args != "" {
		text += " " + c.args
	}
	return text + " [flags]"
}

// about is what a command does, as a sentence.
func (c command) about() string { return strings.ToUpper(c.summary[:1]) + c.summary[1:] + "." }

// flagHelp returns the output of COMMAND -h: each flag with its kind and default.
func flagHelp(t *terminal.Terminal, c command, fs *flag.FlagSet) string {
	var text strings.Builder
	text.WriteString(t.Paint(terminal.Bold, "Usage:") + " " + c.synopsis() + "\n\n" + terminal.Wrap(c.about(), 0, ""))
	first := true
	fs.VisitAll(func(f *flag.Flag) {
		if first {
			text.WriteString("\n" + t.Paint(terminal.Bold, "Flags:") + "\n")
			first = false
		}
		d := describeFlag(f)
		text.WriteString("  " + t.Paint(terminal.Good, d.written()) + "\n" + terminal.Wrap(d.usage, 8, ""))
	})
	return text.String()
}

// meantFlag returns the flag that was probably meant by an unknown one; empty when all are
// known, or none is near.
func meantFlag(fs *flag.FlagSet, args []string) string {
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	for _, arg := range args {
		name, isFlag := strings.CutPrefix(arg, "-")
		if !isFlag {
			continue
		}
		name, _, _ = strings.Cut(strings.TrimPrefix(name, "-"), "=")
		if fs.Lookup(name) == nil {
			return config.Nearest(name, names)
		}
	}
	return ""
}
