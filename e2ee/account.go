package e2ee

import (
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// account is what the devices of a user share: what is known of other users, and the user's
// own identity.
type account struct {
	*core.Account
	eng *Engine

	// boot lets one device at a time set up the identity.
	boot locks.Turns[struct{}]
	// review lets one device at a time update the warnings.
	review locks.Turns[struct{}]

	rollout rollout
	// password is from a login through the proxy, see password.go.
	password loginPassword

	mu locks.Mutex
	// warned are the account's warnings, if warnedRead; warnedSeq counts their changes.
	warned     []store.Warning
	warnedRead bool
	warnedSeq  int
	alertedSeq int // warnedSeq when the devices were last told
	// shared are the encrypted rooms shared with users whom warnings are about.
	shared map[id.UserID][]id.RoomID
	// noticeRoom is the room that shows warnings about the user's own side; empty before
	// one is chosen.
	noticeRoom id.RoomID
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
		review:   locks.Turns[struct{}]{Order: order, Rank: locks.RankReview},
		rollout:  rollout{mu: locks.Mutex{Order: order, Rank: locks.RankLeaf}, since: e.env.Now()},
		password: loginPassword{mu: locks.Mutex{Order: order, Rank: locks.RankLeaf}},
	}
	a.Tracker = trustcache.NewTracker(e.env.Store, row, trustcache.Options{
		Cache: e.users, Now: e.env.Now,
		AcknowledgeUnverified: func() bool { return e.env.Settings(row.UserID).AcknowledgeUnverified },
		Observe:               a.observe,
	})
	return a
}
