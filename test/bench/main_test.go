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
		{"holds", budget{measured: ours, reference: bare, unit: "ms", compare: ratioAtMost, limit: 2, text: "x"}, row{"", "2.00 ms", "4.00 ms", "2.00 ×", "x", "yes"}},
		{"at least", budget{measured: ours, reference: bare, unit: "ms", compare: ratioAtLeast, limit: 2, text: "x"}, row{"", "2.00 ms", "4.00 ms", "2.00 ×", "x", "yes"}},
		{"not at least", budget{measured: ours, reference: bare, unit: "ms", compare: ratioAtLeast, limit: 2.1, text: "x"}, row{"", "2.00 ms", "4.00 ms", "2.00 ×", "x", "no"}},
		{"does not", budget{measured: ours, reference: bare, unit: "ms", compare: ratioAtMost, limit: 1.9, text: "x"}, row{"", "2.00 ms", "4.00 ms", "2.00 ×", "x", "no"}},
		{"difference", budget{measured: ours, reference: bare, unit: "ms", compare: excessAtMost, limit: 2, text: "x"}, row{"", "2.00 ms", "4.00 ms", "+2 ms", "x", "yes"}},
		{"too much of a difference", budget{measured: ours, reference: bare, unit: "ms", compare: excessAtMost, limit: 1, text: "x"}, row{"", "2.00 ms", "4.00 ms", "+2 ms", "x", "no"}},
		{"too little", budget{measured: ours, unit: "ms", compare: atLeast, limit: 5, text: "x"}, row{"", "", "4.00 ms", "", "x", "no"}},
		{"too much", budget{measured: ours, unit: "ms", compare: atMost, limit: 3, text: "x"}, row{"", "", "4.00 ms", "", "x", "no"}},
		{"without what both have", budget{measured: ours, reference: bare, both: figure{"some.Thing/reference=bare", "p50-ms", 0.5}, unit: "ms", compare: ratioAtMost, limit: 3, text: "x"}, row{"", "1.00 ms", "3.00 ms", "3.00 ×", "x", "yes"}},
		{"no budget", budget{measured: ours, unit: "ms", note: "so"}, row{"", "", "4.00 ms", "", "so", ""}},
		{"not there, and why", budget{measured: figure{"some.Other", "p50-ms", 1}, note: "no such program"}, row{"", "", "not measured: no such program", "", "", "?"}},
	} {
		rows, err := evaluate(r, []budget{tc.b})
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if diff := cmp.Diff([]row{tc.want}, rows, cmp.AllowUnexported(row{})); diff != "" {
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
