package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// results are the figures of a run by benchmark and unit, and the description of the
// machine.
type results struct {
	figures map[string]map[string][]float64
	context map[string]string
	procs   string
	count   int
}

// procs is the number of processors at the end of a benchmark's name.
var procs = regexp.MustCompile(`-(\d+)$`)

// parse reads what go test -bench prints. Names are without Benchmark, and begin with the
// last element of the package's path.
func parse(in io.Reader) (*results, error) {
	r := &results{figures: make(map[string]map[string][]float64), context: make(map[string]string)}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := lines.Text()
		if name, value, ok := strings.Cut(line, ": "); ok && slices.Contains([]string{"goos", "goarch", "pkg", "cpu"}, name) {
			r.context[name] = value
			continue
		}
		rest, ok := strings.CutPrefix(line, "Benchmark")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < 4 || len(fields)%2 != 0 {
			continue // its name alone, before something else was printed
		}
		name := fields[0]
		if m := procs.FindStringSubmatch(name); m != nil {
			r.procs = m[1]
			name = strings.TrimSuffix(name, m[0])
		}
		name = r.context["pkg"][strings.LastIndexByte(r.context["pkg"], '/')+1:] + "." + name
		for i := 2; i < len(fields); i += 2 {
			figure, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			if r.figures[name] == nil {
				r.figures[name] = make(map[string][]float64)
			}
			unit := fields[i+1]
			r.figures[name][unit] = append(r.figures[name][unit], figure)
			r.count = max(r.count, len(r.figures[name][unit]))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the benchmarks' output: %w", err)
	}
	return r, nil
}

// median returns a figure over all runs.
func (r *results) median(name, unit string) (float64, bool) {
	all := slices.SortedFunc(slices.Values(r.figures[name][unit]), cmp.Compare[float64])
	if len(all) == 0 {
		return 0, false
	}
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2, true
}

// machine returns a line about the machine that was measured.
func machine(r *results) string {
	return fmt.Sprintf("Medians of %d runs on %s, %s cores, %s/%s, %s.\n",
		r.count, cmp.Or(r.context["cpu"], "an unknown processor"), cmp.Or(r.procs, "1"), r.context["goos"], r.context["goarch"], runtime.Version())
}
