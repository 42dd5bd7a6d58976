package e2ee

import (
	"context"
	"fmt"

	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/trustcache"
)

// storageStanding is the state of secret storage at the last check.
type storageStanding int

const (
	storageUnknown storageStanding = iota
	// storageMissing is an account without a usable default key.
	storageMissing
	// storageIncomplete lacks some of the secrets and its key is not here, or it has those
	// of another identity.
	storageIncomplete
	// storageComplete has the identity and, if there is a backup, its key (requirements
	// 1.4, 1.5).
	storageComplete
)

// backupStanding is the state of the key backup at the last check.
type backupStanding int

const (
	backupUnknown backupStanding = iota
	// backupOff means that the user has switched key backup off (requirement 16.7).
	backupOff
	// backupNone means that the account never had a backup here.
	backupNone
	// backupDeleted means that our backup was deleted without being switched off.
	backupDeleted
	// backupForeign is a backup that is not trusted: nothing is written to it.
	backupForeign
	// backupSigned is signed by the account's identity: keys are written to it, but its
	// private key is not here (requirement 16.1).
	backupSigned
	// backupOurs is a backup whose private key is here.
	backupOurs
)

func (a *account) setStorageStanding(s storageStanding) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.storage = s
}

func (a *account) setBackupStanding(s backupStanding) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.backup, a.backupTo = s, nil
	a.backupSeq++
}

func (a *account) standing() (storageStanding, backupStanding) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.storage, a.backup
}

// reviewWarnings raises and resolves the warnings about the user's own side by the current
// state. It makes no request.
func (d *Device) reviewWarnings(ctx context.Context) error {
	if !d.ownIdentity.identityChecked() {
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
	storage, backup := d.acct.standing()
	known = map[string]bool{
		notices.CodeDeviceNotSigned: own.Known(), notices.CodeStorageMissing: storage != storageUnknown, notices.CodeBackupBroken: backup != backupUnknown,
	}
	if own.Known() && own.Current != "" {
		for i := range own.Devices {
			dev := &own.Devices[i]
			if dev.Signed || !dev.Usable() {
				continue
			}
			if here := d.eng.loaded(deviceKey{d.acct.User, dev.DeviceID}); here != nil && !here.ownIdentity.identityChecked() {
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
	case storageMissing, storageIncomplete:
		all = append(all, notices.NoStorage())
	case storageUnknown, storageComplete:
	}
	switch backup {
	case backupForeign:
		all = append(all, notices.BackupNotOurs())
	case backupDeleted:
		all = append(all, notices.BackupDeleted())
	case backupUnknown, backupOff, backupNone, backupSigned, backupOurs:
	}
	return all, known
}

func (o *ownIdentity) identityChecked() bool {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	return o.checked
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
			d.megolmState.wakeIfReady(ctx)
			continue
		}
		d.core.Mu.Lock()
		d.clientState.wakeWaiting()
		d.kickLocked()
		d.core.Mu.Unlock()
	}
}
