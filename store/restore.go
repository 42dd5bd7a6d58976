package store

import (
	"context"
	"errors"
	"fmt"

	"e2ee-proxy/store/internal/sqlio"
)

// A database that was restored from a backup holds ratchets that have moved on since: used
// again, they would encrypt two messages with the same key. So a restore must be
// recognised, and then nothing that was outbound may be used again.
//
// A restore is recognised by these when the database is opened:
//
//  1. The place. The table restore_mark holds a name for where the data is: for SQLite
//     the file's inode and time of birth, which a copy does not share; for PostgreSQL the
//     cluster's identifier, its timeline and the numbers of database and table, which a restored
//     dump, a point-in-time recovery and a promoted standby change.
//  2. The writer. PostgreSQL numbers the transaction that wrote a row, and the row of
//     restore_mark holds the number that it was written with. A row that was put back into the
//     same table was written by another transaction. Freezing and rewriting a table keep the
//     number.
//  3. The mark's incarnation. The file "-mark" beside a SQLite database holds a random
//     number that is drawn anew whenever a restore is found, and is in the table too. A
//     database from before that has another one.
//  4. The mark's generation. Every transaction that moves a ratchet adds one to the
//     generation in the table; after the commit the number is written to the mark,
//     without waiting for the disk. Because the commit is on the disk first, the mark can
//     be lower than the table, after a crash, but never higher; a table with a lower
//     generation than the mark is an older one.
//  5. The beat of the lease. On PostgreSQL all writers would wait for each other if each
//     counted, so that its mark, a file beside the master key, holds how often the lease was
//     renewed: it distinguishes states that are some seconds apart. The file may be missing,
//     or too low, because the proxy ran on another machine; that means nothing.
//
// While the database is open, a renewal of the lease finds another beat than the last one,
// or another server; see lease.go.
//
// A restore is not recognised if it brings back the mark as well and the file keeps inode
// and time of birth: a snapshot of the whole file system or of the machine; likewise one of
// PostgreSQL's machine where there is no mark, or from the last seconds; and if only other
// tables than restore_mark are put back. For these, and for whatever else the engine may
// notice (the homeserver has a one-time key that we have not made yet), there are
// DiscardOutboundState and Changes.DiscardSent.
//
// A false alarm, such as a database moved to another disk, costs new room keys and new Olm
// sessions, nothing else.

// restoreMark is what is compared.
type restoreMark struct {
	incarnation string
	generation  int64
	// writer is the number of the transaction that wrote the row, where PostgreSQL reveals it.
	writer int64
}

// Restored returns why the database was taken for restored from a backup when it was
// opened, in which case outbound state has been discarded; empty if it was not.
func (db *DB) Restored() string { return db.restored }

// checkRestore compares the marks, discards outbound state if it has to, and stores in o
// the mark for after the commit. version is that of the tables before they were migrated.
func (db *DB) checkRestore(ctx context.Context, t *sqlio.Tx, version int64, o *openResult) (err error) {
	if o.place, err = db.place(ctx, t); err != nil {
		return fmt.Errorf("look where the database lies: %w", err)
	}
	if version == 0 {
		o.mark = restoreMark{incarnation: randomText()}
		return db.createRestoreMark(ctx, t, o.mark, o.place)
	}
	var lastPlace string
	if o.mark, lastPlace, err = readRestoreMark(ctx, t); err != nil {
		return err
	}
	db.restored = ""
	switch row, err := db.rowNumber(ctx, t); {
	case err != nil:
		return err
	case o.place != lastPlace:
		db.restored = "the data lies in another place than before"
	case version >= leaseVersion && row != 0 && row != o.mark.writer:
		db.restored = "the rows were put back from a dump"
	case db.mark != nil:
		db.restored = db.mark.contradicts(o.mark)
	case db.markedBeat() > o.beat:
		db.restored = "the database is older than the restore mark beside the master key"
	}
	if db.restored == "" && version >= leaseVersion {
		return nil
	}
	if db.restored != "" {
		o.mark.incarnation = randomText()
		err = errors.Join(db.endRestored(ctx, t, version), discardOutbound(ctx, t), db.endConsoleSessions(ctx, t))
	}
	return errors.Join(err, db.updateRestoreMark(ctx, t, o.mark, o.place))
}

// DiscardOutboundState deletes every outbound Megolm session with its shares and every Olm
// session of all devices, and sets Restored and DeadKeys on the devices. The next send to a
// room makes a new session; the next room key to a device makes a new Olm session. Olm
// sessions are deleted whole because a pickle does not show which of their keys were used;
// peers that still use one are answered with a new one, as for any undecryptable Olm
// message.
//
// The outbox and the transactions stay: they hold ciphertext, or what the same ciphertext is
// made of, which can be sent twice without harm.
func (db *DB) DiscardOutboundState(ctx context.Context) error {
	err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error { return discardOutbound(ctx, t) })
	if err != nil {
		return fmt.Errorf("discard outbound state: %w", err)
	}
	return nil
}

func discardOutbound(ctx context.Context, t *sqlio.Tx) error {
	t.Ratchet = true
	for _, s := range []string{
		"DELETE FROM outbound_sessions",
		"DELETE FROM shares",
		"DELETE FROM share_lists",
		"DELETE FROM olm_sessions",
		"DELETE FROM olm_steps",
		"UPDATE devices SET restored = 1, dead_keys = 1, olm_changes = olm_changes + 1", // DeadKeysFound
	} {
		if err := t.Run(ctx, s); err != nil {
			return fmt.Errorf("discard outbound state: %w", err)
		}
	}
	return nil
}

// discardSent does what DiscardOutboundState does, for one device that noticed by itself.
func (b *saver) discardSent(yes bool) {
	if !yes {
		return
	}
	b.ratchet = true
	for _, table := range []string{"outbound_sessions", "shares", "share_lists", "olm_sessions", "olm_steps"} {
		text := "DELETE FROM " + table + " WHERE account = $1 AND device = $2"
		p := b.scope()
		b.step("discard outbound state", p, func(ctx context.Context, t *sqlio.Tx) error {
			return t.Run(ctx, text, p.Vals...)
		})
	}
}
