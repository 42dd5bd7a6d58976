package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	switch {
	case len(args) >= 2 && args[0] == "compose":
		return compose(args[1], args[2:], out)
	case len(args) == 1 && args[0] == "promql":
		return promql(in, out)
	}
	return errors.New("usage: deploy compose FILE [PROFILE…], or: deploy promql <EXPRESSIONS")
}

// compose prints a Compose file as it is understood. Variables come from the environment.
func compose(file string, profiles []string, out io.Writer) error {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithOsEnv, cli.WithProfiles(profiles),
		cli.WithWorkingDirectory(filepath.Dir(file)), cli.WithName("e2ee-proxy"), cli.WithResolvedPaths(true))
	if err != nil {
		return fmt.Errorf("make options: %w", err)
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return fmt.Errorf("load %s: %w", file, err)
	}
	text, err := project.MarshalJSON()
	if err != nil {
		return fmt.Errorf("write the project: %w", err)
	}
	_, err = out.Write(text)
	return err
}

// selector is a metric that an expression reads.
type selector struct {
	Metric   string    `json:"metric"`
	Matchers []matcher `json:"matchers"`
}

// matcher is a label by whose value a metric is selected.
type matcher struct {
	Label string `json:"label"`
	Type  string `json:"type"` // =, !=, =~ or !~
	Value string `json:"value"`
}

// selection is what one expression reads and by which labels it groups.
type selection struct {
	Expression string     `json:"expression"`
	Selectors  []selector `json:"selectors"`
	Grouping   []string   `json:"grouping"`
}

// promql prints the selectors of each line.
func promql(in io.Reader, out io.Writer) error {
	lines, encoder := bufio.NewScanner(in), json.NewEncoder(out)
	for lines.Scan() {
		expression, err := parser.ParseExpr(lines.Text())
		if err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		s := selection{Expression: lines.Text()}
		parser.Inspect(expression, func(n parser.Node, _ []parser.Node) error {
			switch n := n.(type) {
			case *parser.VectorSelector:
				one := selector{Metric: n.Name}
				for _, m := range n.LabelMatchers {
					if m.Name == labels.MetricName {
						one.Metric = m.Value
					} else {
						one.Matchers = append(one.Matchers, matcher{m.Name, m.Type.String(), m.Value})
					}
				}
				s.Selectors = append(s.Selectors, one)
			case *parser.AggregateExpr:
				s.Grouping = append(s.Grouping, n.Grouping...)
			}
			return nil
		})
		if err := encoder.Encode(s); err != nil {
			return fmt.Errorf("write what is selected: %w", err)
		}
	}
	return lines.Err()
}
