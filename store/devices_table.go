package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

const deviceColumns = `d.id, d.device_id, d.state, d.ed25519, d.curve25519, d.sealed_olm, d.keys_uploaded,
	d.fallback_changed_at, d.sync_position, d.sealed_token, d.meta, d.restored, d.dead_keys`

const (
	insertDevice = `INSERT INTO devices (account, device_id, state, ed25519, curve25519, sealed_olm, keys_uploaded,
		fallback_changed_at, sync_position, sealed_token, meta, restored, dead_keys)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
		ON CONFLICT (account, device_id) DO NOTHING RETURNING id`
	updateDevice = `UPDATE devices SET state = $3, ed25519 = $4, curve25519 = $5, sealed_olm = $6, keys_uploaded = $7,
		fallback_changed_at = $8, sync_position = $9, sealed_token = $10, meta = $11, restored = $12, dead_keys = $13
		WHERE account = $1 AND device_id = $2 AND id = $14`
	updatePosition = "UPDATE devices SET sync_position = $3 WHERE account = $1 AND id = $2"
	selectDevice   = "SELECT " + deviceColumns + " FROM devices d WHERE d.account = $1 AND d.device_id = $2"
	selectDevices  = "SELECT " + deviceColumns + " FROM devices d WHERE d.account = $1 ORDER BY d.id"
	selectOf       = `SELECT a.user_id, d.device_id FROM devices d JOIN accounts a ON a.id = d.account
		WHERE d.id = $2 AND d.account = $1`
	selectOwn = `SELECT d.id, a.user_id, d.device_id FROM devices d JOIN accounts a ON a.id = d.account
		WHERE d.id > $1 AND d.state = $2 AND LENGTH(d.sealed_token) > 0 ORDER BY d.id LIMIT 500`
	selectOwnHere = `SELECT d.id, a.user_id, d.device_id FROM devices d JOIN accounts a ON a.id = d.account
		WHERE d.id > $1 AND d.state = $2 AND LENGTH(d.sealed_token) > 0 AND a.owner = $3 ORDER BY d.id LIMIT 500`
	// takeNumbers reserves numbers that order the rows of a device and are never used again.
	takeNumbers = "UPDATE devices SET last_seq = last_seq + $3 WHERE account = $1 AND id = $2 RETURNING last_seq"
)

// The device ID identifies the row for sealing, because the row's number is not known
// before it is written.
func (a *Account) deviceArgs(d *Device) *sqlio.Args {
	p := &sqlio.Args{}
	p.Num(a.ID)
	p.ID(string(d.DeviceID))
	p.Num(int64(d.State))
	p.Text(d.Ed25519)
	p.Text(d.Curve25519)
	p.Bytes(a.seal(d.Olm.Reveal(), "devices", "sealed_olm", string(d.DeviceID)))
	p.Flag(d.KeysUploaded)
	p.Time(d.FallbackChangedAt)
	p.Text(d.SyncPosition)
	p.Bytes(a.seal([]byte(d.Token.Reveal()), "devices", "sealed_token", string(d.DeviceID)))
	p.Bytes(d.Meta)
	p.Flag(d.Restored)
	p.Num(int64(d.DeadKeys))
	return p
}

// deviceScan reads deviceColumns. device opens the sealed ones.
type deviceScan struct {
	d          Device
	olm, token []byte
}

func (s *deviceScan) targets() []any {
	d := &s.d
	return []any{
		&d.ID, sqlio.TextInto(&d.DeviceID), &d.State, sqlio.TextInto(&d.Ed25519), sqlio.TextInto(&d.Curve25519), &s.olm, sqlio.FlagInto(&d.KeysUploaded),
		sqlio.TimeInto(&d.FallbackChangedAt), sqlio.TextInto(&d.SyncPosition), &s.token, sqlio.JSONInto(&d.Meta), sqlio.FlagInto(&d.Restored), &d.DeadKeys,
	}
}

func (s *deviceScan) device(a *Account) (Device, error) {
	var err error
	if s.d.Olm, err = a.open(s.olm, "devices", "sealed_olm", string(s.d.DeviceID)); err != nil {
		return Device{}, err
	}
	token, err := a.open(s.token, "devices", "sealed_token", string(s.d.DeviceID))
	if err != nil {
		return Device{}, err
	}
	s.d.Token = secret.NewString(string(token.Reveal()))
	return s.d, nil
}

// Device returns a device, or [ErrNotFound].
func (db *DB) Device(ctx context.Context, acct *Account, device id.DeviceID) (Device, error) {
	all, err := db.readDevices(ctx, acct, selectDevice, acct.ID, sqlio.EncodeText(string(device)))
	if err == nil && len(all) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Device{}, fmt.Errorf("look up device: %w", err)
	}
	return all[0], nil
}

// Devices returns the devices of an account in the order in which they were made.
func (db *DB) Devices(ctx context.Context, acct *Account) ([]Device, error) {
	all, err := db.readDevices(ctx, acct, selectDevices, acct.ID)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return all, nil
}

