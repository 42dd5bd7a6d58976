package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

// File is an encrypted file that an account knows. Value is sealed.
type File struct {
	// URI is by what the account's clients name it; it is stored as a keyed hash.
	URI string
	// Value is what it is, as e2ee wrote it.
	Value     secret.Bytes
	CreatedAt time.Time
	// ExpiresAt is from when on it is forgotten; zero: it is in use.
	ExpiresAt time.Time
	// Sent reports whether the account has sent it in an event. It is read only.
	Sent bool
}

var (
	// In which event a file was sent stays, whatever else is found out about it.
	putFiles = sqlio.InsertRows("files", sqlio.OfAccount, []string{"ref"}, []string{"sealed_file", "event", "created_at", "expires_at"},
		"UPDATE SET sealed_file = excluded.sealed_file, created_at = excluded.created_at, expires_at = excluded.expires_at")
	keepFiles = sqlio.KeepRows("files", sqlio.OfAccount, []string{"ref"}, []string{"sealed_file", "event", "created_at", "expires_at"})
	useFiles  = sqlio.WhereIn("UPDATE files SET expires_at = 0", sqlio.OfAccount, "ref", "")
	findFiles = sqlio.WhereIn("SELECT ref, sealed_file, event, created_at, expires_at FROM files", sqlio.OfAccount, "ref", "")
	sentFiles = &sqlio.ListStatement{
		Head: "UPDATE files SET event = $2, expires_at = 0 WHERE account = $1 AND ref IN (", Item: "?", Tail: ")", Fixed: 2, Width: 1, Pad: true,
	}
)

const (
	redactFiles = "UPDATE files SET expires_at = $3 WHERE account = $1 AND event = $2"
	pruneFiles  = `DELETE FROM files WHERE (account, ref) IN
		(SELECT account, ref FROM files WHERE expires_at > 0 AND expires_at < $1 LIMIT 1000)`
	// pruneManyFiles deletes those of an account that are more than it may have, the oldest
	// first.
	pruneManyFiles = `DELETE FROM files WHERE (account, ref) IN (SELECT account, ref FROM
		(SELECT account, ref, ROW_NUMBER() OVER (PARTITION BY account ORDER BY created_at DESC) AS place FROM files) AS counted
		WHERE place > $1 LIMIT 1000)`
)

// hashFile and hashFileEvent are for one account, so that nobody can tell from them who has
// the same file.
func (b *saver) hashFile(uri string) [32]byte { return b.db.hashFile(b.acct, uri) }

func (db *DB) hashFile(acct *Account, uri string) [32]byte {
	return db.Hash("file", []byte(string(acct.UserID)+"\x00"+uri))
}

func (db *DB) hashFileEvent(acct *Account, event id.EventID) [32]byte {
	return db.Hash("event of a file", []byte(string(acct.UserID)+"\x00"+string(event)))
}

func (b *saver) files(put, keep []File) {
	for _, w := range []struct {
		what string
		q    *sqlio.ListStatement
		all  []File
	}{{"files", putFiles, put}, {"new files", keepFiles, keep}} {
		p := &sqlio.Args{}
		for _, f := range lastByKey(w.all, func(f *File) string { return f.URI }) {
			ref := b.hashFile(f.URI)
			p.Bytes(ref[:])
			p.Bytes(b.acct.seal(f.Value.Reveal(), "files", "sealed_file", hex.EncodeToString(ref[:])))
			p.Bytes([]byte{})
			p.Time(f.CreatedAt)
			p.Time(f.ExpiresAt)
		}
		b.listOfAccount(w.what, w.q, p)
	}
}

func (b *saver) fileRefs(uris []string) *sqlio.Args {
	p := &sqlio.Args{}
	for _, uri := range unique(uris) {
		ref := b.hashFile(uri)
		p.Bytes(ref[:])
	}
	return p
}

func (b *saver) useFiles(uris []string) { b.listOfAccount("files in use", useFiles, b.fileRefs(uris)) }

func (b *saver) sentFiles(uris []string, in id.EventID) {
	if p := b.fileRefs(uris); len(p.Vals) > 0 {
		event := b.db.hashFileEvent(b.acct, in)
		b.ofAccount = true
		b.list("files of an event", sentFiles, []any{b.acct.ID, event[:]}, p)
	}
}

func (b *saver) redactFiles(of id.EventID, expire time.Time) {
	if of == "" {
		return
	}
	event := b.db.hashFileEvent(b.acct, of)
	p := &sqlio.Args{}
	p.Num(b.acct.ID)
	p.Bytes(event[:])
	p.Time(expire)
	b.ofAccount = true
	b.step("files of a redacted event", p, func(ctx context.Context, t *sqlio.Tx) error {
		return t.Run(ctx, redactFiles, p.Vals...)
	})
}

// Files returns the files with these URIs that are not forgotten. The others are not in the
// map.
func (db *DB) Files(ctx context.Context, acct *Account, uris []string) (map[string]File, error) {
	p := &sqlio.Args{}
	names := make(map[[32]byte]string, len(uris))
	for _, uri := range unique(uris) {
		ref := db.hashFile(acct, uri)
		names[ref] = uri
		p.Bytes(ref[:])
	}
	all := make(map[string]File)
	err := db.list(ctx, findFiles, []any{acct.ID}, p, func(r *sql.Rows) error {
		var ref, sealed, event []byte
		var f File
		if err := r.Scan(&ref, &sealed, &event, sqlio.TimeInto(&f.CreatedAt), sqlio.TimeInto(&f.ExpiresAt)); err != nil {
			return err
		}
		if len(ref) != 32 {
			return errDamagedHash
		}
		if !f.ExpiresAt.IsZero() && !db.now().Before(f.ExpiresAt) {
			return nil
		}
		var err error
		f.URI, f.Sent = names[[32]byte(ref)], len(event) > 0
		f.Value, err = acct.open(sealed, "files", "sealed_file", hex.EncodeToString(ref))
		all[f.URI] = f
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read files: %w", err)
	}
	return all, nil
}

// PruneFiles deletes the files that expired before a time, and of each account the oldest of
// those that are more than most. It returns how many.
func (db *DB) PruneFiles(ctx context.Context, before time.Time, most int) (int64, error) {
	expired, err := db.prune(ctx, "files", pruneFiles, sqlio.Micros(before))
	if err != nil {
		return expired, err
	}
	many, err := db.prune(ctx, "files", pruneManyFiles, int64(most))
	return expired + many, err
}
