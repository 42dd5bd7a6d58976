package controlroom

import (
	"testing"
	"time"
)

// A line was handed out when the first sync had it: what is said afterwards, and is handed out
// too, does not make it look newer, so that who answers too soon, and is told so, may answer then.
func TestGiven(t *testing.T) {
	t.Parallel()
	begun := time.Unix(1_800_000_000, 0)
	var g Given
	for n := range int64(3 * maxSteps) {
		g = g.With(0, 10+n, begun.Add(time.Duration(n)*time.Second))
	}
	g = g.With(0, 11, begun.Add(time.Hour))
	for seq, want := range map[int64]time.Duration{
		10 + 3*maxSteps - 1: 3*maxSteps - 1, 10 + 2*maxSteps: 2 * maxSteps, 10 + 2*maxSteps - 1: 2 * maxSteps, 1: 2 * maxSteps,
	} {
		if since, has := g.Has(seq); !has || since.Sub(begun) != want*time.Second {
			t.Errorf("line %d: %v, since %v, want %v", seq, has, since.Sub(begun), want*time.Second)
		}
	}
	for _, seq := range []int64{0, -1, 10 + 3*maxSteps} {
		if _, has := g.Has(seq); has {
			t.Errorf("line %d was not handed out", seq)
		}
	}
	late := begun.Add(2 * time.Hour)
	if since, has := (Given{}).With(5, 7, late).Has(6); !has || !since.Equal(late) {
		t.Errorf("of a page: %v, %v", has, since)
	}
	if since, _ := g.With(1, 3, late).Has(2); since.Equal(late) {
		t.Error("a page makes what a sync has handed out look newer")
	}
}

// Somebody writes again and again, and is answered each time: how long ago the question was handed
// out stays known.
func TestGivenStaysKnown(t *testing.T) {
	t.Parallel()
	var g Given
	start := time.Unix(1000, 0)
	for i := range int64(1000) {
		g = g.With(0, 10+i, start.Add(time.Duration(i)*10*time.Millisecond))
	}
	since, has := g.Has(10)
	if late := since.Sub(start); !has || late < 0 || late > 500*time.Millisecond {
		t.Errorf("%v, %v later", has, late)
	}
	if len(g.steps) > maxSteps {
		t.Errorf("%d steps", len(g.steps))
	}
}
