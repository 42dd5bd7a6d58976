package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"e2ee-proxy/internal/ops"
)

const (
	// healthTimeout is longer than the checks of /readyz may take.
	healthTimeout = 5 * time.Second
	// maxHealth is how much of the answer is read, in bytes.
	maxHealth = 64 << 10
)

// healthcheck asks the proxy that runs with the same configuration whether it can serve, for
// images and service managers that have nothing to ask with. It does not open the database.
func healthcheck(p *process, c command, args []string) error {
	s := settings{offline: true}
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	s.register(fs)
	if done, err := p.parse(c, fs, args); done || err != nil {
		return err
	}
	cfg, err := s.load(p)
	if err != nil {
		return err
	}
	if cfg.OpsListen == "" {
		return &failure{exitConfig, errors.New("ops_listen is empty, so there is nobody to ask"), "set ops_listen, as serve has it"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	report, err := askReady(ctx, cfg.OpsListen)
	if err != nil {
		return &failure{exitRuntime, fmt.Errorf("ask %s whether the proxy can serve: %w", cfg.OpsListen, err),
			"is it running, and does it have the same ops_listen? flags of serve are not known here: use the environment or the file for both"}
	}
	if !report.Ready {
		return errors.New("the proxy is not ready: " + describe(report))
	}
	return p.print("ready\n")
}

// askReady asks /readyz at the address of an ops listener; an address that stands for all of
// a machine's is asked on this machine.
func askReady(ctx context.Context, address string) (report ops.Report, err error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/readyz", nil)
	if err != nil {
		return report, fmt.Errorf("make a request: %w", err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return report, fmt.Errorf("get /readyz: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxHealth))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return report, fmt.Errorf("read /readyz: %w", err)
	}
	if json.Unmarshal(body, &report) != nil || report.Checks == nil ||
		report.Ready != (resp.StatusCode == http.StatusOK) {
		return ops.Report{}, fmt.Errorf("what answers there with status %d is not the proxy's ops listener", resp.StatusCode)
	}
	return report, nil
}

// describe returns what a report says is wrong.
func describe(r ops.Report) string {
	var parts []string
	if r.Draining {
		parts = append(parts, "it is about to end")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Checks)) {
		if said := r.Checks[name]; said != "ok" {
			parts = append(parts, name+": "+said)
		}
	}
	return strings.Join(parts, ", ")
}
