package e2ee

import (
	"context"

	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/ownidentity"
)

// A device is the host of its ownidentity.Identity and of its ownbackup.Backup.
var (
	_ ownidentity.Host = host{}
	_ ownbackup.Host   = host{}
)

// SetBackupStanding implements ownidentity.Host.
func (h host) SetBackupStanding(s keybackup.Standing) { h.Device.acct.backup.SetStanding(s) }

// ForgetBackup implements ownidentity.Host.
func (h host) ForgetBackup() { h.Device.acct.backup.Forget() }

// TellRecoveredAlone implements ownidentity.Host.
func (h host) TellRecoveredAlone(ctx context.Context) error { return h.tellRecoveredAlone(ctx) }
