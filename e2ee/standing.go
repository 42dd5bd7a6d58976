package e2ee

import (
	"context"
	"fmt"

	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/trustcache"
)

// reviewWarnings raises and resolves the warnings about the user's own side by the current
// state. It makes no request.
func (d *Device) reviewWarnings(ctx context.Context) error {
	if !d.ownIdentity.IsChecked() {
		return nil
	}
	return d.acct.warnings.Review(ctx, d.core, func(ctx context.Context) ([]notices.Cause, map[string]bool, error) {
		own, err := d.acct.Tracker.Own(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("look at the own devices: %w", err)
		}
		all, known := d.causes(own)
		return all, known, nil
	})
}

// causes returns the current reasons for warnings, and the codes about which enough is
// known to resolve all other warnings.
func (d *Device) causes(own *trustcache.User) (all []notices.Cause, known map[string]bool) {
	storage, backup := d.acct.identity.Storage(), d.acct.backup.Standing()
	known = map[string]bool{
		notices.CodeDeviceNotSigned: own.Known(), notices.CodeStorageMissing: storage != ownidentity.StorageUnknown, notices.CodeBackupBroken: backup != keybackup.StandingUnknown,
	}
	if own.Known() && own.Current != "" {
		for i := range own.Devices {
			dev := &own.Devices[i]
			if dev.Signed || !dev.Usable() {
				continue
			}
			if here := d.eng.loaded(deviceKey{d.acct.User, dev.DeviceID}); here != nil && !here.ownIdentity.IsChecked() {
				known[notices.CodeDeviceNotSigned] = false // it is being set up
				continue
			}
			all = append(all, notices.NotSigned(dev.DeviceID))
		}
	}
	if own.Known() && own.Current == "" {
		all = append(all, notices.NoIdentity())
	}
	switch storage {
	case ownidentity.StorageMissing, ownidentity.StorageIncomplete:
		all = append(all, notices.NoStorage())
	case ownidentity.StorageUnknown, ownidentity.StorageComplete:
	}
	switch backup {
	case keybackup.StandingForeign:
		all = append(all, notices.BackupNotOurs())
	case keybackup.StandingDeleted:
		all = append(all, notices.BackupDeleted())
	case keybackup.StandingUnknown, keybackup.StandingOff, keybackup.StandingNone, keybackup.StandingSigned, keybackup.StandingOurs:
	}
	return all, known
}

// alert notifies the devices of an account that there is something to say at once. It takes
// no lock: the tracker calls it under its own.
func (e *Engine) alert(a *account) {
	select {
	case e.alerts <- a:
	default: // the queue is full; the next sync shows the warnings
	}
}

// alerted wakes the clients' waiting syncs if there is something for them, and requests
// maintenance of the devices if the warnings changed.
func (a *account) alerted(ctx context.Context) {
	news := a.warnings.News()
	for _, d := range a.proxied() {
		if !news {
			d.late.WakeIfReady(ctx)
			continue
		}
		d.core.Mu.Lock()
		d.clientState.wakeWaiting()
		d.kickLocked()
		d.core.Mu.Unlock()
	}
}
