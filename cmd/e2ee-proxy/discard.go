package main

import (
	"context"
	"errors"
	"flag"

	"e2ee-proxy/internal/audit"
)

// discardSessions makes sure that no sending key is used again that was in use before a
// restore which the store cannot recognise: a snapshot of a whole machine or file system.
func discardSessions(p *process, c command, args []string) (err error) {
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
	ctx := context.Background()
	db, err := openExisting(ctx, cfg, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.AppendAudit(ctx, &audit.Record{Kind: audit.KindDiscarded}); err != nil {
		return storeFailure(err)
	}
	if err := db.DiscardOutboundState(ctx); err != nil {
		return storeFailure(err)
	}
	return p.print("the sending keys are discarded; the next messages use new ones\n")
}
