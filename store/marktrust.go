package store

import (
	"context"
	"database/sql"

	"e2ee-proxy/store/internal/sqlio"
)

// sealTrust adds marks to the rows of users and devices that version 1 stored without one.
// It is the part of a migration for which the keys are needed.
func (db *DB) sealTrust(ctx context.Context, t *sqlio.Tx) error {
	accounts, err := db.readAccounts(ctx, t.Rows, selectAccounts)
	if err != nil {
		return err
	}
	for _, acct := range accounts {
		var users []User
		err := t.Rows(ctx, selectAllUsers, []any{acct.ID}, func(r *sql.Rows) error {
			u, _, err := scanUser(r)
			users = append(users, u)
			return err
		})
		if err != nil {
			return err
		}
		var devices []UserDevice
		err = t.Rows(ctx, selectAllUserDevices, []any{acct.ID}, func(r *sql.Rows) error {
			d, _, err := scanUserDevice(r)
			devices = append(devices, d)
			return err
		})
		if err != nil {
			return err
		}
		b := &saver{db: db, acct: acct}
		b.users(users)
		b.userDevices(devices, nil)
		if b.err != nil {
			return b.err
		}
		if err := b.run(ctx, t); err != nil {
			return err
		}
	}
	return nil
}
