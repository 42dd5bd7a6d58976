package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// newRegistry makes the registry of all metrics, with those of the process itself.
func newRegistry() (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	b := build()
	info := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "e2ee_proxy_build_info", Help: "Always 1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": b.version, "goversion": b.goVersion},
	}, func() float64 { return 1 })
	for _, c := range []prometheus.Collector{info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return r, nil
}

// serveOps answers operators until ctx is done.
func serveOps(ctx context.Context, ln net.Listener, h http.Handler) error {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }() // ends with Close below
	select {
	case err := <-served:
		return fmt.Errorf("serve the ops listener: %w", err)
	case <-ctx.Done():
	}
	err := server.Close()
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	if err != nil {
		return fmt.Errorf("close the ops listener: %w", err)
	}
	return nil
}
