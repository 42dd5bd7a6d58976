package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/store"
)

// recoveryKey prints the recovery key that a bootstrap made for an account. It reads
// the database beside a running proxy, and changes nothing.
func recoveryKey(p *process, c command, args []string) (err error) {
	s := settings{offline: true}
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	user := fs.String("user", "", "`ID` of the account, such as @bot:example.org")
	s.register(fs)
	if done, err := p.parse(c, fs, args); done || err != nil {
		return err
	}
	if _, _, err := id.UserID(*user).Parse(); err != nil {
		return usageErrorOf(c, "--user needs a user ID such as @bot:example.org")
	}
	cfg, err := s.load(p)
	if err != nil {
		return err
	}
	ctx := context.Background()
	exists, err := store.Exists(ctx, databaseURL(cfg))
	if err != nil {
		return refused(err)
	}
	if !exists {
		return &failure{exitStore, errors.New("there is no database"), "point --data or --database-url-file at that of the running proxy"}
	}
	keys, err := masterKeys(cfg, false, zerolog.Nop())
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, store.Options{URL: databaseURL(cfg), MasterKeys: keys, ReadOnly: true})
	if err != nil {
		return refused(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	key, err := e2ee.RecoveryKeyOnMachine(ctx, db, id.UserID(*user))
	if errors.Is(err, e2ee.ErrUnknownUser) || errors.Is(err, e2ee.ErrNoRecoveryKey) {
		return &failure{exitRuntime, fmt.Errorf("no recovery key is kept for %s", *user),
			"the proxy keeps one only if it created the account's digital identity itself"}
	}
	if err != nil {
		return err
	}
	return p.print(key.Reveal() + "\n")
}
