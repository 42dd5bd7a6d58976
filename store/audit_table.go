package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/seal"
	"e2ee-proxy/store/internal/sqlio"
)

// The log of who was given keys is appended to in the transaction of the decision: if it
// cannot be written, nothing is shared. A record is sealed with its number, under a key of
// the database and not of the account, which it outlives. On PostgreSQL the row of the head
// is locked from the append, which is the last of a transaction, to the commit, so that order
// and size of the log are one.

const (
	selectAuditHead = "SELECT size, kept_from, sealed_state FROM audit_head WHERE one = 1"
	lockAuditHead   = selectAuditHead + " FOR UPDATE"
	updateAuditHead = "UPDATE audit_head SET size = $1, kept_from = $2, sealed_state = $3 WHERE one = 1"
)

var (
	insertAuditRecords = &sqlio.ListStatement{Head: "INSERT INTO audit_records (seq, at, sealed_record) VALUES ", Item: "(?, ?, ?)", Width: 3}
	insertAuditHashes  = &sqlio.ListStatement{Head: "INSERT INTO audit_hashes (idx, hash) VALUES ", Item: "(?, ?)", Width: 2}
)

// errAuditShorter means that somebody has put an older state of the log in place while it
// was in use.
var errAuditShorter = errors.New("the audit log is shorter than it was: it was changed while it was in use")

// auditLog is what is needed to write the log, and to read it.
type auditLog struct {
	off    bool
	key    *seal.Key
	signer *audit.Signer
	size   atomic.Int64 // the largest that was committed
}

// openAudit derives the keys of the log from the database's root secret.
func (db *DB) openAudit(enabled bool) error {
	id, key := db.Hash("audit key ID", nil), db.Hash("audit sealing key", nil)
	defer clear(key[:])
	var err error
	if db.audit.key, err = seal.NewKey(seal.ID(id[:seal.IDSize]), key[:]); err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	seed := db.Hash("audit checkpoint key", nil)
	defer clear(seed[:])
	if db.audit.signer, err = audit.NewSigner("e2ee-proxy-audit-"+db.id, seed); err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	db.audit.off = !enabled
	return nil
}

// Audits reports whether the log is written.
func (db *DB) Audits() bool { return db != nil && !db.audit.off }

// AuditSigner signs the checkpoints of the log.
func (db *DB) AuditSigner() *audit.Signer { return db.audit.signer }

func (db *DB) auditRecordPlace(seq, at int64) seal.Place {
	return seal.Place{Database: db.id, Table: "audit_records", Column: "sealed_record", Row: []string{strconv.FormatInt(seq, 10), strconv.FormatInt(at, 10)}}
}

func (db *DB) auditHeadPlace(size, keptFrom int64) seal.Place {
	return seal.Place{Database: db.id, Table: "audit_head", Column: "sealed_state", Row: []string{strconv.FormatInt(size, 10), strconv.FormatInt(keptFrom, 10)}}
}

// auditHead is the row of the head.
type auditHead struct {
	audit.Head
	policy string // version in the last record about the policy
}

func (db *DB) readAuditHead(ctx context.Context, query querier, text string) (auditHead, error) {
	var h auditHead
	var sealed []byte
	found := false
	err := query(ctx, text, nil, func(r *sql.Rows) error {
		found = true
		return r.Scan(&h.Size, &h.KeptFrom, &sealed)
	})
	switch {
	case err != nil:
		return h, fmt.Errorf("read the head of the audit log: %w", err)
	case !found:
		return h, &audit.TamperedError{What: "the head of the log is missing"}
	case h.Size == 0 && h.KeptFrom == 0 && len(sealed) == 0:
		return h, nil
	}
	state, err := db.audit.key.Open(sealed, db.auditHeadPlace(h.Size, h.KeptFrom))
	if err != nil {
		return h, fmt.Errorf("%w: %w: %w", &audit.TamperedError{What: "the head of the log was changed"}, ErrSealed, err)
	}
	n := audit.HashSize * len(audit.IndicesOfTree(h.Size))
	if len(state) < n {
		return h, &audit.TamperedError{What: "the head of the log is too short"}
	}
	for at := 0; at < n; at += audit.HashSize {
		h.Right = append(h.Right, audit.Hash(state[at:at+audit.HashSize]))
	}
	h.policy = string(state[n:])
	return h, nil
}

