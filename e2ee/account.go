package e2ee

import (
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/rollout"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// account is what the devices of a user share: what is known of other users, the warnings,
// the user's own identity and the backup.
type account struct {
	*core.Account
	eng      *Engine
	warnings *notices.Account
	identity *ownidentity.Account
	backup   *ownbackup.Account
	rollout  *rollout.Account
}

func newAccount(e *Engine, row *store.Account) *account {
	a := &account{
		Account: &core.Account{Env: e.env, User: row.UserID, Row: row}, eng: e,
		rollout: rollout.New(e.env),
	}
	a.warnings = notices.NewAccount(a.Account, func() { e.alert(a) })
	a.identity, a.backup = ownidentity.NewAccount(a.Account), ownbackup.NewAccount(a.Account)
	a.Tracker = trustcache.NewTracker(e.env.Store, row, trustcache.Options{
		Cache: e.users, Now: e.env.Now,
		AcknowledgeUnverified: func() bool { return e.env.Settings(row.UserID).AcknowledgeUnverified },
		Observe:               a.observe,
	})
	return a
}

// proxied returns the account's devices whose keys are held here.
func (a *account) proxied() []*Device {
	a.eng.mu.Lock()
	defer a.eng.mu.Unlock()
	var devices []*Device
	for _, d := range a.eng.devices {
		if d.acct == a && d.core.Mode == core.ModeProxied {
			devices = append(devices, d)
		}
	}
	return devices
}
