package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"e2ee-proxy/internal/audit"
	"e2ee-proxy/store"
)

// The commands about the audit log read the database beside a running proxy, and change
// nothing.

// readAudit opens the database for a command whose other flags are registered in fs, checks
// those with check, and calls do.
func (p *process) readAudit(c command, fs *flag.FlagSet, args []string, check func() error, do func(context.Context, *store.DB) error) (err error) {
	s := settings{offline: true}
	s.register(fs)
	if done, err := p.parse(c, fs, args); done || err != nil {
		return err
	}
	if err := check(); err != nil {
		return err
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
	return do(ctx, db)
}

func noCheck() error { return nil }

// tampered is the failure of a log that is not in order.
func tampered(err error) error {
	var found *audit.TamperedError
	if !errors.As(err, &found) {
		return err
	}
	return &failure{exitRuntime, fmt.Errorf("the audit log was changed: %w", err),
		"keep the database as it is; a restored backup looks like a log that was cut, see docs/audit.md"}
}

// auditVerify checks the whole log, and that it leads on from the checkpoints in a file.
func auditVerify(p *process, c command, args []string) error {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	file := fs.String("checkpoint", "", "`FILE` with checkpoints that were kept, one after the other")
	return p.readAudit(c, fs, args, noCheck, func(ctx context.Context, db *store.DB) error {
		var kept []audit.Checkpoint
		if *file != "" {
			text, err := os.ReadFile(*file)
			if err != nil {
				return &failure{exitRuntime, fmt.Errorf("checkpoints: %w", err), "name a file that `e2ee-proxy audit checkpoint` was written into"}
			}
			if kept, err = db.AuditSigner().ReadAll(text); err != nil {
				return &failure{exitRuntime, fmt.Errorf("checkpoints in %s: %w", *file, err), "they must be of this database's log, and as they were printed"}
			}
		}
		report, err := audit.Verify(ctx, db.AuditLog(), db.AuditSigner(), kept)
		if err != nil {
			return tampered(err)
		}
		return p.print(verified(&report))
	})
}

func verified(r *audit.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d records are in order\n", r.Size)
	if r.KeptFrom > 0 {
		fmt.Fprintf(&b, "the first %d were removed on %s because of their age; their hashes are in order\n", r.KeptFrom, r.RemovedAt.Format(time.DateOnly))
	}
	for _, one := range r.Matched {
		fmt.Fprintf(&b, "the checkpoint of %d records is one of this log\n", one.Size)
	}
	if len(r.Matched) == 0 {
		b.WriteString("no checkpoint was given: a log whose end was cut off, that was emptied, or that was written anew with the master key, looks the same\n")
	}
	return b.String()
}

// auditCheckpoint prints a signed checkpoint of the log, to be kept elsewhere.
func auditCheckpoint(p *process, c command, args []string) error {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	public := fs.Bool("public-key", false, "print the key by which others check the signature instead")
	return p.readAudit(c, fs, args, noCheck, func(ctx context.Context, db *store.DB) error {
		if *public {
			return p.print(db.AuditSigner().PublicKey() + "\n")
		}
		text, err := db.AuditLog().Checkpoint(ctx)
		if err != nil {
			return tampered(err)
		}
		return p.print(text)
	})
}

// auditExport prints the log's decisions, one about one device a line.
func auditExport(p *process, c command, args []string) error {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	var f audit.Filter
	from := fs.String("from", "", "first `TIME`: 2026-11-30, or 2026-11-30T08:00:00Z")
	to := fs.String("to", "", "`TIME` from which on nothing is wanted")
	fs.StringVar(&f.User, "user", "", "`USER` ID, of the account or of who was given a key")
	fs.StringVar(&f.Room, "room", "", "`ROOM` ID")
	format := fs.String("format", "jsonl", "`FORMAT`: jsonl (JSON, one object a line) or csv")
	check := func() error {
		var err error
		if f.From, err = auditTime(*from); err != nil {
			return usageErrorOf(c, "--from "+err.Error(), "")
		}
		if f.To, err = auditTime(*to); err != nil {
			return usageErrorOf(c, "--to "+err.Error(), "")
		}
		if _, err := audit.NewLineWriter(*format, io.Discard); err != nil {
			return usageErrorOf(c, "--format: "+err.Error(), "")
		}
		return nil
	}
	return p.readAudit(c, fs, args, check, func(ctx context.Context, db *store.DB) error {
		out := bufio.NewWriter(p.stdout)
		w, err := audit.NewLineWriter(*format, out)
		if err != nil {
			return err
		}
		err = eachRecord(ctx, db, func(seq int64, r *audit.Record) error {
			if !f.Wants(r) {
				return nil
			}
			for _, line := range f.Lines(seq, r) {
				if err := w.Write(&line); err != nil {
					return fmt.Errorf("write the output: %w", err)
				}
			}
			return nil
		})
		return errors.Join(err, w.Flush(), out.Flush())
	})
}

// eachRecord reads the log's records. One that cannot be read ends it.
func eachRecord(ctx context.Context, db *store.DB, do func(seq int64, r *audit.Record) error) error {
	log := db.AuditLog()
	head, err := log.Head(ctx)
	if err != nil {
		return tampered(err)
	}
	for stored, err := range log.Records(ctx, head.KeptFrom) {
		if err != nil {
			return err
		}
		if stored.Seq >= head.Size {
			return nil
		}
		r, err := audit.Decode(stored.Data)
		if err = errors.Join(stored.Err, err); err != nil {
			return &failure{exitRuntime, fmt.Errorf("record %d: %w", stored.Seq, err), "what is wrong with the log is told by: e2ee-proxy audit verify"}
		}
		if err := do(stored.Seq, r); err != nil {
			return err
		}
	}
	return nil
}

func auditTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("needs a day (2026-11-30, from 00:00 UTC) or a time (2026-11-30T08:00:00Z)")
}

