package core

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"e2ee-proxy/trustcache"
)

// counts are the engine's metrics about users' own accounts. No label names a user.
type counts struct {
	Uploads  prometheus.Counter
	Restores prometheus.Counter
	Refusals prometheus.Counter
	changes  *prometheus.CounterVec
	Secrets  *prometheus.CounterVec
	Forwards *prometheus.CounterVec
	Reuses   prometheus.Counter
	Bundles  *prometheus.CounterVec
	policyCounts
}

// NewCounts makes the metrics and registers them; a nil reg registers none.
func NewCounts(reg prometheus.Registerer) (*counts, error) {
	c := &counts{
		Uploads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "e2ee_proxy_backup_uploaded_keys_total", Help: "Room keys uploaded to key backups.",
		}),
		Restores: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "e2ee_proxy_backup_restored_keys_total", Help: "Room keys restored from key backups.",
		}),
		Refusals: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "e2ee_proxy_backup_refused_keys_total", Help: "Room keys in key backups that could not be read or contradict what is known.",
		}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_identity_changes_total",
			Help: "Digital identities that were reset: others' that wait for their user, others' accepted automatically, or the account's own.",
		}, []string{"whose"}),
		Secrets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_shared_secrets_total",
			Help: "Secrets of accounts shared with, or by, other devices of the same user: received, refused or sent.",
		}, []string{"result"}),
		Forwards: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_forwarded_keys_total",
			Help: "Room keys given by, or to, other devices of the same user on request: received, refused, sent or not sent.",
		}, []string{"result"}),
		Reuses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "e2ee_proxy_reused_transactions_total",
			Help: "Events that clients sent with the transaction ID of another event, and that were sent as events of their own.",
		}),
		Bundles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "e2ee_proxy_history_bundles_total",
			Help: "Keys of a room's history given to somebody who was invited, or given by an inviter: sent, not sent, taken or refused.",
		}, []string{"result"}),
		policyCounts: newPolicyCounts(),
	}
	if reg == nil {
		return c, nil
	}
	for _, one := range []prometheus.Collector{c.Uploads, c.Restores, c.Refusals, c.changes, c.Secrets, c.Forwards, c.Reuses, c.Bundles, c.Sends, c.Shares, c.Events, c.NativeDevices, c.NativeMessages} {
		if err := reg.Register(one); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return c, nil
}

// Identity counts a change of a pinned identity.
func (c *counts) Identity(ev *trustcache.Event) {
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

// policyCounts count decisions by direction and outcome.
type policyCounts struct {
	Sends, Shares, Events, NativeDevices, NativeMessages *prometheus.CounterVec
}

func newPolicyCounts() policyCounts {
	vec := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"outcome"})
	}
	return policyCounts{
		Sends: vec("e2ee_proxy_policy_sends_total",
			"Encrypted sends that were allowed, blocked by somebody's identity change, or would be if policy.send were enforced."),
		Shares: vec("e2ee_proxy_policy_shares_total",
			"Devices that a room key was shared with or withheld from, or from which it would be withheld if policy.send were enforced."),
		Events: vec("e2ee_proxy_policy_received_events_total",
			"Received events that were shown or withheld, or would be withheld if policy.receive were enforced."),
		NativeDevices: vec("e2ee_proxy_policy_native_devices_total",
			"Devices in answers to clients with keys of their own that were shown or withheld, or would be withheld if policy.native were enforced."),
		NativeMessages: vec("e2ee_proxy_policy_native_messages_total",
			"Encrypted messages from clients with keys of their own to devices: allowed, withheld or blocked, or what would be if policy.native were enforced."),
	}
}
