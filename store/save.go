package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"e2ee-proxy/store/internal/sqlio"
)

// Save writes changes in one transaction: when it returns nil, all of them are durable.
// When it returns an error nothing was written and what is in memory still holds, unless
// the error is [ErrUnsure]: then everything or nothing was, so drop what is in memory and
// read it again. After [ErrStale] somebody else has written: read again too.
//
// device is the row of the device that the changes belong to; 0 if they touch only what
// belongs to the account. A device or account that does not exist is [ErrNotFound].
func (db *DB) Save(ctx context.Context, acct *Account, device int64, c *Changes) error {
	b := &saver{db: db, acct: acct, dev: device}
	b.collect(c)
	if b.err == nil && device == 0 && b.ofDevice {
		b.err = errors.New("changes of a device need its row")
	}
	if b.err != nil {
		return fmt.Errorf("save: %w", b.err)
	}
	if len(b.steps) == 0 {
		return nil
	}
	if err := db.write(ctx, acct, b.run); err != nil {
		if isForeignKey(err) {
			err = fmt.Errorf("%w: device or account", ErrNotFound)
		}
		return fmt.Errorf("save: %w", err)
	}
	db.committedAudit(b.audited)
	return nil
}

// saver is a Changes as statements. Everything that can be done before the transaction,
// sealing above all, is done while collecting.
type saver struct {
	db   *DB
	acct *Account
	dev  int64

	steps     []step
	ratchet   bool // see tx.ratchet
	ofDevice  bool
	ofAccount bool
	audited   int64 // size of the audit log after it was appended to
	err       error
}

type step struct {
	what string
	run  func(context.Context, *sqlio.Tx) error
}

// collect adds the statements in their order: deletions, upserts, then changes of existing
// rows.
func (b *saver) collect(c *Changes) {
	b.device(c.Device, c.SyncPosition)

	b.discardSent(c.DiscardSent)
	b.countOlm(c)
	b.deleteOlmSessions(c.DeleteOlmSessions)
	b.deleteOlmSteps(c.DeleteOlmSteps)
	b.discardOutbound(c.DiscardOutbound)
	b.deleteOutbox(c.DeleteOutbox)
	b.deletePending(c.DeletePending)
	b.deleteInbox(c.DeleteInbox)
	b.deleteWithheld(c.DeleteWithheld)
	b.deleteUserDevices(c.DeleteDevices, c.DeleteDistrusts)
	b.deleteSecrets(c.DeleteSecrets)
	b.dropSearch(c.DropSearch)
	b.dropSearchSegments(c.DeleteSearch)

	b.olmSessions(c.OlmSessions)
	b.olmSteps(c.OlmSteps)
	b.inboundSessions(c.InboundSessions)
	b.owners(c.Owners)
	b.moreOwners(c.MoreOwners)
	b.messageIndices(c.MessageIndices)
	b.outboundSessions(c.OutboundSessions)
	b.shares(c.Shares)
	b.transactions(c.Transactions)
	b.newTransactions(c.NewTransactions)
	b.outbox(c.Outbox)
	b.rooms(c.Rooms)
	b.encryptedRooms(c.Rooms)
	b.pending(c.Pending)
	b.inbox(c.Inbox)
	b.withheld(c.Withheld)
	b.seen(c.Seen)
	b.users(c.Users)
	b.markUsers(c.OutdatedUsers, c.LeftUsers)
	b.userChanges(c.UserChanges)
	b.userDevices(c.UserDevices, c.Distrusts)
	b.secrets(c.Secrets)
	b.warnings(c.Warnings)
	b.searchParts(c.Search)
	b.unread(c.Unread)
	b.notifications(c.Notifications)
	b.controlRoom(c.ControlRoom)
	b.files(c.Files, c.NewFiles)

	b.readyPending(c.ReadyPending)
	b.readyPendingFrom(c.ReadyPendingFrom)
	b.readyWithheld(c.ReadyWithheld)
	b.markPending(c.MarkPending, c.MarkDelivered)
	b.placePending(c.PlacePending, c.MarkDelivered)
	b.shownPending(c.ShownPending)
	b.markInbox(c.MarkInbox, c.MarkDelivered)
	b.markBackedUp(c.Backed)
	b.useFiles(c.UsedFiles)
	b.sentFiles(c.SentFiles, c.SentFilesIn)
	b.redactFiles(c.RedactedFiles, c.FilesExpireAt)

	b.audit(c.Audit)
}

