package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/store"
)

// policyOff is the version of a policy under which no log is written.
const policyOff = "off"

// policyVersion returns the version of the settings that decide.
func policyVersion(cfg *config.Config) string {
	if !cfg.Audit.Enabled {
		return policyOff
	}
	return audit.Version(cfg.PolicyText())
}

// policyVersionOf returns a function that returns the version of the policy in force now.
func policyVersionOf(inForce *atomic.Pointer[config.Config]) func() string {
	type versioned struct {
		of      *config.Config
		version string
	}
	last := new(atomic.Pointer[versioned])
	return func() string {
		cfg := inForce.Load()
		if v := last.Load(); v != nil && v.of == cfg {
			return v.version
		}
		v := &versioned{cfg, policyVersion(cfg)}
		last.Store(v)
		return v.version
	}
}

// beginAudit writes that the proxy was started, and the policy if it is another one than the
// last. A log that cannot be written keeps the proxy from starting.
func beginAudit(ctx context.Context, cfg *config.Config, db *store.DB) error {
	note := "version " + build().version
	if why := db.Restored(); why != "" {
		note += "; the database was restored from a backup: " + why
	}
	if err := db.AppendAudit(ctx, &audit.Record{Kind: audit.KindStart, Note: note}); err != nil {
		return storeFailure(err)
	}
	return auditPolicy(ctx, cfg, db)
}

// auditPolicy writes the policy if it is another one than the last.
func auditPolicy(ctx context.Context, cfg *config.Config, db *store.DB) error {
	text := cfg.PolicyText()
	if !cfg.Audit.Enabled {
		text = "the audit log is switched off: nothing is written any more"
	}
	if err := db.AuditPolicy(ctx, &audit.Record{Kind: audit.KindPolicy, Policy: policyVersion(cfg), Note: text}); err != nil {
		return storeFailure(err)
	}
	return nil
}

// endAudit writes that the proxy was stopped. A start without it is one after a crash.
func endAudit(ctx context.Context, db *store.DB, log zerolog.Logger) {
	if err := db.AppendAudit(ctx, &audit.Record{Kind: audit.KindStop}); err != nil {
		log.Warn().Err(err).Msg("the audit log was not told that the proxy stopped")
		return
	}
	logCheckpoint(ctx, db, log)
}

// logCheckpoint logs a checkpoint, so that who collects the log keeps one elsewhere.
func logCheckpoint(ctx context.Context, db *store.DB, log zerolog.Logger) {
	if !db.Audits() {
		return
	}
	text, err := db.AuditLog().Checkpoint(ctx)
	if err != nil {
		log.Error().Err(err).Msg("there is no checkpoint of the audit log: e2ee-proxy audit verify says what is wrong with it")
		return
	}
	log.Info().Str("checkpoint", text).Msg("the audit log, for whoever keeps what is logged")
}

// truncateAudit removes the records that are older than they are kept.
func truncateAudit(ctx context.Context, db *store.DB, keep time.Duration, now time.Time) (int64, error) {
	if keep == 0 || !db.Audits() {
		return 0, nil
	}
	return db.TruncateAudit(ctx, now.Add(-keep))
}
