package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/certificate"
)

// certificateEvery is how often the files of the certificate are looked at.
const certificateEvery = 10 * time.Second

// loadCertificate reads the certificate for clients, and adds its end to the metrics; nil
// when there is none.
func loadCertificate(c config.TLS, registry prometheus.Registerer) (*certificate.Pair, error) {
	if !c.On() {
		return nil, nil
	}
	pair, err := certificate.Load(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, &failure{exitConfig, fmt.Errorf("tls.cert_file: %w", err), "name a certificate and its private key, both in PEM form"}
	}
	end := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "e2ee_proxy_tls_certificate_not_after_seconds", Help: "When the certificate for clients expires, in Unix time.",
	}, func() float64 { return float64(pair.NotAfter().Unix()) })
	if err := registry.Register(end); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return pair, nil
}

// watchCertificate takes over what becomes of the certificate's files until ctx is done.
func watchCertificate(ctx context.Context, pair *certificate.Pair, log zerolog.Logger) error {
	if pair == nil {
		return nil
	}
	sayCertificate(pair, log, nil)
	pair.Watch(ctx, certificateEvery, func(err error) { sayCertificate(pair, log, err) })
	return nil
}

// sayCertificate logs which certificate is in use, and whether that is not the one in the
// files.
func sayCertificate(pair *certificate.Pair, log zerolog.Logger, err error) {
	end := pair.NotAfter()
	switch {
	case err != nil:
		log.Error().Err(err).Time("not_after", end).Msg("the certificate's files are wrong: the one that was in use before stays in use")
	case time.Now().After(end):
		log.Warn().Time("not_after", end).Msg("the certificate in use has expired")
	default:
		log.Info().Time("not_after", end).Msg("a certificate is in use")
	}
}
