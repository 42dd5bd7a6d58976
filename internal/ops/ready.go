package ops

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// probeTimeout bounds one probe.
	probeTimeout = 3 * time.Second
	// reuse is how long a result is used again, so that frequent requests cost the database
	// and the homeserver nothing.
	reuse = time.Second
)

// Probe is one thing that the proxy needs in order to serve.
type Probe struct {
	// Name appears in the answer of /readyz.
	Name string
	// Run returns an error when the thing does not work.
	Run func(context.Context) error
	// OnlyFirst reports whether readiness waits for the first success only, and later failures
	// are shown but do not count. It is for what all replicas share: taking all of them out of
	// service because the homeserver is down would turn its clear errors into refused
	// connections.
	OnlyFirst bool
}

// Report is the answer of /readyz.
type Report struct {
	Ready bool `json:"ready"`
	// Draining reports whether the process is about to end.
	Draining bool `json:"draining,omitempty"`
	// Checks is "ok" or "failing" for each probe, or the word of a [WordedError].
	Checks map[string]string `json:"checks"`
}

// WordedError is an error of a probe that is shown as a word of its own instead of
// "failing". The word is the program's own: nothing from the network may be in it.
type WordedError struct {
	Word string
	Err  error
}

// Error implements error.
func (f *WordedError) Error() string { return f.Err.Error() }

// Unwrap returns the cause.
func (f *WordedError) Unwrap() error { return f.Err }

// word returns the word for an error of a probe.
func word(err error) string {
	var failure *WordedError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &failure):
		return failure.Word
	}
	return "failing"
}

// Readiness finds out whether the proxy can serve. Create it with [NewReadiness].
type Readiness struct {
	failed func(probe string, err error)
	probes []*probeState

	mu       sync.Mutex
	draining bool
}

type probeState struct {
	Probe
	mu        sync.Mutex
	at        time.Time
	word      string
	succeeded bool // at least once
}

// NewReadiness makes a Readiness. failed is called for every failed probe with its error,
// which the answer does not show.
func NewReadiness(failed func(probe string, err error), probes ...Probe) *Readiness {
	r := &Readiness{failed: failed}
	for _, p := range probes {
		r.probes = append(r.probes, &probeState{Probe: p})
	}
	return r
}

// Drain makes the proxy not ready, for good.
func (r *Readiness) Drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
}

func (r *Readiness) isDraining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// Check runs the probes side by side, unless their last result is recent.
func (r *Readiness) Check(ctx context.Context) Report {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	type result struct {
		word   string
		counts bool
	}
	results := make([]result, len(r.probes))
	var wait sync.WaitGroup
	for i, p := range r.probes {
		wait.Go(func() {
			said, before := p.recent()
			if !before {
				said = r.probe(ctx, p)
			}
			results[i] = result{word: said, counts: !p.ignored()}
		})
	}
	wait.Wait()

	report := Report{Draining: r.isDraining(), Checks: make(map[string]string, len(r.probes))}
	report.Ready = !report.Draining
	for i, p := range r.probes {
		report.Ready = report.Ready && (results[i].word == word(nil) || !results[i].counts)
		report.Checks[p.Name] = results[i].word
	}
	return report
}

// probe runs a probe with no lock held, and keeps the result unless the caller has gone away.
func (r *Readiness) probe(ctx context.Context, p *probeState) string {
	err := p.Run(ctx)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return word(err)
	}
	if err != nil {
		r.failed(p.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.word = time.Now(), word(err)
	p.succeeded = p.succeeded || err == nil
	return p.word
}

func (p *probeState) recent() (said string, is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.word, !p.at.IsZero() && time.Since(p.at) < reuse
}

// ignored reports whether a failure does not count.
func (p *probeState) ignored() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.OnlyFirst && p.succeeded
}

// Describe implements prometheus.Collector.
func (r *Readiness) Describe(to chan<- *prometheus.Desc) {
	to <- readyMetric()
	to <- checkMetric()
}

// Collect implements prometheus.Collector: the same as /readyz, for alerts.
func (r *Readiness) Collect(to chan<- prometheus.Metric) {
	report := r.Check(context.Background())
	to <- prometheus.MustNewConstMetric(readyMetric(), prometheus.GaugeValue, number(report.Ready))
	for name, said := range report.Checks {
		to <- prometheus.MustNewConstMetric(checkMetric(), prometheus.GaugeValue, number(said == word(nil)), name)
	}
}

func readyMetric() *prometheus.Desc {
	return prometheus.NewDesc("e2ee_proxy_ready", "Whether the proxy can serve, as /readyz says: 1 or 0.", nil, nil)
}

func checkMetric() *prometheus.Desc {
	return prometheus.NewDesc("e2ee_proxy_check_ok", "Whether a check of /readyz succeeds: 1 or 0.", []string{"check"}, nil)
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
