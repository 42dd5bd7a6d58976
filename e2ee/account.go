package e2ee

import (
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// account is what the devices of a user share: what is known of other users, and the user's
// own identity.
type account struct {
	*core.Account
	eng      *Engine
	warnings *notices.Account

	// boot lets one device at a time set up the identity.
	boot    locks.Turns[struct{}]
	rollout rollout
	// password is from a login through the proxy, see password.go.
	password loginPassword

	mu locks.Mutex
	// tried is a hash of the last failed attempt to recover the identity without a person.
	tried [32]byte
	// storage and backup are the states of secret storage and key backup at the last check.
	storage storageStanding
	backup  backupStanding
	// backupTo is the backup found last; backupSeq counts requests to check it again.
	backupTo  *keybackup.Target
	backupSeq int
}

func newAccount(e *Engine, row *store.Account) *account {
	order := e.opts.locks
	a := &account{
		Account: &core.Account{Env: e.env, User: row.UserID, Row: row}, eng: e,
		mu:       locks.Mutex{Order: order, Rank: locks.RankAccount},
		boot:     locks.Turns[struct{}]{Order: order, Rank: locks.RankBoot},
		rollout:  rollout{mu: locks.Mutex{Order: order, Rank: locks.RankLeaf}, since: e.env.Now()},
		password: loginPassword{mu: locks.Mutex{Order: order, Rank: locks.RankLeaf}},
	}
	a.warnings = notices.NewAccount(a.Account, func() { e.alert(a) })
	a.Tracker = trustcache.NewTracker(e.env.Store, row, trustcache.Options{
		Cache: e.users, Now: e.env.Now,
		AcknowledgeUnverified: func() bool { return e.env.Settings(row.UserID).AcknowledgeUnverified },
		Observe:               a.observe,
	})
	return a
}
