package store

import (
	"context"
	"database/sql"
	"fmt"

	"e2ee-proxy/store/internal/sqlio"
)

var (
	putSecrets  = sqlio.ReplaceRows("secrets", sqlio.OfAccount, []string{"name"}, []string{"sealed_value", "meta", "created_at"})
	dropSecrets = sqlio.WhereIn("DELETE FROM secrets", sqlio.OfAccount, "name", "")
)

const (
	selectNamed   = "SELECT name, sealed_value, meta, created_at FROM secrets WHERE account = $1"
	selectSecret  = selectNamed + " AND name = $2"
	selectSecrets = selectNamed + " ORDER BY name"
)

func (b *saver) secrets(all []Secret) {
	p := &sqlio.Args{}
	for _, s := range lastByKey(all, func(s *Secret) string { return s.Name }) {
		p.ID(s.Name)
		p.Bytes(b.acct.seal(s.Value.Reveal(), "secrets", "sealed_value", s.Name))
		p.Bytes(s.Meta)
		p.Time(s.CreatedAt)
	}
	b.listOfAccount("secrets", putSecrets, p)
}

func (b *saver) deleteSecrets(names []string) {
	b.listOfAccount("delete secrets", dropSecrets, idArgs(names))
}

// Secret reads a secret of an account, or returns [ErrNotFound].
func (db *DB) Secret(ctx context.Context, acct *Account, name string) (Secret, error) {
	all, err := db.readSecrets(ctx, acct, selectSecret, acct.ID, sqlio.EncodeText(name))
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("read secret: %w", ErrNotFound)
	}
	if err != nil {
		return Secret{}, err
	}
	return all[0], nil
}

// Secrets reads all secrets of an account, by name.
func (db *DB) Secrets(ctx context.Context, acct *Account) ([]Secret, error) {
	return db.readSecrets(ctx, acct, selectSecrets, acct.ID)
}

func (db *DB) readSecrets(ctx context.Context, acct *Account, query string, params ...any) ([]Secret, error) {
	var all []Secret
	err := db.reader.Query(ctx, query, params, func(r *sql.Rows) error {
		var s Secret
		var sealed []byte
		err := r.Scan(sqlio.TextInto(&s.Name), &sealed, sqlio.JSONInto(&s.Meta), sqlio.TimeInto(&s.CreatedAt))
		if err == nil {
			s.Value, err = acct.open(sealed, "secrets", "sealed_value", s.Name)
		}
		all = append(all, s)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	return all, nil
}
