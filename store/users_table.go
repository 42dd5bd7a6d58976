package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"maunium.net/go/mautrix/id"
)

var (
	putUsers = replaceRows("users", ofAccount, []string{"user_id"},
		[]string{
			"tracked", "outdated", "failures", "retry_at", "master", "self_signing", "user_signing",
			"pinned_master", "verified", "was_verified", "changed_at", "sealed_trust",
		})
	selectUsers  = whereIn("SELECT "+userColumns+" FROM users", ofAccount, "user_id", "")
	markOutdated = whereIn("UPDATE users SET outdated = 1, failures = 0, retry_at = 0", ofAccount, "user_id", " AND tracked = 1")
	markLeft     = whereIn("UPDATE users SET tracked = 0, outdated = 1, failures = 0, retry_at = 0", ofAccount, "user_id", "")
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
	p := &args{}
	for _, u := range lastByKey(all, func(u *User) id.UserID { return u.UserID }) {
		p.id(string(u.UserID))
		p.flag(u.Tracked)
		p.flag(u.Outdated)
		p.num(int64(u.Failures))
		p.time(u.RetryAt)
		p.bytes(u.Master)
		p.bytes(u.SelfSigning)
		p.bytes(u.UserSigning)
		p.text(u.PinnedMaster)
		p.flag(u.Verified)
		p.flag(u.WasVerified)
		p.time(u.ChangedAt)
		p.bytes(b.acct.columnSeal("users", userTrust(&u)))
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
	err = r.Scan(text(&u.UserID), flagColumn{&u.Tracked}, flagColumn{&u.Outdated}, &u.Failures, timeColumn{&u.RetryAt},
		jsonColumn{&u.Master}, jsonColumn{&u.SelfSigning}, jsonColumn{&u.UserSigning},
		text(&u.PinnedMaster), flagColumn{&u.Verified}, flagColumn{&u.WasVerified}, timeColumn{&u.ChangedAt}, &mark)
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
	err := db.reader.query(ctx, query, []any{acct.ID}, func(r *sql.Rows) error {
		var u id.UserID
		err := r.Scan(text(&u))
		all = append(all, u)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return all, nil
}