// lockAudit reads the head for an append.
func (db *DB) lockAudit(ctx context.Context, t *sqlio.Tx) (auditHead, error) {
	text := selectAuditHead
	if db.dialect.SharedPool {
		text = lockAuditHead
	}
	h, err := db.readAuditHead(ctx, t.Rows, text)
	if err == nil && h.Size < db.audit.size.Load() {
		err = errAuditShorter
	}
	return h, err
}

// writeAudit appends records to the log, and stores its head.
func (db *DB) writeAudit(ctx context.Context, t *sqlio.Tx, h *auditHead, records []auditRecord) error {
	rows, sums := &sqlio.Args{}, &sqlio.Args{}
	var hashes []audit.StoredHash
	for _, r := range records {
		rows.Num(h.Size)
		rows.Num(r.at)
		rows.Bytes(db.audit.key.Seal(r.data, db.auditRecordPlace(h.Size, r.at)))
		hashes = h.Append(r.leaf, hashes[:0])
		for _, s := range hashes {
			sums.Num(s.Index)
			sums.Bytes(bytes.Clone(s.Hash[:]))
		}
		if r.policy != "" {
			h.policy = r.policy
		}
	}
	if err := t.RunList(ctx, insertAuditRecords, nil, rows.Vals); err != nil {
		return err
	}
	if err := t.RunList(ctx, insertAuditHashes, nil, sums.Vals); err != nil {
		return err
	}
	return db.writeAuditHead(ctx, t, h)
}

func (db *DB) writeAuditHead(ctx context.Context, t *sqlio.Tx, h *auditHead) error {
	state := make([]byte, 0, audit.HashSize*len(h.Right)+len(h.policy))
	for _, one := range h.Right {
		state = append(state, one[:]...)
	}
	state = append(state, h.policy...)
	return t.Run(ctx, updateAuditHead, h.Size, h.KeptFrom, db.audit.key.Seal(state, db.auditHeadPlace(h.Size, h.KeptFrom)))
}

// committedAudit remembers how long the log is for certain.
func (db *DB) committedAudit(size int64) {
	for {
		known := db.audit.size.Load()
		if size <= known || db.audit.size.CompareAndSwap(known, size) {
			return
		}
	}
}

// auditRecord is a record that is ready to be written.
type auditRecord struct {
	at     int64
	data   []byte
	leaf   audit.Hash
	policy string // of a record about the policy
}

func (db *DB) newAuditRecord(r *audit.Record) auditRecord {
	if r.At.IsZero() {
		stamped := *r
		stamped.At = db.now()
		r = &stamped
	}
	out := auditRecord{at: r.At.UnixMicro(), data: r.Encode()}
	out.leaf = audit.LeafOf(out.data)
	if r.Kind == audit.KindPolicy {
		out.policy = r.Policy
	}
	return out
}

// audit adds the append of records, which has to be the last of a transaction's steps.
func (b *saver) audit(all []*audit.Record) {
	if b.db.audit.off || len(all) == 0 {
		return
	}
	records := make([]auditRecord, len(all))
	for i, r := range all {
		records[i] = b.db.newAuditRecord(r)
	}
	b.step("audit log", &sqlio.Args{}, func(ctx context.Context, t *sqlio.Tx) error {
		h, err := b.db.lockAudit(ctx, t)
		if err != nil {
			return err
		}
		if err := b.db.writeAudit(ctx, t, &h, records); err != nil {
			return err
		}
		b.audited = h.Size
		return nil
	})
}

// AppendAudit appends records to the log that belong to nothing else that is stored. It does
// nothing if the log is not written.
func (db *DB) AppendAudit(ctx context.Context, records ...*audit.Record) error {
	b := &saver{db: db}
	b.audit(records)
	if len(b.steps) == 0 {
		return nil
	}
	if err := db.writer.run(ctx, b.run); err != nil {
		return fmt.Errorf("append to the audit log: %w", err)
	}
	db.committedAudit(b.audited)
	return nil
}

// AuditPolicy appends a record about the policy, unless the last one has the same version.
// It is also written where the log is not: that it was switched off is a part of the log.
func (db *DB) AuditPolicy(ctx context.Context, r *audit.Record) error {
	one := db.newAuditRecord(r)
	var size int64
	err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		h, err := db.lockAudit(ctx, t)
		if err != nil || h.policy == one.policy || db.audit.off && h.Size == 0 {
			return err
		}
		err = db.writeAudit(ctx, t, &h, []auditRecord{one})
		size = h.Size
		return err
	})
	if err != nil {
		return fmt.Errorf("append to the audit log: %w", err)
	}
	db.committedAudit(size)
	return nil
}
