package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recorded is the output of a run of the benchmarks of two counts, on a machine without nginx.
const recorded = "testdata/output.txt"

func table(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, &out, io.Discard)
	return out.String(), err
}

// What the benchmarks print becomes one table.
func TestTable(t *testing.T) {
	t.Parallel()
	got, err := table(t, "-from", recorded)
	if err != nil {
		t.Fatal(err)
	}
	_, got, _ = strings.Cut(got, "\n\n") // the machine is tested below: it names the toolchain
	want, err := os.ReadFile("testdata/table.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

var ignoreValue = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".value" }, cmp.Ignore())

// With an older build every row has its ratio to it, but what that one could not measure.
func TestTableBesideAnOlderBuild(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(recorded)
	if err != nil {
		t.Fatal(err)
	}
	before := filepath.Join(t.TempDir(), "before.txt")
	shorter := strings.ReplaceAll(string(raw), "BenchmarkSearch", "BenchmarkOther")
	if err := os.WriteFile(before, []byte(shorter), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := table(t, "-from", recorded, "-old-from", before)
	if err != nil {
		t.Fatal(err)
	}
	same, none := 0, 0
	for line := range strings.Lines(got) {
		same += strings.Count(line, "| 1.00 × ")
		none += strings.Count(line, "| not measured |")
	}
	if same < len(budgets())-5 || none == 0 || !strings.Contains(got, "now ÷ before") {
		t.Errorf("%d rows are as before, %d were not measured:\n%s", same, none, got)
	}
}

// Every row has its benchmarks, or says why it has none.
func TestRowsHaveBenchmarks(t *testing.T) {
	t.Parallel()
	results := parseFile(t, recorded)
	for _, b := range budgets() {
		if _, _, ok := b.figures(results); !ok && b.note == "" {
			t.Errorf("nothing is measured for %q", b.what)
		}
	}
}

func parseFile(t *testing.T, name string) *results {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := parse(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const output = `goos: linux
goarch: amd64
pkg: e2ee-proxy/some
cpu: A processor
BenchmarkThing/reference=bare-8   	 10	 2.0 p50-ms
BenchmarkThing/ours-8             	 10	 3.0 p50-ms	 7 B/op
BenchmarkThing/ours-8             	 10	 9.0 p50-ms
BenchmarkThing/ours-8             	 10	 4.0 p50-ms
PASS
`

// A budget that does not hold is a "no" in the table and no error; a figure that is
// missing is one.
func TestEvaluate(t *testing.T) {
	t.Parallel()
	r, err := parse(strings.NewReader(output))
	if err != nil {
		t.Fatal(err)
	}
	ours, bare := figure{"some.Thing/ours", "p50-ms", 1}, figure{"some.Thing/reference=bare", "p50-ms", 1}
	for _, tc := range []struct {
		name string
		b    budget
		want row
	}{
		{"holds", budget{measured: ours, reference: bare, unit: "ms", compare: ratioAtMost, limit: 2, text: "x"}, row{reference: "2.00 ms", measured: "4.00 ms", compared: "2.00 ×", budget: "x", holds: "yes"}},
		{"at least", budget{measured: ours, reference: bare, unit: "ms", compare: ratioAtLeast, limit: 2, text: "x"}, row{reference: "2.00 ms", measured: "4.00 ms", compared: "2.00 ×", budget: "x", holds: "yes"}},
		{"not at least", budget{measured: ours, reference: bare, unit: "ms", compare: ratioAtLeast, limit: 2.1, text: "x"}, row{reference: "2.00 ms", measured: "4.00 ms", compared: "2.00 ×", budget: "x", holds: "no"}},
		{"does not", budget{measured: ours, reference: bare, unit: "ms", compare: ratioAtMost, limit: 1.9, text: "x"}, row{reference: "2.00 ms", measured: "4.00 ms", compared: "2.00 ×", budget: "x", holds: "no"}},
		{"difference", budget{measured: ours, reference: bare, unit: "ms", compare: excessAtMost, limit: 2, text: "x"}, row{reference: "2.00 ms", measured: "4.00 ms", compared: "+2 ms", budget: "x", holds: "yes"}},
		{"too much of a difference", budget{measured: ours, reference: bare, unit: "ms", compare: excessAtMost, limit: 1, text: "x"}, row{reference: "2.00 ms", measured: "4.00 ms", compared: "+2 ms", budget: "x", holds: "no"}},
		{"too little", budget{measured: ours, unit: "ms", compare: atLeast, limit: 5, text: "x"}, row{measured: "4.00 ms", budget: "x", holds: "no"}},
		{"too much", budget{measured: ours, unit: "ms", compare: atMost, limit: 3, text: "x"}, row{measured: "4.00 ms", budget: "x", holds: "no"}},
		{"without what both have", budget{measured: ours, reference: bare, both: figure{"some.Thing/reference=bare", "p50-ms", 0.5}, unit: "ms", compare: ratioAtMost, limit: 3, text: "x"}, row{reference: "1.00 ms", measured: "3.00 ms", compared: "3.00 ×", budget: "x", holds: "yes"}},
		{"no budget", budget{measured: ours, unit: "ms", note: "so"}, row{measured: "4.00 ms", budget: "so"}},
		{"not there, and why", budget{measured: figure{"some.Other", "p50-ms", 1}, note: "no such program"}, row{measured: "not measured: no such program", holds: "?"}},
	} {
		rows, err := evaluate(r, []budget{tc.b})
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if diff := cmp.Diff([]row{tc.want}, rows, cmp.AllowUnexported(row{}), ignoreValue); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tc.name, diff)
		}
	}
	if _, err := evaluate(r, []budget{{what: "gone", measured: figure{"some.Other", "p50-ms", 1}}}); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("a missing figure gives %v", err)
	}
	if got := machine(r); !strings.HasPrefix(got, "Medians of 3 runs on A processor, 8 cores, linux/amd64, go") {
		t.Errorf("machine: %q", got)
	}
}

// The table takes the place of the one before, and of nothing else.
func TestReplaceTable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "performance.md")
	if err := os.WriteFile(file, []byte("before\n"+tableBegins+"old\n"+tableEnds+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := table(t, "-from", recorded, "-write", file)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if want := "before\n" + tableBegins + "\n" + got + "\n" + tableEnds + "after\n"; string(raw) != want {
			t.Errorf("got\n%s", raw)
		}
	}
	if _, err := table(t, "-from", recorded, "-write", "testdata/table.md"); err == nil {
		t.Error("a file without a place for the table was taken")
	}
}
