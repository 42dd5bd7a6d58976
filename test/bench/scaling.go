package main

import (
	"fmt"
	"math"
	"strings"
)

// maxExponent is how steeply what something costs may grow with the work: 1 is in proportion.
const maxExponent = 1.05

// scaling is work that was done once, ten times and a hundred times over.
type scaling struct {
	what, bench string
	sizes       [3]string
	heap        bool // whether its growth was measured
}

func scalings() []scaling {
	return []scaling{
		{"encrypted events in a sync", "events-of-a-sync", [3]string{"50", "500", "5,000"}, false},
		{"devices that are given a room key, without Olm sessions (people)", "devices-of-a-key-share", [3]string{"120 (50)", "1,200 (500)", "12,000 (5,000)"}, true},
		{"rooms in a first sync (its size)", "rooms-of-an-account", [3]string{"20 (1.5 MB)", "200 (15 MB)", "2,000 (150 MB)"}, true},
		{"accounts of a process that are visited once", "accounts-of-a-process", [3]string{"100", "1,000", "10,000"}, false},
	}
}

// evaluateScaling returns the table of all, and an error that names those that were not measured.
// The exponent is that of the last step, in which what costs the same for any size weighs least.
func evaluateScaling(r *results) (string, error) {
	lines := [][]string{{"what", "once", "ten times", "a hundred times", "exponent", "budget", "holds", "heap then"}}
	var missing []string
	for _, s := range scalings() {
		line := []string{s.what}
		var cpu [3]float64
		measured := true
		for i, times := range []string{"/x1", "/x10", "/x100"} {
			var ok bool
			cpu[i], ok = r.median("bench.Scaling/"+s.bench+times, "cpu-ms")
			measured = measured && ok
			line = append(line, s.sizes[i]+": "+show(cpu[i], "ms"))
		}
		if !measured {
			missing = append(missing, s.what)
			continue
		}
		exponent, holds, heap := math.Log10(cpu[2]/cpu[1]), "no", ""
		if exponent <= maxExponent {
			holds = "yes"
		}
		if grown, ok := r.median("bench.Scaling/"+s.bench+"/x100", "heap-MB"); ok && s.heap {
			heap = "+" + show(grown, "MB")
		}
		lines = append(lines, append(line, fmt.Sprintf("%.2f", exponent), fmt.Sprintf("≤ %.2f", maxExponent), holds, heap))
	}
	if len(missing) > 0 {
		return layOut(lines), fmt.Errorf("not measured at all sizes: %s", strings.Join(missing, "; "))
	}
	return layOut(lines), nil
}
