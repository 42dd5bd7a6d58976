package main

import (
	"flag"
	"slices"
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
	// setting is true for a setting of the configuration.
	setting bool
}

// describeFlag returns what a flag takes and does.
func describeFlag(f *flag.Flag) describedFlag {
	kind, usage := flag.UnquoteUsage(f)
	if v, ok := f.Value.(selfDescribing); ok {
		kind, usage = v.Kind(), f.Usage+" ("+v.Default()+")"
	}
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return describedFlag{name: f.Name, kind: kind, alone: ok && b.IsBoolFlag(), usage: usage, setting: config.IsSetting(f.Value)}
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

// manySettings is more than any command takes of its own choice.
const manySettings = 20

// shown returns the flags that help shows of a command's, in what order, and whether it says of the
// settings only that there are all of them: they would bury the others.
func (c command) shown(flags []describedFlag) (all []describedFlag, settingsToo bool) {
	isSetting := func(d describedFlag) bool { return d.setting }
	settings := slices.DeleteFunc(slices.Clone(flags), func(d describedFlag) bool { return !d.setting })
	if len(settings) < manySettings || c.name == "serve" || c.name == "config check" {
		return flags, false
	}
	return slices.DeleteFunc(slices.Clone(flags), isSetting), true
}

// settingsHelp is what help says of settings that it does not show.
const settingsHelp = "Every setting is a flag too: e2ee-proxy serve -h"

// flagHelp returns the output of COMMAND -h: each flag with its kind and default.
func flagHelp(t *terminal.Terminal, c command, fs *flag.FlagSet) string {
	var text strings.Builder
	text.WriteString(t.Paint(terminal.Bold, "Usage:") + " " + c.synopsis() + "\n\n" + terminal.Wrap(c.about(), 0, ""))
	flags, settingsToo := c.shown(describeFlags(fs))
	if len(flags) > 0 {
		text.WriteString("\n" + t.Paint(terminal.Bold, "Flags:") + "\n")
	}
	for _, d := range flags {
		text.WriteString("  " + t.Paint(terminal.Good, d.written()) + "\n" + terminal.Wrap(d.usage, 8, ""))
	}
	if settingsToo {
		text.WriteString("\n" + settingsHelp + "\n")
	}
	if len(c.examples) > 0 {
		text.WriteString("\n" + t.Paint(terminal.Bold, "Examples:") + "\n")
	}
	for _, example := range c.examples {
		text.WriteString("  " + c.call(example) + "\n")
	}
	return text.String()
}

// describeFlags returns all flags of a set in words.
func describeFlags(fs *flag.FlagSet) (all []describedFlag) {
	fs.VisitAll(func(f *flag.Flag) { all = append(all, describeFlag(f)) })
	return all
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
