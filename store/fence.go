package store

import (
	"context"
	"errors"

	"e2ee-proxy/store/internal/sqlio"
)

// A fence is the statement with which every transaction on PostgreSQL begins: it finds a row
// while this process may write what the transaction is for, and else makes the server abort the
// transaction, so that what follows it may be sent before its answer is known. It also sets what
// holds for the transaction only, because behind a pooler the next one may have another session.
//
// PostgreSQL locks a table before it looks, as for a lock on rows, of which there are none:
// writers do not wait for each other, nor do they leave anything behind in the table. That
// conflicts with pgLockLease and pgLockReplicas.

const (
	// pgSynced undoes that a server does not wait for the disk: a commit that a power loss takes
	// back would let an index be used twice.
	pgSynced = `CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END`
	pgFence  = "SELECT set_config('idle_in_transaction_session_timeout', $1, true), " + pgSynced

	// The fourth parameter is the timeline, where the server reveals it.
	pgOnTimeline  = " AND $4::text = " + pgTimeline
	pgAnyTimeline = " AND $4::text = ''"

	pgHoldsLease = pgFence + ` FROM lease WHERE one = 1 AND holder = $2 AND epoch = $3
		AND NOT EXISTS (SELECT 1 FROM lease WHERE one = 0 FOR KEY SHARE)`
	pgIsReplica = pgFence + ` FROM replicas WHERE name = $2 AND beat >= $3
		AND NOT EXISTS (SELECT 1 FROM replicas WHERE name = '' FOR KEY SHARE)`
	// The lock on the account's row lasts as long as the transaction. It lets everything pass
	// but who wants to take the account, or to delete it.
	pgOwnsAccount = pgFence + ` FROM accounts WHERE id = $5 AND epoch = $6 AND owner = $2
		AND EXISTS (SELECT 1 FROM replicas WHERE name = $2 AND beat >= $3)
		AND NOT EXISTS (SELECT 1 FROM replicas WHERE name = '' FOR KEY SHARE)`
	pgLockOwned = " FOR KEY SHARE OF accounts"
)

// errFenced means that a transaction found that it may not write.
var errFenced = errors.New("refused by the fence")

type fenceKey struct{}

// forAccount makes the transaction that is run with the context one of the account.
func forAccount(ctx context.Context, acct *Account) context.Context {
	return context.WithValue(ctx, fenceKey{}, acct)
}

// fencedAccount returns the account of forAccount, else nil.
func fencedAccount(ctx context.Context) *Account {
	acct, _ := ctx.Value(fenceKey{}).(*Account)
	return acct
}

// write runs a transaction that writes what belongs to an account.
func (db *DB) write(ctx context.Context, acct *Account, do func(context.Context, *sqlio.Tx) error) error {
	switch {
	case db.cluster == nil:
		return db.writer.run(ctx, do)
	case acct.epoch == 0:
		return ErrNotOwner
	default:
		return db.writer.run(forAccount(ctx, acct), do)
	}
}

// fence returns the statement with which a transaction begins, with its parameters; empty while
// the database is being opened.
func (l *lease) fence(acct *Account) (text string, params []any) {
	l.mu.Lock()
	ours, beat, timeline := l.ownToken, l.beat, l.timeline
	l.mu.Unlock()
	if ours == (token{}) {
		return "", nil
	}
	params = []any{l.frozen, ours.holder, ours.epoch, timeline}
	tail := pgAnyTimeline
	if timeline != "" {
		tail = pgOnTimeline
	}
	switch {
	case !l.replica:
		return pgHoldsLease + tail, params
	case acct == nil:
		params[2] = beat
		return pgIsReplica + tail, params
	default:
		params[2] = beat
		return pgOwnsAccount + tail + pgLockOwned, append(params, acct.ID, acct.epoch)
	}
}

// refused returns why a transaction was refused by its fence, and notes it.
func (db *DB) refused(ctx context.Context, acct *Account) error {
	if err := db.sameServer(ctx); err != nil {
		if errors.Is(err, ErrLeaseLost) {
			return err
		}
		if !db.lease.replica {
			return db.lease.lose(lostToAnother)
		}
		return errors.Join(ErrNotOwner, err)
	}
	if !db.lease.replica {
		return db.lease.lose(lostToAnother)
	}
	switch here, err := db.stillReplica(ctx); {
	case err != nil:
		return errors.Join(ErrNotOwner, err)
	case !here:
		return db.lease.lose(db.leaseHolder(ctx))
	case acct == nil:
		return db.lease.lose(lostToAnother)
	}
	db.owned.lose(acct)
	return ErrNotOwner
}
