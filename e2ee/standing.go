package e2ee

import (
	"context"
	"fmt"
	"slices"

	"e2ee-proxy/store"
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

// cause is the reason of a warning about the user's own side, which lasts as long as the
// reason.
type cause struct {
	code, about, text string
}

// reviewWarnings raises and resolves the warnings about the user's own side by the current
// state. It makes no request.
func (d *Device) reviewWarnings(ctx context.Context) error {
	if !d.ownIdentity.identityChecked() {
		return nil
	}
	give, err := d.acct.review.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	own, err := d.acct.Tracker.Own(ctx)
	if err != nil {
		return fmt.Errorf("look at the own devices: %w", err)
	}
	rows, err := d.acct.allWarnings(ctx)
	if err != nil {
		return err
	}
	causes, known := d.causes(own)
	var changed []store.Warning
	for _, c := range causes {
		slot := warningSlot(c.code, c.about)
		i := slices.IndexFunc(rows, func(w store.Warning) bool { return w.ID == slot })
		if i < 0 || rows[i].Resolved {
			changed = append(changed, raisedWarning(c.code, c.about, d.acct.User, c.text, d.core.Env.Now()))
		}
	}
	for _, w := range rows {
		over := !w.Resolved && known[w.Code] && w.ID != "" && !w.Dismissed &&
			!slices.ContainsFunc(causes, func(c cause) bool { return warningSlot(c.code, c.about) == w.ID })
		if over {
			w.Resolved = true
			changed = append(changed, w)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	if err := d.core.Save(ctx, &store.Changes{Warnings: changed}); err != nil {
		return fmt.Errorf("store warnings: %w", err)
	}
	d.acct.warningsChanged()
	d.eng.alert(d.acct)
	return nil
}

// causes returns the current reasons for warnings, and the codes about which enough is
// known to resolve all other warnings.
func (d *Device) causes(own *trustcache.User) (all []cause, known map[string]bool) {
	storage, backup := d.acct.standing()
	known = map[string]bool{
		warnDeviceNotSigned: own.Known(), warnStorageMissing: storage != storageUnknown, warnBackupBroken: backup != backupUnknown,
	}
	if own.Known() && own.Current != "" {
		for i := range own.Devices {
			dev := &own.Devices[i]
			if dev.Signed || !dev.Usable() {
				continue
			}
			if here := d.eng.loaded(deviceKey{d.acct.User, dev.DeviceID}); here != nil && !here.ownIdentity.identityChecked() {
				known[warnDeviceNotSigned] = false // it is being set up
				continue
			}
			all = append(all, cause{warnDeviceNotSigned, dev.DeviceID.String(), fmt.Sprintf(textDeviceNotSigned, dev.DeviceID)})
		}
	}
	if own.Known() && own.Current == "" {
		all = append(all, cause{warnDeviceNotSigned, "", textNoIdentity})
	}
	switch storage {
	case storageMissing, storageIncomplete:
		all = append(all, cause{warnStorageMissing, "", textStorageMissing})
	case storageUnknown, storageComplete:
	}
	switch backup {
	case backupForeign:
		all = append(all, cause{warnBackupBroken, "", textBackupNotOurs})
	case backupDeleted:
		all = append(all, cause{warnBackupBroken, "", textBackupDeleted})
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
	a.mu.Lock()
	news := a.warnedSeq != a.alertedSeq
	a.alertedSeq = a.warnedSeq
	a.mu.Unlock()
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
