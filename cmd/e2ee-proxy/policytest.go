package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"e2ee-proxy/internal/rules"
)

// policyTest asks the rules of the configuration the questions of a file, and prints what they
// answer. It changes nothing and talks to nobody.
func policyTest(p *process, c command, args []string) error {
	s := settings{offline: true}
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	s.register(fs)
	rest, done, err := p.parseArgs(c, fs, args)
	if done || err != nil {
		return err
	}
	file := rest[0]
	cfg, err := s.load(p)
	if err != nil {
		return err
	}
	set, err := rulesOf(cfg)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file) //nolint:gosec // the user names it
	if err != nil {
		return fmt.Errorf("read the examples: %w", err)
	}
	results, problems := rules.RunExamples(set, text)
	if len(problems) > 0 {
		lines := []string{fmt.Sprintf("examples: %d problem(s)", len(problems))}
		for _, bad := range problems {
			lines = append(lines, "  "+file+": "+bad.String())
		}
		return &failure{exitConfig, errors.New(strings.Join(lines, "\n")), "examples are explained in docs/policy.md"}
	}
	return p.printResults(results)
}

// printResults prints what was answered. It is an error if an answer is not the one expected.
func (p *process) printResults(results []rules.Result) error {
	var text strings.Builder
	wrong := 0
	for i := range results {
		text.WriteString(results[i].String() + "\n")
		if !results[i].Right() {
			wrong++
		}
	}
	if err := p.print(text.String()); err != nil {
		return err
	}
	if wrong > 0 {
		return &failure{exitRuntime, fmt.Errorf("%d of %d examples are answered otherwise", wrong, len(results)),
			"change the rules, or what the examples expect"}
	}
	return nil
}
