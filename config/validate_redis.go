package config

import (
	"time"

	"e2ee-proxy/internal/rediscache"
)

// maxRedisTimeout is the longest time that a request may wait for Redis: the homeserver answers
// sooner.
const maxRedisTimeout = 5 * time.Second

// redis checks where replicas keep answers for each other.
func (l *loader) redis(c *Config, offline bool) {
	r := &c.Redis
	files := [][2]string{{"redis.ca_file", r.CAFile}, {"redis.cert_file", r.CertFile}, {"redis.key_file", r.KeyFile}}
	if (r.Timeout <= 0 || r.Timeout > maxRedisTimeout) && !l.reported("redis.timeout") {
		l.problemAt("redis.timeout", "must be more than 0s and at most 5s", "remove it to get the default")
	}
	usesTLS := false
	if r.On() && !l.reported("redis.url") {
		a, err := rediscache.ParseAddress(r.URL.Reveal())
		if err != nil {
			l.problemAt("redis.url", err.Error(), "docs/gateway.md has an example for each way that Redis runs")
			return
		}
		usesTLS = a.TLS != nil
	}
	for _, file := range files {
		if file[1] != "" && !usesTLS {
			l.problemAt(file[0], "has no effect without TLS", "write rediss:// instead of redis:// in redis.url, or remove it")
			offline = true
		}
	}
	if (r.CertFile == "") != (r.KeyFile == "") {
		l.problemAt("redis.cert_file", "and redis.key_file belong together", "set both, or remove both")
		return
	}
	if offline {
		return
	}
	if r.CAFile != "" {
		l.certificates("redis.ca_file", r.CAFile)
	}
	if r.CertFile != "" {
		l.keyPair("redis.cert_file", r.CertFile, "redis.key_file", r.KeyFile)
	}
}
