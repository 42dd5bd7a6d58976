package cluster

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what a Node counts. A process alone has them too, and they stay zero.
type Metrics struct {
	forwarded *prometheus.CounterVec
	refused   prometheus.Counter
	replicas  prometheus.Gauge
	accounts  prometheus.Gauge
}

// What became of a request or a call that was sent to another replica.
const (
	resultAnswered  = "answered"  // it answered
	resultMoved     = "moved"     // it says that the account is another's
	resultUnreached = "unreached" // there was no connection
	resultBroken    = "broken"    // it ended in the middle
	resultRefused   = "refused"   // it does not belong to the cluster, or says that we do not
	resultLeft      = "left"      // nobody waits any more
)

// NewMetrics makes the metrics and registers them; reg may be nil.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		forwarded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_cluster_forwarded_total",
			Help: "Requests and calls sent to the replica that owns the account, by what became of them.",
		}, []string{"result"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "e2ee_proxy_cluster_refused_total",
			Help: "Requests to the cluster's listener that did not show that they come from a replica.",
		}),
		replicas: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "e2ee_proxy_cluster_replicas",
			Help: "Replicas that live, as this one sees it, itself among them; 0 for a process alone.",
		}),
		accounts: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "e2ee_proxy_cluster_accounts",
			Help: "Accounts that this replica owns; 0 for a process alone.",
		}),
	}
	for _, result := range []string{resultAnswered, resultMoved, resultUnreached, resultBroken, resultRefused, resultLeft} {
		m.forwarded.WithLabelValues(result)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.forwarded, m.refused, m.replicas, m.accounts} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}
