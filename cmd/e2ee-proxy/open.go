package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// Below the data directory: the generated key, and the file by which an older PostgreSQL
// database is recognised.
const (
	masterKeyFile = "master.key"
	markFile      = "postgresql-mark"
)

// storeFailure marks an error as one of the master key, the database or the data directory.
func storeFailure(err error) error { return &failure{code: exitStore, err: err} }

// databaseURL returns where the database is; SQLite below the data directory by default.
func databaseURL(cfg *config.Config) secret.String {
	if cfg.Database.URL.IsZero() {
		return secret.NewString("sqlite:" + filepath.Join(cfg.Data, "e2ee-proxy.db"))
	}
	return cfg.Database.URL
}

// openStore opens the database, which it creates if there is none, and rewraps account keys
// under the current master key. lost hears of accounts that other replicas have taken;
// nil takes the database for this process alone.
func openStore(ctx context.Context, cfg *config.Config, log zerolog.Logger, lost *lostAccounts) (*store.DB, error) {
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return nil, &failure{exitStore, fmt.Errorf("create the data directory: %w", err), "name another directory with --data, or make this one writable"}
	}
	url := databaseURL(cfg)
	exists, err := store.Exists(ctx, url)
	if err != nil {
		return nil, storeFailure(err)
	}
	keys, err := masterKeys(cfg, !exists, log)
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, store.Options{
		URL: url, MasterKeys: keys, MarkFile: filepath.Join(cfg.Data, markFile), Audit: cfg.Audit.Enabled, Cluster: clusterOf(cfg, lost),
		Waiting: func(why error) {
			log.Warn().Err(why).Msg("waiting: it may have ended without giving the database back, which is known in some seconds")
		},
	})
	if err != nil {
		return nil, storeFailure(err)
	}
	if why := db.Restored(); why != "" {
		log.Warn().Str("why", why).Msg("the database was restored from a backup: outbound sessions are discarded, the next messages use new keys")
	}
	if len(keys.Old) > 0 {
		n, err := db.RotateMasterKey(ctx)
		if err != nil {
			return nil, storeFailure(errors.Join(err, db.Close()))
		}
		log.Info().Int("accounts", n).Str("master_key", keys.Current.ID()).Msg("accounts are sealed under the current master key")
	}
	return db, nil
}

// openExisting opens the database for a command that needs an existing one, and makes
// neither a database nor a key.
func openExisting(ctx context.Context, cfg *config.Config, readOnly bool) (*store.DB, error) {
	url := databaseURL(cfg)
	exists, err := store.Exists(ctx, url)
	if err != nil {
		return nil, storeFailure(err)
	}
	if !exists {
		return nil, &failure{exitStore, errors.New("there is no database"), "point --data or --database-url-file at that of the running proxy"}
	}
	keys, err := masterKeys(cfg, false, zerolog.Nop())
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, store.Options{URL: url, MasterKeys: keys, MarkFile: filepath.Join(cfg.Data, markFile), ReadOnly: readOnly, Audit: cfg.Audit.Enabled})
	if err != nil {
		return nil, storeFailure(err)
	}
	return db, nil
}

// masterKeys returns the configured key, or the one in the data directory, which is
// generated only beside a new database.
func masterKeys(cfg *config.Config, newDatabase bool, log zerolog.Logger) (keys store.MasterKeys, err error) {
	if cfg.MasterKey.Key.IsZero() {
		path := filepath.Join(cfg.Data, masterKeyFile)
		_, missing := os.Stat(path)
		if keys.Current, err = store.LoadOrCreateMasterKey(path, newDatabase); err != nil {
			return keys, storeFailure(err)
		}
		if missing != nil {
			log.Info().Str("file", path).Msg("generated a master key: back it up, the database is worthless without it")
		}
	} else if keys.Current, err = store.NewMasterKey(cfg.MasterKey.Key.Bytes); err != nil {
		return keys, storeFailure(err)
	}
	for _, p := range cfg.MasterKey.Previous {
		old, err := store.NewMasterKey(p.Key.Bytes)
		if err != nil {
			return keys, storeFailure(err)
		}
		keys.Old = append(keys.Old, old)
	}
	return keys, nil
}
