package e2ee

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"e2ee-proxy/trustcache"
)

// counts are the engine's metrics about users' own accounts. No label names a user.
type counts struct {
	uploads  prometheus.Counter
	restores prometheus.Counter
	refusals prometheus.Counter
	changes  *prometheus.CounterVec
	secrets  *prometheus.CounterVec
	forwards *prometheus.CounterVec
	policyCounts
}

func newCounts(reg prometheus.Registerer) (*counts, error) {
	c := &counts{
		uploads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "e2ee_proxy_backup_uploaded_keys_total", Help: "Room keys uploaded to key backups.",
		}),
		restores: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "e2ee_proxy_backup_restored_keys_total", Help: "Room keys restored from key backups.",
		}),
		refusals: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "e2ee_proxy_backup_refused_keys_total", Help: "Room keys in key backups that could not be read or contradict what is known.",
		}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_identity_changes_total",
			Help: "Digital identities that were reset: others' that wait for their user, others' accepted automatically, or the account's own.",
		}, []string{"whose"}),
		secrets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_shared_secrets_total",
			Help: "Secrets of accounts shared with, or by, other devices of the same user: received, refused or sent.",
		}, []string{"result"}),
		forwards: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_forwarded_keys_total",
			Help: "Room keys given by, or to, other devices of the same user on request: received, refused, sent or not sent.",
		}, []string{"result"}),
		policyCounts: newPolicyCounts(),
	}
	if reg == nil {
		return c, nil
	}
	for _, one := range []prometheus.Collector{c.uploads, c.restores, c.refusals, c.changes, c.secrets, c.forwards, c.sends, c.shares, c.events} {
		if err := reg.Register(one); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return c, nil
}

// identity counts a change of a pinned identity.
func (c *counts) identity(ev *trustcache.Event) {
	switch {
	case ev.Effect == trustcache.EffectAcknowledgedByPolicy:
		c.changes.WithLabelValues("others_accepted").Inc()
	case ev.Effect != trustcache.EffectChanged || ev.State.Accepted():
	case ev.Own:
		c.changes.WithLabelValues("own").Inc()
	default:
		c.changes.WithLabelValues("others").Inc()
	}
}
