package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"maunium.net/go/mautrix/id"
)

var (
	putUserDevices = replaceRows("user_devices", ofAccount, []string{"user_id", "device_id"},
		[]string{"ed25519", "curve25519", "keys", "signed", "trust_exception", "sealed_trust"})
	dropUserDevices   = wherePair("DELETE FROM user_devices", ofAccount, "user_id, device_id")
	selectUserDevices = whereIn("SELECT "+userDeviceColumns+" FROM user_devices", ofAccount, "user_id", " ORDER BY user_id, device_id")
)

const (
	userDeviceColumns    = "user_id, device_id, ed25519, curve25519, keys, signed, trust_exception, sealed_trust"
	selectAllUserDevices = "SELECT " + userDeviceColumns + " FROM user_devices WHERE account = $1"
)

// deviceTrust is like userTrust, for a device.
func deviceTrust(d *UserDevice) []string {
	exception := ""
	if d.Override != nil {
		exception = strconv.FormatBool(*d.Override)
	}
	return []string{string(d.UserID), string(d.DeviceID), d.Ed25519, d.Curve25519, string(d.Keys), strconv.FormatBool(d.Signed), exception}
}

func (b *saver) userDevices(all []UserDevice) {
	p := &args{}
	for _, d := range lastByKey(all, func(d *UserDevice) DeviceRef { return DeviceRef{d.UserID, d.DeviceID} }) {
		p.id(string(d.UserID))
		p.id(string(d.DeviceID))
		p.text(d.Ed25519)
		p.text(d.Curve25519)
		p.bytes(d.Keys)
		p.flag(d.Signed)
		if d.Override == nil {
			p.vals = append(p.vals, nil)
		} else {
			p.flag(*d.Override)
		}
		p.bytes(b.acct.columnSeal("user_devices", deviceTrust(&d)))
	}
	b.listOfAccount("devices of users", putUserDevices, p)
}

func (b *saver) deleteUserDevices(all []DeviceRef) {
	p := &args{}
	for _, d := range all {
		p.text(string(d.UserID))
		p.text(string(d.DeviceID))
	}
	b.listOfAccount("delete devices of users", dropUserDevices, p)
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
	err = r.Scan(text(&d.UserID), text(&d.DeviceID), text(&d.Ed25519), text(&d.Curve25519), jsonColumn{&d.Keys},
		flagColumn{&d.Signed}, &exception, &mark)
	if exception.Valid {
		trusted := exception.Int64 != 0
		d.Override = &trusted
	}
	return d, mark, err
}
