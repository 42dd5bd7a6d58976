package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"e2ee-proxy/internal/audit"
	"e2ee-proxy/store/internal/sqlio"
)

// auditSlack is how much older than it has to be the oldest record becomes before something
// is removed, so that the log is not made of records about what was removed.
const auditSlack = 24 * time.Hour

// TruncateAudit removes the records of the log that are older than a time, and returns how
// many. Their hashes stay, so that every checkpoint can still be checked, and a record with
// the checkpoint under which they were removed is appended in the same transaction.
func (db *DB) TruncateAudit(ctx context.Context, before time.Time) (int64, error) {
	var h auditHead
	err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		var err error
		if h, err = db.lockAudit(ctx, t); err != nil {
			return err
		}
		cut, err := db.auditCut(ctx, t, h, before)
		if err != nil || cut <= h.KeptFrom {
			return err
		}
		tree, err := db.auditTree(ctx, t, cut)
		if err != nil {
			return err
		}
		checkpoint, err := db.audit.signer.Write(audit.Checkpoint{Size: cut, Root: tree.Root()})
		if err != nil {
			return err
		}
		h.KeptFrom = cut
		return db.writeAudit(ctx, t, &h, []auditRecord{db.newAuditRecord(&audit.Record{Kind: audit.KindTruncated, Note: checkpoint})})
	})
	if err != nil {
		return 0, fmt.Errorf("truncate the audit log: %w", err)
	}
	db.committedAudit(h.Size)
	return db.prune(ctx, "audit records", pruneAuditRecords, h.KeptFrom)
}

// auditCut returns the number of the first record that is kept.
func (db *DB) auditCut(ctx context.Context, t *sqlio.Tx, h auditHead, before time.Time) (int64, error) {
	var oldest time.Time
	err := t.Rows(ctx, selectAuditOldest, []any{h.KeptFrom}, func(r *sql.Rows) error { return r.Scan(sqlio.TimeInto(&oldest)) })
	if err != nil || oldest.IsZero() || !oldest.Before(before.Add(-auditSlack)) {
		return 0, err
	}
	cut := h.Size
	err = t.Rows(ctx, selectAuditCut, []any{h.KeptFrom, sqlio.Micros(before)}, func(r *sql.Rows) error { return r.Scan(&cut) })
	return cut, err
}

// auditTree returns the tree of the log's first records.
func (db *DB) auditTree(ctx context.Context, t *sqlio.Tx, size int64) (audit.Tree, error) {
	want := audit.IndicesOfTree(size)
	items := &sqlio.Args{}
	for _, i := range want {
		items.Num(i)
	}
	have := make(map[int64]audit.Hash, len(want))
	err := selectAuditTree.Each(db.texts, nil, items.Vals, func(text string, params []any) error {
		return t.Rows(ctx, text, params, func(r *sql.Rows) error {
			one, err := scanAuditHash(r)
			have[one.Index] = one.Hash
			return err
		})
	})
	if err != nil {
		return audit.Tree{}, err
	}
	right := make([]audit.Hash, len(want))
	for i, at := range want {
		hash, ok := have[at]
		if !ok {
			return audit.Tree{}, errors.New("hashes of the audit log are missing: e2ee-proxy audit verify says which")
		}
		right[i] = hash
	}
	return audit.TreeOf(size, right)
}
