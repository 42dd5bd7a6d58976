package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/rediscache"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// newRedis makes the cache that replicas share; nil without a Redis. It does not connect yet.
func newRedis(cfg *config.Config, log zerolog.Logger, db *store.DB, registry *prometheus.Registry) (*rediscache.Cache, error) {
	metrics, err := rediscache.NewMetrics(registry)
	if err != nil || !cfg.Redis.On() {
		return nil, err
	}
	address, err := cfg.Redis.Address()
	if err != nil {
		return nil, &failure{exitConfig, fmt.Errorf("redis: %w", err), "check redis.url and the files that the settings of redis name"}
	}
	cache, err := rediscache.New(rediscache.Options{
		Address: address, Timeout: cfg.Redis.Timeout, Hash: db.Hash, Homeserver: cfg.Homeserver.String(),
		Log: log.With().Str("of", "redis").Logger(), Metrics: metrics,
	})
	if err != nil {
		return nil, &failure{exitConfig, fmt.Errorf("redis: %w", err), "check redis.url"}
	}
	return cache, nil
}

const (
	// answersKind is about what the homeserver answered about a user.
	answersKind rediscache.Kind = "devices"
	// answersLife is how long such an answer may be left in Redis.
	answersLife = 2 * time.Minute
)

// sharedAnswers returns what the homeserver answered about users, for all accounts of all
// replicas that use a Redis; nil without one, when each process has its own.
func sharedAnswers(cache *rediscache.Cache) *trustcache.Answers {
	if cache == nil {
		return nil
	}
	answers := trustcache.NewAnswers(trustcache.AnswersOptions{Board: cache.Rounds(answersKind, answersLife)})
	cache.Listen(answersKind, rediscache.Listener{Said: answers.Heard})
	return answers
}

// checkRedis finds out whether Redis will do what it is asked for. One that cannot be reached may
// be back later; one that refuses is a mistake in the settings.
func (g *gateway) checkRedis(ctx context.Context) error {
	err := g.redis.Check(ctx)
	if refusal, ok := errors.AsType[*rediscache.RefusalError](err); ok {
		return &failure{exitConfig, fmt.Errorf("redis: %w", refusal), refusal.Hint}
	}
	if err != nil {
		g.log.Warn().Err(err).Msg("Redis cannot be used yet: going on without it until it can")
	}
	return nil
}
