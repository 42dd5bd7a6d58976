package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// row is a line of the table, as it is printed.
type row struct {
	what, reference, measured, compared, budget, holds string
	// before is the older build's figure, and toBefore this one's divided by it. Both are empty
	// in all rows where there is no older build.
	before, toBefore string
	value            float64
}

// compareWith adds what an older build did to the rows.
func compareWith(then *results, rows []row, all []budget) {
	for i, b := range all {
		rows[i].before = "not measured"
		if measured, _, ok := b.figures(then); ok {
			rows[i].before = show(measured, b.unit)
			rows[i].toBefore = fmt.Sprintf("%.2f ×", rows[i].value/measured)
		}
	}
}

// evaluate compares the figures with the budgets. The error names what was not measured
// though there is a benchmark for it; a limit that does not hold is no error.
func evaluate(r *results, all []budget) ([]row, error) {
	var rows []row
	var missing []string
	for _, b := range all {
		measured, reference, ok := b.figures(r)
		if !ok && b.measured.bench != "" && b.note == "" {
			missing = append(missing, b.what)
		}
		rows = append(rows, b.row(measured, reference, ok))
	}
	if len(missing) > 0 {
		return rows, fmt.Errorf("not measured: %s", strings.Join(missing, "; "))
	}
	return rows, nil
}

// figures returns what was measured, and its reference if it has one.
func (b *budget) figures(r *results) (measured, reference float64, ok bool) {
	measured, ok = r.median(b.measured.bench, b.measured.unit)
	if b.reference.bench != "" {
		var also bool
		reference, also = r.median(b.reference.bench, b.reference.unit)
		ok = ok && also
	}
	both, also := r.median(b.both.bench, b.both.unit)
	if b.both.bench != "" && !also {
		ok = false
	}
	return measured*b.measured.times - both*b.both.times, reference*b.reference.times - both*b.both.times, ok
}

func (b *budget) row(measured, reference float64, ok bool) row {
	out := row{what: b.what, reference: b.elsewhere, budget: b.text}
	if !ok {
		out.measured, out.holds = "not measured: "+b.note, "?"
		return out
	}
	out.measured, out.value = show(measured, b.unit), measured
	ratio := measured / reference
	if b.reference.bench != "" {
		out.reference = show(reference, b.unit)
		out.compared = fmt.Sprintf("%.2f ×", ratio)
	}
	holds := false
	switch b.compare {
	case atMost:
		holds = measured <= b.limit
	case atLeast:
		holds = measured >= b.limit
	case ratioAtMost:
		holds = ratio <= b.limit
	case ratioAtLeast:
		holds = ratio >= b.limit
	case excessAtMost:
		out.compared = fmt.Sprintf("%+.3g %s", measured-reference, b.unit)
		holds = measured-reference <= b.limit
	}
	switch {
	case b.text == "":
		out.budget = b.note
	case holds:
		out.holds = "yes"
	default:
		out.holds = "no"
	}
	return out
}

// show writes a figure with three digits.
func show(v float64, unit string) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	digits := 2 - int(math.Floor(math.Log10(max(v, 0.01))))
	return fmt.Sprintf("%.*f %s", max(0, digits), v, unit)
}

// render writes the rows as a Markdown table.
func render(rows []row) string {
	lines := [][]string{{"what", "reference, measured now", "measured", "ratio or difference", "budget", "holds"}}
	older := slices.ContainsFunc(rows, func(r row) bool { return r.before != "" })
	if older {
		lines[0] = append(lines[0], "before", "now ÷ before")
	}
	for _, r := range rows {
		line := []string{r.what, r.reference, r.measured, r.compared, r.budget, r.holds}
		if older {
			line = append(line, r.before, r.toBefore)
		}
		lines = append(lines, line)
	}
	return layOut(lines)
}

// layOut writes lines of cells, the first of which is the heading, as a Markdown table.
func layOut(lines [][]string) string {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	var out strings.Builder
	write := func(cells []string, pad string) {
		for i, cell := range cells {
			out.WriteString("| " + cell + strings.Repeat(pad, widths[i]-len([]rune(cell))) + " ")
		}
		out.WriteString("|\n")
	}
	write(lines[0], " ")
	write(make([]string, len(widths)), "-")
	for _, line := range lines[1:] {
		write(line, " ")
	}
	return out.String()
}
