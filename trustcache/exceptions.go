package trustcache

import (
	"context"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/audit"
	"e2ee-proxy/store"
)

// An exception that trusts a device ends with the device. One that distrusts it does not: a
// homeserver that leaves the device out of one answer would undo it. While the device is not shown it
// is among User.Gone, and when it is shown again, under its ID and with its keys, it is distrusted
// from the start. A device with other keys is another one, and does not end it either.

// maxGone bounds how many distrusted devices of one user are kept that are not shown; the account's
// owner has distrusted each of them while it was shown. The oldest are given up.
const maxGone = 500

// SetOverride sets or removes the exception for one device. Removing it removes what was said
// against devices with that ID that are not shown any more, too. Error: ErrNoDevice.
func (t *Tracker) SetOverride(ctx context.Context, user id.UserID, device id.DeviceID, o Override) error {
	return t.change(ctx, []id.UserID{user}, func(w *rowsTx) error {
		e := w.get(user)
		devices, gone := slices.Clone(e.user.Devices), e.user.Gone
		named := func(d Device) bool { return d.DeviceID == device }
		switch was := slices.ContainsFunc(gone, named); {
		case e.user.Device(device) == nil && (!was || o == OverrideTrusted):
			return ErrNoDevice
		case e.user.Device(device) == nil && o == OverrideDistrusted:
			return nil // it is
		case was && o == OverrideNone:
			gone = w.takeBack(e.user, named)
		}
		for i := range devices {
			if devices[i].DeviceID == device {
				devices[i].Override, devices[i].Made = o, Made{w.t.opts.Now(), w.decider}
				if o == OverrideNone {
					devices[i].Made = Made{}
				}
				w.ch.UserDevices = append(w.ch.UserDevices, devices[i].stored())
				w.ch.Audit = append(w.ch.Audit, w.overrideRecord(e.user, &devices[i]))
			}
		}
		w.events = append(w.events, Event{
			Kind: EventOverride, UserID: user, Own: e.user.Own, At: t.opts.Now(),
			Added: []id.DeviceID{device}, Override: o,
		})
		w.set(newEntry(t.account.UserID, e.row, e.user.Identity, devices, gone...).askedAt(e.asked))
		return nil
	})
}

// takeBack removes distrusts of devices that are not shown, and returns the others.
func (w *rowsTx) takeBack(u *User, which func(Device) bool) []Device {
	return slices.DeleteFunc(slices.Clone(u.Gone), func(d Device) bool {
		if !which(d) {
			return false
		}
		w.ch.DeleteDistrusts = append(w.ch.DeleteDistrusts, d.stored())
		d.Override = OverrideNone
		w.ch.Audit = append(w.ch.Audit, w.overrideRecord(u, &d))
		return true
	})
}

// overrideRecord returns what the audit log is told of an exception.
func (w *rowsTx) overrideRecord(u *User, d *Device) *audit.Record {
	note := map[Override]string{OverrideNone: "removed", OverrideTrusted: "trusted", OverrideDistrusted: "distrusted"}[d.Override]
	return &audit.Record{
		At: w.t.opts.Now(), Kind: audit.KindOverride, Account: w.t.account.UserID.String(), Device: w.decider.String(), Note: note,
		Users: []audit.User{{
			ID: u.UserID.String(), Pin: u.State().String(), Master: u.Current.String(), SelfSigning: u.SelfSigning.String(),
			Devices: []audit.Recipient{{
				Device: d.DeviceID.String(), Ed25519: d.Ed25519.String(), Curve25519: d.Curve25519.String(), Outcome: audit.Changed, Rule: note,
			}},
		}},
	}
}

// Overrides returns the devices with an exception, for the status of the control API. Those that are
// not shown have nothing but their names and keys.
func (t *Tracker) Overrides(ctx context.Context) ([]Device, error) {
	rows, err := t.store.DeviceExceptions(ctx, t.account)
	if err != nil {
		return nil, fmt.Errorf("load exceptions: %w", err)
	}
	var out []Device
	for _, row := range rows {
		if d := listed(row); d.Override != OverrideNone {
			out = append(out, d)
		}
	}
	return out, nil
}

// listed returns a device as its row says, without a look at its keys.
func listed(row store.UserDevice) Device {
	return Device{
		UserID: row.UserID, DeviceID: row.DeviceID, Ed25519: id.Ed25519(row.Ed25519), Curve25519: id.Curve25519(row.Curve25519),
		Raw: row.Keys, Signed: row.Signed, Override: overrideOf(row.Override), Made: Made{row.OverrideAt, row.OverrideBy},
	}
}

// giveExceptions gives the devices of an answer the exceptions that there are for them.
func (u *User) giveExceptions(devices []Device) {
	for i := range devices {
		d := &devices[i]
		d.Override, d.Made = OverrideNone, Made{}
		old := u.Device(d.DeviceID)
		if old == nil {
			if at := slices.IndexFunc(u.Gone, d.is); at >= 0 {
				old = &u.Gone[at]
			}
		}
		if old != nil {
			d.Override, d.Made = old.Override, old.Made
		}
	}
}

// is reports whether two devices are one: their names and their keys.
func (d *Device) is(other Device) bool {
	return d.UserID == other.UserID && d.DeviceID == other.DeviceID && d.Ed25519 == other.Ed25519 && d.Curve25519 == other.Curve25519
}

// exceptionFor returns the exception for the device that an owner is, which is nil when it is not
// shown: what was said against it counts all the same.
func (u *User) exceptionFor(o Owner, shown *Device) Override {
	switch {
	case shown != nil:
		return shown.Override
	case u == nil || u.UserID != o.UserID:
		return OverrideNone
	}
	for i := range u.Gone {
		if d := &u.Gone[i]; d.Curve25519 == o.Curve25519 && d.Ed25519 == o.Ed25519 {
			return OverrideDistrusted
		}
	}
	return OverrideNone
}

// distrusts returns the distrusted devices that are not shown any more when devices take the place
// of those that were known, and stores what changes of them.
func (w *rowsTx) distrusts(before *User, devices []Device) []Device {
	shown := func(d Device) bool { return slices.ContainsFunc(devices, d.is) }
	var gone []Device
	for _, d := range before.Gone {
		if shown(d) {
			w.ch.DeleteDistrusts = append(w.ch.DeleteDistrusts, d.stored())
		} else {
			gone = append(gone, d)
		}
	}
	had := len(gone)
	for i := range before.Devices {
		d := before.Devices[i]
		if d.Override == OverrideDistrusted && !shown(d) {
			gone = append(gone, Device{
				UserID: d.UserID, DeviceID: d.DeviceID, Ed25519: d.Ed25519, Curve25519: d.Curve25519, Override: d.Override, Made: d.Made,
			})
		}
	}
	if len(gone) > maxGone {
		slices.SortStableFunc(gone, func(a, b Device) int { return b.Made.At.Compare(a.Made.At) })
		for _, d := range gone[maxGone:] {
			w.ch.DeleteDistrusts = append(w.ch.DeleteDistrusts, d.stored())
		}
		gone, had = gone[:maxGone], 0 // in another order: which of them are stored is not known
	}
	for i := range gone[had:] {
		w.ch.Distrusts = append(w.ch.Distrusts, gone[had+i].stored())
	}
	return gone
}
