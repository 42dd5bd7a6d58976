package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

var (
	putUsers = sqlio.ReplaceRows("users", sqlio.OfAccount, []string{"user_id"},
		[]string{
			"tracked", "outdated", "failures", "retry_at", "master", "self_signing", "user_signing",
			"pinned_master", "verified", "was_verified", "changed_at", "sealed_trust",
		})
	selectUsers  = sqlio.WhereIn("SELECT "+userColumns+" FROM users", sqlio.OfAccount, "user_id", "")
	markOutdated = sqlio.WhereIn("UPDATE users SET outdated = 1, failures = 0, retry_at = 0", sqlio.OfAccount, "user_id", " AND tracked = 1")
	markLeft     = sqlio.WhereIn("UPDATE users SET tracked = 0, outdated = 1, failures = 0, retry_at = 0", sqlio.OfAccount, "user_id", "")
)

const (
	userColumns = `user_id, tracked, outdated, failures, retry_at, master, self_signing, user_signing,
		pinned_master, verified, was_verified, changed_at, sealed_trust`
	selectAllUsers = "SELECT " + userColumns + " FROM users WHERE account = $1"
	selectTracked  = "SELECT user_id FROM users WHERE account = $1 AND tracked = 1 ORDER BY user_id"
	selectOutdated = "SELECT user_id FROM users WHERE account = $1 AND outdated = 1 AND tracked = 1 ORDER BY user_id"
)

// userTrust returns the columns that decide whom the account trusts: who can write to the
// database cannot change them, nor swap those of two users.
func userTrust(u *User) []string {
	return []string{
		string(u.UserID), string(u.Master), string(u.SelfSigning), string(u.UserSigning),
		u.PinnedMaster, strconv.FormatBool(u.Verified), strconv.FormatBool(u.WasVerified),
	}
}

func (b *saver) users(all []User) {
	p := &sqlio.Args{}
	for _, u := range lastByKey(all, func(u *User) id.UserID { return u.UserID }) {
		p.ID(string(u.UserID))
		p.Flag(u.Tracked)
		p.Flag(u.Outdated)
		p.Num(int64(u.Failures))
		p.Time(u.RetryAt)
		p.Bytes(u.Master)
		p.Bytes(u.SelfSigning)
		p.Bytes(u.UserSigning)
		p.Text(u.PinnedMaster)
		p.Flag(u.Verified)
		p.Flag(u.WasVerified)
		p.Time(u.ChangedAt)
		p.Bytes(b.acct.columnSeal("users", userTrust(&u)))
	}
	b.listOfAccount("users", putUsers, p)
}

// markUsers changes a few columns of rows that something else may be writing as a whole.
func (b *saver) markUsers(outdated, left []id.UserID) {
	b.listOfAccount("mark outdated users", markOutdated, idArgs(outdated))
	b.listOfAccount("mark left users", markLeft, idArgs(left))
}

// Users reads what is known of users. Unknown users are not in the map.
func (db *DB) Users(ctx context.Context, acct *Account, want []id.UserID) (map[id.UserID]User, error) {
	all := make(map[id.UserID]User, len(want))
	err := db.list(ctx, selectUsers, []any{acct.ID}, idArgs(unique(want)), func(r *sql.Rows) error {
		u, mark, err := scanUser(r)
		if err != nil {
			return err
		}
		all[u.UserID] = u
		return acct.checkColumnSeal(mark, "users", userTrust(&u))
	})
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	return all, nil
}

func scanUser(r *sql.Rows) (u User, mark []byte, err error) {
	err = r.Scan(sqlio.TextInto(&u.UserID), sqlio.FlagInto(&u.Tracked), sqlio.FlagInto(&u.Outdated), &u.Failures, sqlio.TimeInto(&u.RetryAt),
		sqlio.JSONInto(&u.Master), sqlio.JSONInto(&u.SelfSigning), sqlio.JSONInto(&u.UserSigning),
		sqlio.TextInto(&u.PinnedMaster), sqlio.FlagInto(&u.Verified), sqlio.FlagInto(&u.WasVerified), sqlio.TimeInto(&u.ChangedAt), &mark)
	return u, mark, err
}

// TrackedUsers returns the users whose device lists the account follows (requirement 4.1).
func (db *DB) TrackedUsers(ctx context.Context, acct *Account) ([]id.UserID, error) {
	return db.userIDs(ctx, selectTracked, acct)
}

// OutdatedUsers returns the tracked users whose device lists have to be queried again.
func (db *DB) OutdatedUsers(ctx context.Context, acct *Account) ([]id.UserID, error) {
	return db.userIDs(ctx, selectOutdated, acct)
}

func (db *DB) userIDs(ctx context.Context, query string, acct *Account) ([]id.UserID, error) {
	var all []id.UserID
	err := db.reader.Query(ctx, query, []any{acct.ID}, func(r *sql.Rows) error {
		var u id.UserID
		err := r.Scan(sqlio.TextInto(&u))
		all = append(all, u)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return all, nil
}

const selectIdentified = "SELECT " + userColumns + " FROM users WHERE account = $1 AND user_id > $2 AND length(master) > 0 ORDER BY user_id LIMIT $3"

// UsersAfter reads users whose identity is known, those after one in the order of their IDs.
func (db *DB) UsersAfter(ctx context.Context, acct *Account, after id.UserID, limit int) ([]User, error) {
	var all []User
	err := db.reader.Query(ctx, selectIdentified, []any{acct.ID, sqlio.EncodeText(string(after)), int64(limit)}, func(r *sql.Rows) error {
		u, mark, err := scanUser(r)
		if err != nil {
			return err
		}
		all = append(all, u)
		return acct.checkColumnSeal(mark, "users", userTrust(&u))
	})
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	return all, nil
}
