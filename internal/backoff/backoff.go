package backoff

import (
	"time"

	exponential "github.com/cenkalti/backoff/v5"
)

const (
	// jitter is the largest deviation of a pause from its middle, as a fraction. With a middle
	// of 7/8 of the full pause, pauses are between 3/4 of it and the whole.
	jitter = 1.0 / 7
	// maxFailures is how many failures in a row make a difference.
	maxFailures = 40
)

// Range is the shortest and the longest pause.
type Range struct{ First, Last time.Duration }

// After returns the pause after so many failures in a row, the first of them being 1.
func (r Range) After(failures int) time.Duration {
	grows := exponential.ExponentialBackOff{
		InitialInterval: r.First / 8 * 7, MaxInterval: r.Last / 8 * 7, Multiplier: 2, RandomizationFactor: jitter,
	}
	grows.Reset()
	pause := grows.NextBackOff()
	for range min(failures, maxFailures) - 1 {
		pause = grows.NextBackOff()
	}
	return min(pause, r.Last)
}

// Pauses counts failures in a row. The zero value has seen none.
type Pauses struct{ failures int }

// Next counts a failure and returns the pause after it.
func (p *Pauses) Next(r Range) time.Duration {
	p.failures = min(p.failures+1, maxFailures)
	return r.After(p.failures)
}

// Reset resets the count after a success.
func (p *Pauses) Reset() { p.failures = 0 }

// Failing reports whether the last try failed.
func (p *Pauses) Failing() bool { return p.failures > 0 }

// AtLeast returns a pause no shorter than a server asked for, within the range.
func (r Range) AtLeast(pause, asked time.Duration) time.Duration {
	return max(pause, min(asked, r.Last))
}