func (db *DB) readDevices(ctx context.Context, acct *Account, query string, params ...any) ([]Device, error) {
	var all []Device
	err := db.reader.Query(ctx, query, params, func(r *sql.Rows) error {
		var s deviceScan
		if err := r.Scan(s.targets()...); err != nil {
			return err
		}
		d, err := s.device(acct)
		all = append(all, d)
		return err
	})
	return all, err
}

// DeviceOf returns whose device has a row, or [ErrNotFound].
func (db *DB) DeviceOf(ctx context.Context, account, device int64) (DeviceRef, error) {
	var all []DeviceRef
	err := db.reader.Query(ctx, selectOf, []any{account, device}, func(r *sql.Rows) error {
		var ref DeviceRef
		err := r.Scan(sqlio.TextInto(&ref.UserID), sqlio.TextInto(&ref.DeviceID))
		all = append(all, ref)
		return err
	})
	if err == nil && len(all) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return DeviceRef{}, fmt.Errorf("look up whose a device is: %w", err)
	}
	return all[0], nil
}

// OwnDevices iterates over the devices of all accounts whose keys are held here and that
// had a token when they were last used. It reads in batches: no connection is held while
// the loop's body runs. It stops at the first error.
func (db *DB) OwnDevices(ctx context.Context) iter.Seq2[DeviceRef, error] {
	return func(yield func(DeviceRef, error) bool) {
		for last := int64(0); ; {
			var some []DeviceRef
			text, params := selectOwn, []any{last, int64(DeviceOurs)}
			if db.cluster != nil {
				text, params = selectOwnHere, append(params, db.lease.token().holder)
			}
			err := db.reader.Query(ctx, text, params, func(r *sql.Rows) error {
				var ref DeviceRef
				err := r.Scan(&last, sqlio.TextInto(&ref.UserID), sqlio.TextInto(&ref.DeviceID))
				some = append(some, ref)
				return err
			})
			if err != nil {
				yield(DeviceRef{}, fmt.Errorf("list devices: %w", err))
				return
			}
			for _, ref := range some {
				if !yield(ref, nil) {
					return
				}
			}
			if len(some) == 0 {
				return
			}
		}
	}
}

// CreateDevice adds a device and returns it with its ID, or [ErrExists] if the account has
// a device with this device ID.
func (db *DB) CreateDevice(ctx context.Context, acct *Account, d Device) (Device, error) {
	p := acct.deviceArgs(&d)
	err := p.Err
	if err == nil {
		err = db.write(ctx, acct, func(ctx context.Context, t *sqlio.Tx) error {
			d.ID = 0
			err := t.Rows(ctx, insertDevice, p.Vals, func(r *sql.Rows) error { return r.Scan(&d.ID) })
			switch {
			case isForeignKey(err):
				return fmt.Errorf("account: %w", ErrNotFound)
			case err == nil && d.ID == 0:
				return ErrExists
			default:
				return err
			}
		})
	}
	if err != nil {
		return Device{}, fmt.Errorf("create device: %w", err)
	}
	return d, nil
}

// DeleteDevice deletes a device and everything that belongs to it, except that its signing
// key was made here, see [DB.Forgotten]. With the account's last device go its search
// index, its list of notifications and its control room.
func (db *DB) DeleteDevice(ctx context.Context, acct *Account, device int64) error {
	err := db.write(ctx, acct, func(ctx context.Context, t *sqlio.Tx) error {
		if err := db.rememberForgotten(ctx, t, acct, device); err != nil {
			return err
		}
		n, err := t.Do(ctx, "DELETE FROM devices WHERE account = $1 AND id = $2", acct.ID, device)
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		if err == nil {
			err = t.Run(ctx, dropUnsearched, acct.ID)
		}
		if err == nil {
			err = t.Run(ctx, dropUnnotified, acct.ID)
		}
		if err == nil {
			_, err = t.Do(ctx, dropUnseenRoom, acct.ID)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("delete device: %w", err)
	}
	return nil
}

// device adds the update of the device's row.
func (b *saver) device(d *Device, position *string) {
	if d != nil {
		if d.ID != b.dev {
			b.fail(errors.New("device is not the one that is saved"))
			return
		}
		p := b.acct.deviceArgs(d)
		p.Num(d.ID)
		b.ratchet = true
		b.step("device", p, b.execOne(updateDevice, p))
	}
	if position != nil {
		p := b.scope()
		p.Text(*position)
		b.step("sync position", p, b.execOne(updatePosition, p))
	}
}

// reserveNumbers reserves n numbers in the device's order and returns the one before the first.
func (b *saver) reserveNumbers(ctx context.Context, t *sqlio.Tx, n int) (int64, error) {
	last := int64(-1)
	err := t.Rows(ctx, takeNumbers, []any{b.acct.ID, b.dev, int64(n)}, func(r *sql.Rows) error { return r.Scan(&last) })
	if err == nil && last < 0 {
		err = ErrNotFound
	}
	return last - int64(n), err
}
