package backoff_test

import (
	"testing"
	"time"

	"e2ee-proxy/internal/backoff"
)

// Pauses double up to the last, differ, and are never longer than they would be without
// chance, nor shorter than three quarters of that.
func TestPauses(t *testing.T) {
	t.Parallel()
	r := backoff.Range{First: time.Second, Last: time.Minute}
	for i, whole := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		whole *= time.Second
		different := make(map[time.Duration]bool)
		for range 100 {
			got := r.After(i + 1)
			different[got] = true
			if got > whole || got < whole*3/4-time.Microsecond {
				t.Errorf("after %d failures %s, not between 3/4 of %s and that", i+1, got, whole)
			}
		}
		if len(different) < 50 {
			t.Errorf("after %d failures there are %d different pauses in 100", i+1, len(different))
		}
	}
	if got := r.After(1 << 30); got > r.Last || got < r.Last/2 {
		t.Errorf("after very many failures %s", got)
	}
	if got := r.After(0); got > r.First {
		t.Errorf("after no failure %s", got)
	}
}

// A success begins anew.
func TestPausesAreReset(t *testing.T) {
	t.Parallel()
	r := backoff.Range{First: time.Second, Last: time.Minute}
	var p backoff.Pauses
	for range 5 {
		p.Next(r)
	}
	if !p.Failing() || p.Next(r) < 20*time.Second {
		t.Error("failures in a row are not counted")
	}
	p.Reset()
	if p.Failing() || p.Next(r) > time.Second {
		t.Error("a success is not noted")
	}
}

// What a server asks for is heeded, but not for ever.
func TestAskedFor(t *testing.T) {
	t.Parallel()
	r := backoff.Range{First: time.Second, Last: time.Minute}
	for asked, want := range map[time.Duration]time.Duration{0: 5, 3: 5, 30: 30, 3600: 60} {
		if got := r.AtLeast(5*time.Second, asked*time.Second); got != want*time.Second {
			t.Errorf("asked for %d s: %s", asked, got)
		}
	}
}
