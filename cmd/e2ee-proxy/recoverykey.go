package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// recoveryKey prints the recovery key that a bootstrap made for an account. It reads the
// database beside a running proxy, and changes nothing.
func recoveryKey(p *process, c command, args []string) (err error) {
	s := settings{offline: true}
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	user := fs.String("user", "", "`USER` ID of the account, such as @bot:example.org (required)")
	s.register(fs)
	if done, err := p.parse(c, fs, args); done || err != nil {
		return err
	}
	if _, _, err := id.UserID(*user).Parse(); err != nil {
		return usageErrorOf(c, "--user needs a user ID such as @bot:example.org", "")
	}
	cfg, err := s.load(p)
	if err != nil {
		return err
	}
	ctx := context.Background()
	db, err := openExisting(ctx, cfg, true)
	if err != nil {
		return err
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
