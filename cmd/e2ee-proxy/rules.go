package main

import (
	"fmt"
	"time"

	"e2ee-proxy/config"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/decisionpoint"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/proxy"
)

// rulesIn returns the organisation's rules, in force and on trial. They were checked when the
// settings were read.
func rulesIn(cfg *config.Config) (out e2ee.Ruling, err error) {
	if out.Rules, err = rulesOf(cfg); err != nil {
		return e2ee.Ruling{}, err
	}
	if out.Point, err = decisionPoint(&cfg.Policy.DecisionPoint); err != nil {
		return e2ee.Ruling{}, err
	}
	p := &cfg.Policy
	if p.TrialRules == nil && p.TrialCedarFile.IsZero() {
		return out, nil
	}
	list, policies := p.TrialRules, p.TrialCedarFile
	if list == nil { // what is not tried anew stays as it is
		list = p.Rules
	}
	if policies.IsZero() {
		policies = p.CedarFile
	}
	if out.Tried, err = compiled(list, p.Groups, policies); err != nil {
		return e2ee.Ruling{}, err
	}
	return out, nil
}

// rulesOf returns the rules in force.
func rulesOf(cfg *config.Config) (*rules.Set, error) {
	return compiled(cfg.Policy.Rules, cfg.Policy.Groups, cfg.Policy.CedarFile)
}

func compiled(list []rules.Rule, groups []rules.Group, policies config.Document) (*rules.Set, error) {
	set, problems := rules.Compile(list, groups)
	if len(problems) == 0 && !policies.IsZero() {
		set, problems = set.WithCedar(policies.Path(), policies.Text(), groups)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("the organisation's rules: %s", problems[0])
	}
	return set, nil
}

// pointIdle is how long a connection to the decision point may stand still while it is written to.
const pointIdle = time.Minute

// decisionPoint returns the organisation's decision point; nil when there is none.
func decisionPoint(d *config.DecisionPoint) (*e2ee.PointSettings, error) {
	if d.URL.IsZero() {
		return nil, nil
	}
	transport, err := proxy.NewTransport(d.CAFile, d.Timeout, d.Timeout, pointIdle)
	if err != nil {
		return nil, &failure{exitConfig, fmt.Errorf("policy.decision_point.ca_file: %w", err), "name a file with certificates in PEM form, or remove the setting"}
	}
	return &e2ee.PointSettings{
		Asker: decisionpoint.New(d.URL.URL(), transport, d.Token, d.Timeout), Cache: d.Cache, AllowOnError: d.OnError == config.OnErrorAllow,
	}, nil
}
