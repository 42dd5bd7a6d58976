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
	putUserDevices = sqlio.ReplaceRows("user_devices", sqlio.OfAccount, []string{"user_id", "device_id"},
		[]string{"ed25519", "curve25519", "keys", "signed", "trust_exception", "sealed_trust", "exception_at", "exception_by"})
	dropUserDevices   = sqlio.WherePair("DELETE FROM user_devices", sqlio.OfAccount, "user_id, device_id")
	selectUserDevices = sqlio.WhereIn("SELECT "+userDeviceColumns+" FROM user_devices", sqlio.OfAccount, "user_id", " ORDER BY user_id, device_id")
)

const (
	userDeviceColumns    = "user_id, device_id, ed25519, curve25519, keys, signed, trust_exception, sealed_trust, exception_at, exception_by"
	selectExceptions     = "SELECT " + userDeviceColumns + " FROM user_devices WHERE account = $1 AND trust_exception IS NOT NULL ORDER BY user_id, device_id"
	selectAllUserDevices = "SELECT " + userDeviceColumns + " FROM user_devices WHERE account = $1"
)

// deviceTrust is like userTrust, for a device.
func deviceTrust(d *UserDevice) []string {
	exception := ""
	if d.Override != nil {
		exception = strconv.FormatBool(*d.Override)
	}
	if !d.OverrideAt.IsZero() || d.OverrideBy != "" { // neither is known of those that were made earlier
		exception += fmt.Sprintf(" at %d by %q", d.OverrideAt.UnixMicro(), d.OverrideBy)
	}
	return []string{string(d.UserID), string(d.DeviceID), d.Ed25519, d.Curve25519, string(d.Keys), strconv.FormatBool(d.Signed), exception}
}

func (b *saver) userDevices(all, gone []UserDevice) {
	p := &sqlio.Args{}
	for _, d := range lastByKey(all, func(d *UserDevice) DeviceRef { return DeviceRef{d.UserID, d.DeviceID} }) {
		p.ID(string(d.UserID))
		p.ID(string(d.DeviceID))
		p.Text(d.Ed25519)
		p.Text(d.Curve25519)
		p.Bytes(d.Keys)
		p.Flag(d.Signed)
		if d.Override == nil {
			p.Vals = append(p.Vals, nil)
		} else {
			p.Flag(*d.Override)
		}
		p.Bytes(b.acct.columnSeal("user_devices", deviceTrust(&d)))
		p.Time(d.OverrideAt)
		p.Text(string(d.OverrideBy))
	}
	b.listOfAccount("devices of users", putUserDevices, p)
	b.distrusts(gone)
}

func (b *saver) deleteUserDevices(all []DeviceRef, gone []UserDevice) {
	p := &sqlio.Args{}
	for _, d := range all {
		p.Text(string(d.UserID))
		p.Text(string(d.DeviceID))
	}
	b.listOfAccount("delete devices of users", dropUserDevices, p)
	b.deleteDistrusts(gone)
}

// UserDevices reads the devices of users, each user's by device ID. Users without devices
// are not in the map.
func (db *DB) UserDevices(ctx context.Context, acct *Account, want []id.UserID) (map[id.UserID][]UserDevice, error) {
	all := make(map[id.UserID][]UserDevice, len(want))
	err := db.list(ctx, selectUserDevices, []any{acct.ID}, idArgs(unique(want)), func(r *sql.Rows) error {
		d, mark, err := scanUserDevice(r)
		if err != nil {
			return err
		}
		all[d.UserID] = append(all[d.UserID], d)
		return acct.checkColumnSeal(mark, "user_devices", deviceTrust(&d))
	})
	if err != nil {
		return nil, fmt.Errorf("read devices of users: %w", err)
	}
	return all, nil
}

func scanUserDevice(r *sql.Rows) (d UserDevice, mark []byte, err error) {
	var exception sql.NullInt64
	err = r.Scan(sqlio.TextInto(&d.UserID), sqlio.TextInto(&d.DeviceID), sqlio.TextInto(&d.Ed25519), sqlio.TextInto(&d.Curve25519), sqlio.JSONInto(&d.Keys),
		sqlio.FlagInto(&d.Signed), &exception, &mark, sqlio.TimeInto(&d.OverrideAt), sqlio.TextInto(&d.OverrideBy))
	if exception.Valid {
		trusted := exception.Int64 != 0
		d.Override = &trusted
	}
	return d, mark, err
}
