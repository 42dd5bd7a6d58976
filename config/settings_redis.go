package config

import (
	"time"

	"e2ee-proxy/internal/rediscache"
	"e2ee-proxy/internal/secret"
)

// Redis is where replicas keep short-lived answers for each other.
type Redis struct {
	// redis://USER:PASSWORD@HOST:6379, rediss:// for TLS, unix:// for a socket;
	// redis+sentinel://HOST:26379,HOST:26379/MASTER, redis+cluster://HOST:6379,HOST:6379, and both
	// with rediss. Empty: none, which is never wrong, only slower with several replicas.
	URL secret.String `yaml:"url"`

	// File with certificates (PEM) to trust for Redis, besides the system's.
	CAFile string `yaml:"ca_file" kind:"FILE"`

	// File with a certificate (PEM) to show to Redis, if it asks for one.
	CertFile string `yaml:"cert_file" kind:"FILE"`

	// File with that certificate's private key (PEM).
	KeyFile string `yaml:"key_file" kind:"FILE"`

	// How long one call may take, and with it a request wait that needs what Redis may know. When
	// three in a row have failed, none is made until Redis answers again.
	Timeout time.Duration `yaml:"timeout"`
}

// On reports whether there is a Redis.
func (r Redis) On() bool { return !r.URL.IsZero() }

// Address returns where it is and how to log in to it, with the files that it names. The URL was
// checked when the settings were read.
func (r Redis) Address() (rediscache.Address, error) {
	a, err := rediscache.ParseAddress(r.URL.Reveal())
	if err != nil {
		return a, &valueError{err.Error(), "write it like redis://USER:PASSWORD@HOST:6379"}
	}
	return a.WithFiles(rediscache.TLSFiles{CA: r.CAFile, Cert: r.CertFile, Key: r.KeyFile})
}