// auditWhoHas prints which devices could read a room, as far as this proxy gave them keys.
func auditWhoHas(p *process, c command, args []string) error {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	room := fs.String("room", "", "`ROOM` ID, such as !abc:example.org (required)")
	format := fs.String("format", "text", "`FORMAT`: text or jsonl (JSON, one object a line)")
	check := func() error {
		switch {
		case *room == "":
			return usageErrorOf(c, "--room needs a room ID such as !abc:example.org", "")
		case *format != "text" && *format != "jsonl":
			return usageErrorOf(c, fmt.Sprintf("--format: %q is not a format: text or jsonl", *format), "")
		}
		return nil
	}
	return p.readAudit(c, fs, args, check, func(ctx context.Context, db *store.DB) error {
		readers := audit.ReadersOf(*room)
		err := eachRecord(ctx, db, func(_ int64, r *audit.Record) error { readers.Add(r); return nil })
		if err != nil {
			return err
		}
		all := readers.List()
		if *format == "jsonl" {
			var b strings.Builder
			w := json.NewEncoder(&b)
			w.SetEscapeHTML(false)
			for i := range all {
				if err := w.Encode(&all[i]); err != nil {
					return fmt.Errorf("write the output: %w", err)
				}
			}
			return p.print(b.String())
		}
		head, err := db.AuditLog().Head(ctx)
		if err != nil {
			return tampered(err)
		}
		return p.print(readersText(all, head.KeptFrom))
	})
}

// readersText is the list for a person; removed is how many records are not there any more.
func readersText(all []audit.Reader, removed int64) string {
	var b strings.Builder
	if len(all) == 0 {
		b.WriteString("this proxy has given nobody a key of that room\n")
	}
	for _, r := range all {
		fmt.Fprintf(&b, "%s %s since %s, last given a key %s, %d in all", word(r.User), word(r.Device), r.Since.Format(time.RFC3339), r.Last.Format(time.RFC3339), r.Keys)
		for _, how := range r.How {
			b.WriteString(", " + string(how))
		}
		if !r.RefusedSince.IsZero() {
			b.WriteString("; refused since " + r.RefusedSince.Format(time.RFC3339))
		}
		b.WriteString("; key " + word(r.Ed25519) + "\n")
	}
	if removed > 0 {
		fmt.Fprintf(&b, "the first %d records were removed because of their age: who was given a key before is not listed\n", removed)
	}
	return b.String()
}

// word returns an ID as it is, or quoted if it could be taken for something else than one word,
// or steer a terminal: strangers choose theirs.
func word(id string) string {
	for _, r := range id {
		if !unicode.IsGraphic(r) || unicode.IsSpace(r) || r == '"' || r == utf8.RuneError {
			return strconv.QuoteToASCII(id)
		}
	}
	return id
}
