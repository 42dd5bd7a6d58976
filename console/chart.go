package console

import (
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// rolloutData is what a policy that is tried out would have done, as a small chart.
type rolloutData struct {
	Policy *e2ee.PolicyStatus
	Bars   []bar
	// Blocked are rooms in which sending would have waited for a person.
	Blocked []e2ee.RoomWouldHave
}

// bar is one bar of a chart. Sizes are in the chart's own units, of which it is 100 wide.
type bar struct {
	Label string
	N     int
	Width float64
}

const chartWide = 100

// barsOf makes the bars of a chart: the largest is as wide as the chart.
func barsOf(labels []string, counts []int) (bars []bar) {
	most := 1
	for _, n := range counts {
		most = max(most, n)
	}
	for i, n := range counts {
		bars = append(bars, bar{labels[i], n, float64(n) * chartWide / float64(most)})
	}
	return bars
}

func rolloutOf(p *e2ee.PolicyStatus) rolloutData {
	data := rolloutData{Policy: p}
	if p == nil || p.Would == nil {
		return data
	}
	blocked := make(map[id.UserID]bool)
	withoutKey, heldBack := 0, 0
	for _, r := range p.Would.Rooms {
		withoutKey += r.WithoutKey
		heldBack += r.Messages
		for _, u := range r.BlockedBy {
			blocked[u] = true
		}
		if len(r.BlockedBy) > 0 {
			data.Blocked = append(data.Blocked, r)
		}
	}
	for _, u := range p.Would.NativeBlockedBy {
		blocked[u] = true
	}
	data.Bars = barsOf(
		[]string{"Devices that would not get your messages", "Messages that you would not be shown", "Devices that your other clients would not be shown", "People whose new identity you would have to accept"},
		[]int{withoutKey, heldBack, p.Would.Hidden, len(blocked)})
	return data
}
