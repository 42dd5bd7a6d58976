package main

import (
	"flag"
	"fmt"
	"strings"

	"e2ee-proxy/config"
)

// selfDescribing is a flag's value with a kind and a default.
type selfDescribing interface {
	Kind() string
	Default() string
}

// flagHelp returns the output of COMMAND -h: each flag with its kind and default.
func flagHelp(c command, fs *flag.FlagSet) string {
	var text strings.Builder
	fmt.Fprintf(&text, "Usage: e2ee-proxy %s [flags]\n\n%s.\n", c.name, strings.ToUpper(c.summary[:1])+c.summary[1:])
	first := true
	fs.VisitAll(func(f *flag.Flag) {
		if first {
			fmt.Fprintln(&text, "\nFlags:")
			first = false
		}
		kind, usage := flag.UnquoteUsage(f)
		if v, ok := f.Value.(selfDescribing); ok {
			kind, usage = v.Kind(), f.Usage+" ("+v.Default()+")"
		}
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			kind = "[=" + kind + "]" // the name alone means true, and what follows is another argument
		} else {
			kind = " " + kind
		}
		fmt.Fprintf(&text, "  --%s%s\n        %s\n", f.Name, kind, usage)
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
