package main

import (
	"slices"
	"testing"
	"time"
)

// meter collects what single operations took, so that what lies between them does not count.
type meter struct {
	took []time.Duration
	cpu  time.Duration
}

func (m *meter) measure(op func()) {
	used, began := cpuTime(), time.Now()
	op()
	m.took = append(m.took, time.Since(began))
	m.cpu += cpuTime() - used
}

// p50 returns the median, in microseconds.
func (m *meter) p50() float64 {
	sorted := slices.Sorted(slices.Values(m.took))
	return float64(sorted[len(sorted)/2].Nanoseconds()) / 1e3
}

// perUnit returns the processor time of one of the units that an operation has, in
// microseconds.
func (m *meter) perUnit(units int) float64 {
	return float64(m.cpu.Nanoseconds()) / 1e3 / float64(len(m.took)*units)
}

// plain takes away what the testing package prints and nothing reads.
func plain(b *testing.B) { b.ReportMetric(0, "ns/op") }
