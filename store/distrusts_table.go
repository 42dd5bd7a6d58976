package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

// A device that the homeserver does not show has no row of its own, and an exception that trusts it
// ends with that row. One that distrusts it must not: it is kept here, and holds for the same keys.

var (
	putDistrusts = sqlio.ReplaceRows("distrusts", sqlio.OfAccount, []string{"user_id", "device_id", "ed25519", "curve25519"},
		[]string{"sealed_trust", "exception_at", "exception_by"})
	dropDistrusts = &sqlio.ListStatement{
		Head: "DELETE FROM distrusts WHERE account = $1 AND (user_id, device_id, ed25519, curve25519) IN (VALUES ",
		Item: "(CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT))", Tail: ")", Fixed: 1, Width: 4, Pad: true,
	}
	selectDistrusts = sqlio.WhereIn("SELECT "+distrustColumns+" FROM distrusts", sqlio.OfAccount, "user_id",
		" ORDER BY user_id, device_id, ed25519, curve25519")
)

const (
	distrustColumns    = "user_id, device_id, ed25519, curve25519, sealed_trust, exception_at, exception_by"
	selectAllDistrusts = "SELECT " + distrustColumns + " FROM distrusts WHERE account = $1 ORDER BY user_id, device_id, ed25519, curve25519"
)

func (b *saver) distrusts(all []UserDevice) {
	p := &sqlio.Args{}
	key := func(d *UserDevice) [4]string {
		return [4]string{string(d.UserID), string(d.DeviceID), d.Ed25519, d.Curve25519}
	}
	for _, d := range lastByKey(all, key) {
		d = distrust(d)
		for _, part := range key(&d) {
			p.ID(part)
		}
		p.Bytes(b.acct.columnSeal("distrusts", deviceTrust(&d)))
		p.Time(d.OverrideAt)
		p.Text(string(d.OverrideBy))
	}
	b.listOfAccount("distrusts", putDistrusts, p)
}

// distrust returns what a row says of a device.
func distrust(d UserDevice) UserDevice {
	d.Keys, d.Signed, d.Override = nil, false, new(false)
	return d
}

func (b *saver) deleteDistrusts(all []UserDevice) {
	p := &sqlio.Args{}
	for _, d := range all {
		p.Text(string(d.UserID))
		p.Text(string(d.DeviceID))
		p.Text(d.Ed25519)
		p.Text(d.Curve25519)
	}
	b.listOfAccount("delete distrusts", dropDistrusts, p)
}

// Distrusts reads the distrusted devices of users that the homeserver does not show. Users without
// any are not in the map.
func (db *DB) Distrusts(ctx context.Context, acct *Account, want []id.UserID) (map[id.UserID][]UserDevice, error) {
	all := make(map[id.UserID][]UserDevice)
	err := db.list(ctx, selectDistrusts, []any{acct.ID}, idArgs(unique(want)), func(r *sql.Rows) error {
		d, err := acct.scanDistrust(r)
		all[d.UserID] = append(all[d.UserID], d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read distrusts: %w", err)
	}
	return all, nil
}

func (a *Account) scanDistrust(r *sql.Rows) (UserDevice, error) {
	var d UserDevice
	var mark []byte
	if err := r.Scan(sqlio.TextInto(&d.UserID), sqlio.TextInto(&d.DeviceID), sqlio.TextInto(&d.Ed25519), sqlio.TextInto(&d.Curve25519),
		&mark, sqlio.TimeInto(&d.OverrideAt), sqlio.TextInto(&d.OverrideBy)); err != nil {
		return UserDevice{}, err
	}
	d = distrust(d)
	return d, a.checkColumnSeal(mark, "distrusts", deviceTrust(&d))
}

// DeviceExceptions reads the devices for which the account made an exception, by user and
// device. Of those that the homeserver does not show there are no Keys.
func (db *DB) DeviceExceptions(ctx context.Context, acct *Account) ([]UserDevice, error) {
	var all []UserDevice
	err := db.reader.Query(ctx, selectExceptions, []any{acct.ID}, func(r *sql.Rows) error {
		d, mark, err := scanUserDevice(r)
		if err != nil {
			return err
		}
		all = append(all, d)
		return acct.checkColumnSeal(mark, "user_devices", deviceTrust(&d))
	})
	if err != nil {
		return nil, fmt.Errorf("read exceptions: %w", err)
	}
	err = db.reader.Query(ctx, selectAllDistrusts, []any{acct.ID}, func(r *sql.Rows) error {
		d, err := acct.scanDistrust(r)
		all = append(all, d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read exceptions: %w", err)
	}
	slices.SortStableFunc(all, func(a, b UserDevice) int {
		return cmp.Or(cmp.Compare(a.UserID, b.UserID), cmp.Compare(a.DeviceID, b.DeviceID))
	})
	return all, nil
}
