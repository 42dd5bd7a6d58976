package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

// What administrators are shown of all accounts, whichever process works for them: a page is a
// query or two, and nothing that is sealed is opened. Whoever can write to the database can change what
// is shown, as far as it is not in the audit log.

// AccountOverview is one account.
type AccountOverview struct {
	ID        int64 // by which pages are ordered
	UserID    id.UserID
	CreatedAt time.Time
	// Proxied are the devices whose keys are held here, Others the rest of those that have been seen.
	Proxied, Others int
	// Warnings are those that wait for an answer, Exceptions the devices with one.
	Warnings, Exceptions int
	// Own has the account's own identity, as far as it is known.
	Own User
}

const selectOverview = `SELECT a.id, a.user_id, a.created_at,
	(SELECT COUNT(*) FROM devices d WHERE d.account = a.id AND d.state = $3),
	(SELECT COUNT(*) FROM devices d WHERE d.account = a.id AND d.state <> $3),
	(SELECT COUNT(*) FROM warnings w WHERE w.account = a.id AND w.dismissed = 0 AND w.resolved = 0),
	(SELECT COUNT(*) FROM user_devices x WHERE x.account = a.id AND x.trust_exception IS NOT NULL)
		+ (SELECT COUNT(*) FROM distrusts x WHERE x.account = a.id),
	u.master, COALESCE(u.pinned_master, ''), COALESCE(u.verified, 0), COALESCE(u.was_verified, 0)
	FROM accounts a LEFT JOIN users u ON u.account = a.id AND u.user_id = a.user_id
	WHERE a.id > $1 ORDER BY a.id LIMIT $2`

// AccountsAfter returns accounts in the order in which they were made, those after one.
func (db *DB) AccountsAfter(ctx context.Context, after int64, limit int) ([]AccountOverview, error) {
	var all []AccountOverview
	err := db.reader.Query(ctx, selectOverview, []any{after, int64(limit), int64(DeviceOurs)}, func(r *sql.Rows) error {
		var a AccountOverview
		var master []byte
		err := r.Scan(&a.ID, sqlio.TextInto(&a.UserID), sqlio.TimeInto(&a.CreatedAt), &a.Proxied, &a.Others, &a.Warnings, &a.Exceptions,
			&master, sqlio.TextInto(&a.Own.PinnedMaster), sqlio.FlagInto(&a.Own.Verified), sqlio.FlagInto(&a.Own.WasVerified))
		a.Own.UserID, a.Own.Master = a.UserID, master
		all = append(all, a)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	return all, nil
}

// ExceptionOverview is an exception that an account made for a device.
type ExceptionOverview struct {
	Account  int64 // its row
	Owner    id.UserID
	UserID   id.UserID
	DeviceID id.DeviceID
	Trusted  bool
	// Gone is a device that the homeserver does not show; several with the same ID are one.
	Gone bool
	At   time.Time   // zero if it is not known
	By   id.DeviceID // of the account
}

const (
	selectAllExceptions = `SELECT a.id, a.user_id, x.user_id, x.device_id, x.trust_exception, 0, x.exception_at, x.exception_by
	FROM user_devices x JOIN accounts a ON a.id = x.account
	WHERE x.trust_exception IS NOT NULL AND (x.account, x.user_id, x.device_id) > ($1, $2, $3)
	ORDER BY x.account, x.user_id, x.device_id LIMIT $4`
	selectGoneExceptions = `SELECT x.account, (SELECT a.user_id FROM accounts a WHERE a.id = x.account),
	x.user_id, x.device_id, 0, 1, MAX(x.exception_at), MAX(x.exception_by)
	FROM distrusts x WHERE (x.account, x.user_id, x.device_id) > ($1, $2, $3)
	GROUP BY x.account, x.user_id, x.device_id ORDER BY x.account, x.user_id, x.device_id LIMIT $4`
)

// ExceptionsAfter returns the exceptions of all accounts, those after one: one more than limit where
// the last two are for devices with the same ID, of which one is gone.
func (db *DB) ExceptionsAfter(ctx context.Context, account int64, user id.UserID, device id.DeviceID, limit int) ([]ExceptionOverview, error) {
	var all []ExceptionOverview
	after := []any{account, sqlio.EncodeText(string(user)), sqlio.EncodeText(string(device)), int64(limit)}
	for _, query := range []string{selectAllExceptions, selectGoneExceptions} {
		err := db.reader.Query(ctx, query, after, func(r *sql.Rows) error {
			var x ExceptionOverview
			err := r.Scan(&x.Account, sqlio.TextInto(&x.Owner), sqlio.TextInto(&x.UserID), sqlio.TextInto(&x.DeviceID), sqlio.FlagInto(&x.Trusted),
				sqlio.FlagInto(&x.Gone), sqlio.TimeInto(&x.At), sqlio.TextInto(&x.By))
			all = append(all, x)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read exceptions of all accounts: %w", err)
		}
	}
	place := func(a, b ExceptionOverview) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(sqlio.EncodeText(string(a.UserID)), sqlio.EncodeText(string(b.UserID))),
			cmp.Compare(sqlio.EncodeText(string(a.DeviceID)), sqlio.EncodeText(string(b.DeviceID))))
	}
	slices.SortStableFunc(all, place)
	if len(all) <= limit {
		return all, nil
	}
	if limit > 0 && place(all[limit-1], all[limit]) == 0 {
		limit++
	}
	return all[:limit], nil
}

// WarningOverview is a warning that waits for an answer of its account.
type WarningOverview struct {
	Account int64 // its row
	Owner   id.UserID
	ID      string
	Code    string
	UserID  id.UserID
	Since   time.Time
}

const selectAllWarnings = `SELECT a.id, a.user_id, w.id, w.code, w.user_id, w.since
	FROM warnings w JOIN accounts a ON a.id = w.account
	WHERE w.dismissed = 0 AND w.resolved = 0 AND (w.account, w.id) > ($1, $2)
	ORDER BY w.account, w.id LIMIT $3`

// WarningsAfter returns the warnings of all accounts that wait for an answer, those after one.
func (db *DB) WarningsAfter(ctx context.Context, account int64, warning string, limit int) ([]WarningOverview, error) {
	var all []WarningOverview
	err := db.reader.Query(ctx, selectAllWarnings, []any{account, sqlio.EncodeText(warning), int64(limit)}, func(r *sql.Rows) error {
		var w WarningOverview
		err := r.Scan(&w.Account, sqlio.TextInto(&w.Owner), sqlio.TextInto(&w.ID), sqlio.TextInto(&w.Code), sqlio.TextInto(&w.UserID), sqlio.TimeInto(&w.Since))
		all = append(all, w)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read warnings of all accounts: %w", err)
	}
	return all, nil
}
