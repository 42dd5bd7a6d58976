package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
)

// processes are those that run benchmarks which have a row in the table: of which package, which
// ones, and which of them not. What measures memory has a process of its own, because one that
// others have used before gives back what they left.
var processes = []process{
	{"./proxy", "^(BenchmarkPassThrough|BenchmarkNginx|BenchmarkForwarded)$", ""},
	{"./interceptors", "^BenchmarkSync$", ""},
	{"./trustcache", "^BenchmarkDecision$", ""},
	{"./test/bench", "^BenchmarkIdleDevice$", ""},
	{"./test/bench", "^BenchmarkUsedDevice$", ""},
	{"./test/bench", "^BenchmarkScaling$", ""},
	{"./test/bench", ".", "^Benchmark((Idle|Used)Device|Scaling)$"},
}

type process struct{ path, bench, skip string }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	count := flags.Int("count", 5, "how often each benchmark runs; the table has the medians")
	write := flags.String("write", "", "a Markdown `file` whose table is replaced")
	from := flags.String("from", "", "a `file` with the benchmarks' output, instead of running them")
	old := flags.String("old", "", "a `revision`, or a folder with its sources, that is measured in turn with this one")
	oldFrom := flags.String("old-from", "", "a `file` with the output of the older benchmarks, instead of running them")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var output, before string
	var err error
	if *old != "" {
		before, output, err = measureBoth(ctx, *old, *count, progress)
	} else if output, err = measure(ctx, *from, *count, progress); err == nil && *oldFrom != "" {
		before, err = measure(ctx, *oldFrom, 0, progress)
	}
	if err != nil {
		return err
	}
	results, err := parse(strings.NewReader(output))
	if err != nil {
		return err
	}
	rows, missing := evaluate(results, budgets())
	if before != "" {
		then, err := parse(strings.NewReader(before))
		if err != nil {
			return err
		}
		compareWith(then, rows, budgets())
	}
	growth, unscaled := evaluateScaling(results)
	table := machine(results) + "\n" + render(rows) + "\nScaling: what the processors spend on the same work once, ten and a hundred times over.\n\n" + growth
	if _, err := io.WriteString(out, table); err != nil {
		return err
	}
	if *write != "" {
		if err := replaceTable(*write, table); err != nil {
			return err
		}
	}
	return errors.Join(missing, unscaled)
}

// measure runs the benchmarks and returns what they print, or reads it.
func measure(ctx context.Context, from string, count int, progress io.Writer) (string, error) {
	if from != "" {
		raw, err := os.ReadFile(from)
		return string(raw), err
	}
	var all strings.Builder
	for _, p := range processes {
		if err := p.run(ctx, ".", count, &all, progress); err != nil {
			return "", err
		}
	}
	return all.String(), nil
}

// run runs the benchmarks in a tree of sources.
func (p process) run(ctx context.Context, dir string, count int, out, progress io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", p.bench, "-skip", p.skip, "-count", strconv.Itoa(count), "-timeout", "60m", p.path)
	cmd.Dir = dir
	cmd.Stdout = io.MultiWriter(out, progress)
	cmd.Stderr = progress
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("benchmarks of %s: %w", p.path, err)
	}
	return nil
}

const (
	tableBegins = "<!-- measured: written by make bench-docs -->\n"
	tableEnds   = "<!-- end -->\n"
)

var errNoPlace = errors.New("the file has no place for the table")

// replaceTable puts the table between the marks of a file.
func replaceTable(file, table string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(raw), tableBegins)
	_, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		return fmt.Errorf("%s: %w", file, errNoPlace)
	}
	return os.WriteFile(file, []byte(before+tableBegins+"\n"+table+"\n"+tableEnds+after), 0o644)
}
