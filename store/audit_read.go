package store

import (
	"context"
	"database/sql"
	"fmt"
	"iter"

	"e2ee-proxy/internal/audit"
	"e2ee-proxy/store/internal/sqlio"
)

const (
	selectAuditRecords = "SELECT seq, at, sealed_record FROM audit_records WHERE seq >= $1 ORDER BY seq LIMIT 64"
	selectAuditHashes  = "SELECT idx, hash FROM audit_hashes WHERE idx >= $1 ORDER BY idx LIMIT 4096"
	selectAuditCut     = "SELECT seq FROM audit_records WHERE seq >= $1 AND at >= $2 ORDER BY seq LIMIT 1"
	selectAuditOldest  = "SELECT at FROM audit_records WHERE seq >= $1 ORDER BY seq LIMIT 1"
	pruneAuditRecords  = "DELETE FROM audit_records WHERE seq IN (SELECT seq FROM audit_records WHERE seq < $1 ORDER BY seq LIMIT 1000)"
)

var selectAuditTree = &sqlio.ListStatement{Head: "SELECT idx, hash FROM audit_hashes WHERE idx IN (", Item: "?", Tail: ")", Width: 1, Pad: true}

// AuditLog is the log as it is stored. What is added while it is read is not part of it.
type AuditLog struct{ db *DB }

// AuditLog returns the log, to read it.
func (db *DB) AuditLog() AuditLog { return AuditLog{db} }

// Head implements audit.Log.
func (l AuditLog) Head(ctx context.Context) (audit.Head, error) {
	h, err := l.db.readAuditHead(ctx, l.db.reader.Query, selectAuditHead)
	return h.Head, err
}

// Checkpoint returns a signed checkpoint of the whole log.
func (l AuditLog) Checkpoint(ctx context.Context) (string, error) {
	h, err := l.Head(ctx)
	if err != nil {
		return "", err
	}
	return l.db.audit.signer.Write(audit.Checkpoint{Size: h.Size, Root: h.Root()})
}

// Records implements audit.Log.
func (l AuditLog) Records(ctx context.Context, from int64) iter.Seq2[audit.Stored, error] {
	return auditPages(func() (page []audit.Stored, err error) {
		err = l.db.reader.Query(ctx, selectAuditRecords, []any{from}, func(r *sql.Rows) error {
			var one audit.Stored
			var sealed sql.RawBytes
			if err := r.Scan(&one.Seq, sqlio.TimeInto(&one.At), &sealed); err != nil {
				return err
			}
			if one.Data, one.Err = l.db.audit.key.Open(sealed, l.db.auditRecordPlace(one.Seq, sqlio.Micros(one.At))); one.Err != nil {
				one.Err = fmt.Errorf("%w: %w", ErrSealed, one.Err)
			}
			page = append(page, one)
			from = one.Seq + 1
			return nil
		})
		return page, err
	})
}

// Hashes implements audit.Log.
func (l AuditLog) Hashes(ctx context.Context, from int64) iter.Seq2[audit.StoredHash, error] {
	return auditPages(func() (page []audit.StoredHash, err error) {
		err = l.db.reader.Query(ctx, selectAuditHashes, []any{from}, func(r *sql.Rows) error {
			one, err := scanAuditHash(r)
			page = append(page, one)
			from = one.Index + 1
			return err
		})
		return page, err
	})
}

// scanAuditHash reads a hash; one of another size is none that any record has.
func scanAuditHash(r *sql.Rows) (one audit.StoredHash, err error) {
	var hash []byte
	err = r.Scan(&one.Index, &hash)
	if len(hash) == audit.HashSize {
		one.Hash = audit.Hash(hash)
	}
	return one, err
}

// auditPages iterates over what next returns, until it returns nothing.
func auditPages[T any](next func() ([]T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			page, err := next()
			if err != nil {
				var none T
				yield(none, fmt.Errorf("read the audit log: %w", err))
				return
			}
			for _, one := range page {
				if !yield(one, nil) {
					return
				}
			}
			if len(page) == 0 {
				return
			}
		}
	}
}
