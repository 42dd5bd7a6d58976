package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/seal"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

// Account is a Matrix user with devices in this database, and the key under which the
// user's values are sealed. It stays usable after a rotation of the master key, and is safe
// for concurrent use.
type Account struct {
	ID     int64
	UserID id.UserID

	database string
	key      *seal.Key
	// epoch is that under which a cluster's replica owns it; 0 if it does not.
	epoch int64
}

// insertAccount allows for another process that made the account since it was looked for.
const insertAccount = `INSERT INTO accounts (user_id, master_key_id, sealed_key, created_at) VALUES ($1, $2, $3, $4)
	ON CONFLICT (user_id) DO NOTHING`

func keyPlace(database string, user id.UserID) seal.Place {
	return seal.Place{Database: database, Table: "accounts", Account: string(user), Column: "sealed_key"}
}

// The clear text of sealed_key is the ID of the account's key and the key.
func (db *DB) openAccount(row int64, user id.UserID, masterID string, sealed []byte) (*Account, error) {
	raw, err := db.openAccountKey(user, masterID, sealed)
	if err != nil {
		return nil, err
	}
	defer raw.Wipe()
	key, err := seal.NewKey(seal.ID(raw[:seal.IDSize]), raw[seal.IDSize:])
	if err != nil {
		return nil, err
	}
	return &Account{ID: row, UserID: user, database: db.id, key: key}, nil
}

func (db *DB) openAccountKey(user id.UserID, masterID string, sealed []byte) (secret.Bytes, error) {
	master, err := db.masterKey(masterID)
	if err != nil {
		return nil, err
	}
	raw, err := master.key.Open(sealed, keyPlace(db.id, user))
	if err == nil && len(raw) != seal.IDSize+seal.KeySize {
		err = seal.ErrMalformed
	}
	if err != nil {
		return nil, fmt.Errorf("%w: account key: %w", ErrSealed, err)
	}
	return raw, nil
}

// Account returns the account of a user, and makes it if there is none. In a cluster only an
// account that this process has claimed can be written to.
func (db *DB) Account(ctx context.Context, user id.UserID) (*Account, error) {
	acct, err := db.LookupAccount(ctx, user)
	if !errors.Is(err, ErrNotFound) {
		return acct, err
	}
	a := db.newAccountArgs(user)
	if a.Err != nil {
		return nil, fmt.Errorf("make account: %w", a.Err)
	}
	err = db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		return t.Run(ctx, insertAccount, a.Vals...)
	})
	if err != nil {
		return nil, fmt.Errorf("make account: %w", err)
	}
	return db.LookupAccount(ctx, user)
}

// newAccountArgs makes the key of a new account, and returns the parameters of insertAccount.
func (db *DB) newAccountArgs(user id.UserID) (a sqlio.Args) {
	keyID := seal.NewID()
	raw := make(secret.Bytes, seal.IDSize+seal.KeySize)
	defer raw.Wipe()
	copy(raw, keyID[:])
	_, _ = rand.Read(raw[seal.IDSize:]) // crypto/rand never returns an error
	a.ID(string(user))
	a.Text(db.main.ID())
	a.Bytes(db.main.key.Seal(raw, keyPlace(db.id, user)))
	a.Time(db.now())
	return a
}

// LookupAccount returns the account of a user, or [ErrNotFound].
func (db *DB) LookupAccount(ctx context.Context, user id.UserID) (*Account, error) {
	all, err := db.readAccounts(ctx, db.reader.Query, selectAccounts+" WHERE user_id = $1", sqlio.EncodeText(string(user)))
	if err == nil && len(all) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("look up account: %w", err)
	}
	return all[0], nil
}

// Accounts returns all accounts in the order in which they were made.
func (db *DB) Accounts(ctx context.Context) ([]*Account, error) {
	all, err := db.readAccounts(ctx, db.reader.Query, selectAccounts+" ORDER BY id")
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	return all, nil
}

const selectAccounts = "SELECT id, user_id, master_key_id, sealed_key FROM accounts"

func (db *DB) readAccounts(ctx context.Context, query querier, statement string, params ...any) ([]*Account, error) {
	var all []*Account
	err := query(ctx, statement, params, func(r *sql.Rows) error {
		var row int64
		var user id.UserID
		var masterID string
		var sealed []byte
		if err := r.Scan(&row, sqlio.TextInto(&user), &masterID, &sealed); err != nil {
			return err
		}
		acct, err := db.openAccount(row, user, masterID, sealed)
		if err == nil && db.cluster != nil {
			if mine := db.owned.of(user); mine != nil && mine.ID == row {
				acct = mine
			}
		}
		all = append(all, acct)
		return err
	})
	return all, err
}

// DeleteAccount deletes an account, its devices and everything that belongs to them. With
// its key gone, what is left of it in backups can be opened only with those backups.
func (db *DB) DeleteAccount(ctx context.Context, acct *Account) error {
	err := db.write(ctx, acct, func(ctx context.Context, t *sqlio.Tx) error {
		n, err := t.Do(ctx, "DELETE FROM accounts WHERE id = $1", acct.ID)
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		if err == nil {
			owner := db.hashConsoleOwner(acct.UserID)
			_, err = t.Do(ctx, deleteConsoleOwner, owner[:])
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("delete account: %w", err)
	}
	if db.cluster != nil {
		db.owned.forget([]*Account{acct})
	}
	return nil
}

// checkAccountKeys checks that the key of every account can be opened, so that a missing
// key is noticed now and not when its account is used. It opens one account for each master
// key.
func (db *DB) checkAccountKeys(ctx context.Context, query querier) error {
	return query(ctx, `SELECT user_id, master_key_id, sealed_key FROM accounts
		WHERE id IN (SELECT MIN(id) FROM accounts GROUP BY master_key_id)`, nil, func(r *sql.Rows) error {
		var user id.UserID
		var masterID string
		var sealed []byte
		if err := r.Scan(sqlio.TextInto(&user), &masterID, &sealed); err != nil {
			return err
		}
		raw, err := db.openAccountKey(user, masterID, sealed)
		raw.Wipe()
		return err
	})
}

// place returns the place, for sealing, of a value of the account.
func (a *Account) place(table, column string, row []string) seal.Place {
	return seal.Place{Database: a.database, Table: table, Account: string(a.UserID), Column: column, Row: row}
}

// seal seals a value; an empty one stays empty.
func (a *Account) seal(value []byte, table, column string, row ...string) []byte {
	if len(value) == 0 {
		return []byte{}
	}
	return a.key.Seal(value, a.place(table, column, row))
}

// columnSeal returns a seal over columns that stand in clear: it proves that these columns of a
// row were written together, with the account's key.
func (a *Account) columnSeal(table string, columns []string) []byte {
	return a.key.Seal(nil, a.place(table, "sealed_trust", columns))
}

// checkColumnSeal refuses columns that differ from those of the mark. Columns without a mark are
// refused too.
func (a *Account) checkColumnSeal(mark []byte, table string, columns []string) error {
	if _, err := a.key.Open(mark, a.place(table, "sealed_trust", columns)); err != nil {
		return fmt.Errorf("%w: %s.sealed_trust: %w", ErrSealed, table, err)
	}
	return nil
}

// open opens what seal made.
func (a *Account) open(sealed []byte, table, column string, row ...string) (secret.Bytes, error) {
	if len(sealed) == 0 {
		return nil, nil
	}
	value, err := a.key.Open(sealed, a.place(table, column, row))
	if err != nil {
		return nil, fmt.Errorf("%w: %s.%s: %w", ErrSealed, table, column, err)
	}
	return value, nil
}
