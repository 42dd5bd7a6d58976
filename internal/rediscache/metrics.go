package rediscache

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Results of calls and of entries, as the metrics name them.
const (
	resultOK        = "ok"
	resultFailed    = "failed"
	resultSkipped   = "skipped"
	resultCancelled = "cancelled"

	entryHit     = "hit"
	entryMiss    = "miss"
	entryStale   = "stale"
	entryRefused = "refused"
)

// Metrics counts what a cache does. One without a cache counts nothing.
type Metrics struct {
	calls, entries                 *prometheus.CounterVec
	interruptions, refusedMessages prometheus.Counter
	answers, listening             prometheus.Gauge
}

// NewMetrics makes metrics and registers them, unless registry is nil.
func NewMetrics(registry prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_redis_calls_total",
			Help: "Calls to Redis by what for (get, put, claim, place, generations, raise, drop, publish, beat) and result (ok, failed, skipped: it did not answer before, cancelled).",
		}, []string{"call", "result"}),
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_redis_entries_total",
			Help: "Entries looked up in Redis by kind and result (hit, miss, stale: too old, dropped or from before this process listened, refused: not sealed by this cluster for this place).",
		}, []string{"kind", "result"}),
		interruptions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "e2ee_proxy_redis_interruptions_total",
			Help: "Times that what other replicas say over Redis could no longer be heard.",
		}),
		refusedMessages: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "e2ee_proxy_redis_refused_messages_total",
			Help: "Messages over Redis that no replica of this cluster had sealed.",
		}),
		answers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "e2ee_proxy_redis_answers",
			Help: "1 while Redis answers.",
		}),
		listening: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "e2ee_proxy_redis_listening",
			Help: "1 while what other replicas say over Redis is heard. Nothing in Redis is used while it is 0.",
		}),
	}
	if registry == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.calls, m.entries, m.interruptions, m.refusedMessages, m.answers, m.listening} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *Metrics) call(call, result string) { m.calls.WithLabelValues(call, result).Inc() }

func (m *Metrics) entry(kind Kind, result string) {
	m.entries.WithLabelValues(string(kind), result).Inc()
}

func (m *Metrics) up(answers bool) {
	if answers {
		m.answers.Set(1)
		return
	}
	m.answers.Set(0)
}
