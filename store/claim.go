package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

const (
	selectOwner = `SELECT COALESCE(r.name, ''), COALESCE(r.process, ''), COALESCE(r.advertise, ''), COALESCE(r.draining, 0),
			COALESCE(r.expires_at - ` + pgNow + `, 0)
		FROM accounts a LEFT JOIN replicas r ON r.name = a.owner AND r.` + pgAlive + ` WHERE a.user_id = $1`

	insertOwned = `INSERT INTO accounts (user_id, master_key_id, sealed_key, created_at, owner, epoch) VALUES ($1, $2, $3, $4, $5, 1)
		ON CONFLICT (user_id) DO NOTHING RETURNING id, user_id, master_key_id, sealed_key, epoch`
	// The lock waits for the former owner's transactions; what comes after it sees their work,
	// and who has taken the account meanwhile.
	lockForOwner = "SELECT 1 FROM accounts WHERE user_id = $1 FOR UPDATE"
	// What is ours already, because the answer to an earlier claim was lost, stays as it is,
	// unless it is claimed anew.
	takeAccount = `UPDATE accounts SET owner = $2, epoch = CASE WHEN owner = $2 AND $3 = 0 THEN epoch ELSE epoch + 1 END
		WHERE user_id = $1 AND (owner = $2 OR NOT owner = ANY(` + pgLiveNames + `))
		RETURNING id, user_id, master_key_id, sealed_key, epoch`
	// takeOrphans takes what nobody has and this one of the live replicas is to have. The names
	// are read once for the statement, so that a row that was waited for is compared with them
	// again.
	takeOrphans = `UPDATE accounts SET owner = $1, epoch = accounts.epoch + 1
		FROM (SELECT id FROM accounts a WHERE NOT a.owner = ANY(` + pgLiveNames + `)
			AND $1 = (SELECT name FROM replicas WHERE ` + pgAlive + ` AND draining = 0 ORDER BY hashtextextended(name, a.id) DESC, name LIMIT 1)
			LIMIT $2 FOR UPDATE SKIP LOCKED) AS free
		WHERE accounts.id = free.id
		RETURNING accounts.id, accounts.user_id, accounts.master_key_id, accounts.sealed_key, accounts.epoch`
	selectMine = "SELECT id, epoch FROM accounts WHERE owner = $1"
)

// giveBack ends the ownership only if it is still the same.
var giveBack = &sqlio.ListStatement{
	Head: "UPDATE accounts SET owner = '' WHERE owner = $1 AND (id, epoch) IN (VALUES ", Item: "(CAST(? AS {{int}}), CAST(? AS {{int}}))", Tail: ")",
	Fixed: 1, Width: 2, Pad: true,
}

// Claim makes the account of a user this process's own, and makes the account if there is none.
// If a live replica has it, the error is an [ElsewhereError]. What is ours already is returned
// without asking the database: whether it still is, every write finds out.
//
// Without a cluster it is [DB.Account].
func (db *DB) Claim(ctx context.Context, user id.UserID) (*Account, error) {
	if db.cluster == nil {
		return db.Account(ctx, user)
	}
	return db.claim(ctx, user, true)
}

// ClaimExisting is like [DB.Claim], but returns [ErrNotFound] if there is no account. Without
// a cluster it is [DB.LookupAccount].
func (db *DB) ClaimExisting(ctx context.Context, user id.UserID) (*Account, error) {
	if db.cluster == nil {
		return db.LookupAccount(ctx, user)
	}
	return db.claim(ctx, user, false)
}

func (db *DB) claim(ctx context.Context, user id.UserID, make bool) (*Account, error) {
	if err := db.lease.lostErr(); err != nil {
		return nil, fmt.Errorf("claim account: %w", err)
	}
	for {
		acct, others, anew := db.owned.begin(user)
		if acct != nil {
			return acct, nil
		}
		if others != nil {
			select {
			case <-others:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("claim account: %w", ctx.Err())
			}
		}
		acct, err := db.claimRow(ctx, user, make, anew)
		acct = db.owned.end(user, acct)
		if err != nil {
			return nil, fmt.Errorf("claim account: %w", err)
		}
		return acct, nil
	}
}

// claimTries is how often a claim begins again because the account was made, deleted, taken
// or released meanwhile.
const claimTries = 5

var errOwnersChange = errors.New("the account changes its owner all the time")

func (db *DB) claimRow(ctx context.Context, user id.UserID, create, anew bool) (*Account, error) {
	for range claimTries {
		elsewhere, found, err := db.readOwner(ctx, user)
		if err != nil {
			return nil, err
		}
		if elsewhere != nil {
			return nil, &ElsewhereError{*elsewhere}
		}
		if !found && !create {
			return nil, ErrNotFound
		}
		var acct *Account
		if found {
			acct, err = db.takeAccount(ctx, user, anew)
		} else {
			acct, err = db.insertOwned(ctx, user)
		}
		if acct != nil || err != nil {
			return acct, err
		}
	}
	return nil, errOwnersChange
}

// readOwner returns the live replica that has an account, nil if that is nobody or this one.
func (db *DB) readOwner(ctx context.Context, user id.UserID) (elsewhere *Replica, found bool, err error) {
	var owner Replica
	err = db.reader.Query(ctx, selectOwner, []any{sqlio.EncodeText(string(user))}, func(r *sql.Rows) error {
		found = true
		return r.Scan(owner.targets()...)
	})
	if err != nil {
		return nil, false, fmt.Errorf("read owner: %w", err)
	}
	if owner.Name != "" && owner.Name != db.lease.token().holder {
		elsewhere = &owner
	}
	return elsewhere, found, nil
}

