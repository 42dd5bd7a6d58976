package config

import (
	"fmt"
	"strings"
)

// Problem is one mistake in the configuration.
type Problem struct {
	// Where is the place: "proxy.yaml:12:3", "E2EE_PROXY_LISTEN", "--listen"; empty when
	// something is missing everywhere.
	Where string
	// Setting is the name in the file, such as "log.level"; empty when it is not one.
	Setting string
	// What is wrong. Never contains a secret.
	What string
	// Do is what to do about it.
	Do string
}

func (p Problem) String() string {
	var b strings.Builder
	for _, part := range []string{p.Where, p.Setting} {
		if part != "" {
			b.WriteString(part + ": ")
		}
	}
	b.WriteString(p.What)
	if p.Do != "" {
		b.WriteString("; " + p.Do)
	}
	return b.String()
}

// Error holds every mistake in the configuration, in the order of the sources.
type Error struct{ Problems []Problem }

// Error lists all problems, one per line.
func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Problems)+1)
	lines = append(lines, fmt.Sprintf("configuration: %d problem(s)", len(e.Problems)))
	for _, p := range e.Problems {
		lines = append(lines, "  "+p.String())
	}
	return strings.Join(lines, "\n")
}