// Several devices of an account write to the same rows of users. On PostgreSQL this lock
// makes them wait here, instead of for each other's rows, until one is aborted.
const lockAccount = "SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE"

// run may run more than once.
func (b *saver) run(ctx context.Context, t *sqlio.Tx) error {
	t.Ratchet = t.Ratchet || b.ratchet
	if b.ofAccount && b.db.dialect.SharedPool {
		if err := t.Run(ctx, lockAccount, b.acct.ID); err != nil {
			return fmt.Errorf("lock account: %w", err)
		}
	}
	for _, s := range b.steps {
		if err := s.run(ctx, t); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

func (b *saver) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// scope returns arguments that begin with the account and the device.
func (b *saver) scope() *sqlio.Args {
	b.ofDevice = true
	return &sqlio.Args{Vals: []any{b.acct.ID, b.dev}}
}

// step adds a statement with its collected parameters.
func (b *saver) step(what string, p *sqlio.Args, run func(context.Context, *sqlio.Tx) error) {
	if p.Err != nil {
		b.fail(fmt.Errorf("%s: %w", what, p.Err))
		return
	}
	b.steps = append(b.steps, step{what, run})
}

// execOne returns a function that runs a statement which must find its row.
func (b *saver) execOne(text string, p *sqlio.Args) func(context.Context, *sqlio.Tx) error {
	return func(ctx context.Context, t *sqlio.Tx) error {
		return t.Must(ctx, sqlio.Want{Rows: 1, Else: fmt.Errorf("%w: device", ErrNotFound)}, text, p.Vals...)
	}
}

// listOfDevice adds a statement with a list about the device.
func (b *saver) listOfDevice(what string, q *sqlio.ListStatement, p *sqlio.Args) {
	if len(p.Vals) > 0 || p.Err != nil {
		b.ofDevice = true
		b.list(what, q, []any{b.acct.ID, b.dev}, p)
	}
}

// listOfAccount adds a statement with a list about the account.
func (b *saver) listOfAccount(what string, q *sqlio.ListStatement, p *sqlio.Args) {
	if len(p.Vals) > 0 || p.Err != nil {
		b.ofAccount = true
		b.list(what, q, []any{b.acct.ID}, p)
	}
}

func (b *saver) list(what string, q *sqlio.ListStatement, fixed []any, p *sqlio.Args) {
	b.step(what, p, func(ctx context.Context, t *sqlio.Tx) error {
		return t.RunList(ctx, q, fixed, p.Vals)
	})
}

// lastByKey keeps the last of the rows with the same key: one statement must not touch a row
// twice.
func lastByKey[T any, K comparable](rows []T, key func(*T) K) []T {
	if len(rows) < 2 {
		return rows
	}
	at := make(map[K]int, len(rows))
	kept := make([]T, 0, len(rows))
	for i := range rows {
		k := key(&rows[i])
		if j, ok := at[k]; ok {
			kept[j] = rows[i]
			continue
		}
		at[k] = len(kept)
		kept = append(kept, rows[i])
	}
	return kept
}

// idArgs collects identifiers to look up. One that is too long to be stored finds nothing.
func idArgs[T ~string](all []T) *sqlio.Args {
	p := &sqlio.Args{}
	for _, v := range all {
		p.Text(string(v))
	}
	return p
}

// refArgs is like idArgs, for names of Megolm sessions.
func refArgs(all []SessionRef) *sqlio.Args {
	p := &sqlio.Args{}
	for _, r := range all {
		p.Text(string(r.RoomID))
		p.Text(string(r.SessionID))
	}
	return p
}

// list queries with a list of items, in as few statements as its size allows.
func (db *DB) list(ctx context.Context, q *sqlio.ListStatement, fixed []any, p *sqlio.Args, each func(*sql.Rows) error) error {
	return q.Each(db.texts, fixed, p.Vals, func(text string, params []any) error {
		return db.reader.Query(ctx, text, params, each)
	})
}

// unique removes duplicates.
func unique[T comparable](all []T) []T {
	if len(all) < 2 {
		return all
	}
	seen := make(map[T]struct{}, len(all))
	kept := make([]T, 0, len(all))
	for _, v := range all {
		if _, ok := seen[v]; !ok {
			seen[v] = struct{}{}
			kept = append(kept, v)
		}
	}
	return kept
}
