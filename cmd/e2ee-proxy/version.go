package main

import (
	"flag"
	"runtime/debug"
)

// version prints the build information.
func version(p *process, c command, args []string) error {
	if done, err := p.parse(c, flag.NewFlagSet(c.name, flag.ContinueOnError), args); done || err != nil {
		return err
	}
	b := build()
	text := "e2ee-proxy " + b.version
	if b.revision != "" {
		text += " " + b.revision
	}
	return p.print(text + " " + b.goVersion + "\n")
}

type buildInfo struct{ version, revision, goVersion string }

// build reads the build information that the Go linker puts into every binary.
func build() buildInfo {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return buildInfo{version: "unknown"}
	}
	b := buildInfo{version: info.Main.Version, goVersion: info.GoVersion}
	if b.version == "" {
		b.version = "(devel)"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.revision = s.Value
		}
	}
	return b
}