func (db *DB) insertOwned(ctx context.Context, user id.UserID) (*Account, error) {
	a := db.newAccountArgs(user)
	if a.Err != nil {
		return nil, a.Err
	}
	return db.runClaim(ctx, "", insertOwned, append(a.Vals, db.lease.token().holder)...)
}

func (db *DB) takeAccount(ctx context.Context, user id.UserID, anew bool) (*Account, error) {
	flag := int64(0)
	if anew {
		flag = 1
	}
	return db.runClaim(ctx, lockForOwner, takeAccount, sqlio.EncodeText(string(user)), db.lease.token().holder, flag)
}

// runClaim runs a statement that returns the account if it is ours now. lock, if there is one,
// has the user as its parameter.
func (db *DB) runClaim(ctx context.Context, lock, text string, params ...any) (acct *Account, err error) {
	err = db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		acct = nil
		if lock != "" {
			if _, err := t.Do(ctx, lock, params[0]); err != nil {
				return err
			}
		}
		all, damaged, err := db.readOwned(ctx, t, text, params...)
		if len(all) > 0 {
			acct = all[0]
		}
		return errors.Join(err, damaged)
	})
	if err != nil {
		return nil, err
	}
	return acct, nil
}

// readOwned runs a statement that returns accounts that are ours now. damaged is about the
// first one whose key cannot be opened.
func (db *DB) readOwned(ctx context.Context, t *sqlio.Tx, text string, params ...any) (all []*Account, damaged, err error) {
	err = t.Rows(ctx, text, params, func(r *sql.Rows) error {
		var row, epoch int64
		var user id.UserID
		var masterID string
		var sealed []byte
		if err := r.Scan(&row, sqlio.TextInto(&user), &masterID, &sealed, &epoch); err != nil {
			return err
		}
		acct, err := db.openAccount(row, user, masterID, sealed)
		if err != nil {
			if damaged == nil { // there may be thousands
				damaged = err
			}
			return nil
		}
		acct.epoch = epoch
		all = append(all, acct)
		return nil
	})
	return all, damaged, err
}

// ClaimOrphans claims up to most of the accounts that no live replica has. An account goes to
// the one of the live replicas that do not drain for which its number and the replica's name
// give the greatest hash, so that those who claim at the same time do not meet. It takes one
// statement, however many they are, and does not wait for writers of the former owner: what
// they hold is left for another time. An account whose key cannot be opened is an error beside
// those that were claimed.
func (db *DB) ClaimOrphans(ctx context.Context, most int) ([]*Account, error) {
	if db.cluster == nil || most <= 0 {
		return nil, nil
	}
	var all []*Account
	var damaged error
	err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		var err error
		all, damaged, err = db.readOwned(ctx, t, takeOrphans, db.lease.token().holder, int64(most))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim orphans: %w", err)
	}
	if damaged != nil {
		damaged = fmt.Errorf("claim orphans: %w", damaged)
	}
	return db.owned.add(all), damaged
}

// Release gives accounts up, so that any replica may claim them. Those that are not ours are
// left out. Claiming one again makes a new [Account], through which alone can be written then,
// whatever Release returned.
func (db *DB) Release(ctx context.Context, accts ...*Account) error {
	if db.cluster == nil {
		return nil
	}
	mine := db.owned.leave(accts)
	if len(mine) == 0 {
		return nil
	}
	p := &sqlio.Args{}
	for _, acct := range mine {
		p.Num(acct.ID)
		p.Num(acct.epoch)
	}
	err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		return t.RunList(ctx, giveBack, []any{db.lease.token().holder}, p.Vals)
	})
	if err != nil {
		return fmt.Errorf("release accounts: %w", err)
	}
	db.owned.forget(mine)
	return nil
}

// Owner returns whose an account is. Without a cluster every account is here. That it is here
// is known without asking the database, like with [DB.Claim].
func (db *DB) Owner(ctx context.Context, user id.UserID) (Owner, error) {
	if db.cluster == nil {
		return Owner{State: OwnerHere}, nil
	}
	if err := db.lease.lostErr(); err != nil {
		return Owner{}, err
	}
	if db.owned.of(user) != nil {
		return Owner{State: OwnerHere}, nil
	}
	elsewhere, _, err := db.readOwner(ctx, user)
	switch {
	case err != nil:
		return Owner{}, err
	case elsewhere != nil:
		return Owner{State: OwnerElsewhere, Replica: *elsewhere}, nil
	default:
		return Owner{State: OwnerNobody}, nil
	}
}

// checkOwned finds out which accounts others have taken, after a time in which they may have.
func (db *DB) checkOwned(ctx context.Context) error {
	before := db.owned.all()
	mine := make(map[int64]int64, len(before))
	err := db.reader.Query(ctx, selectMine, []any{db.lease.token().holder}, func(r *sql.Rows) error {
		var row, epoch int64
		err := r.Scan(&row, &epoch)
		mine[row] = epoch
		return err
	})
	if err != nil {
		return fmt.Errorf("check which accounts are left: %w", err)
	}
	for _, acct := range before {
		if epoch, ok := mine[acct.ID]; !ok || epoch != acct.epoch {
			db.owned.lose(acct)
		}
	}
	return nil
}
