package core

import (
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Account is what identifies an account, with what is known of other users.
type Account struct {
	Env     *Env
	User    id.UserID
	Row     *store.Account
	Tracker *trustcache.Tracker
	// Tenure names the time for which the account is in memory. No other has the number: what
	// is cached under it is never found again once somebody else may have written.
	Tenure uint64
}

// Settings returns the account's configuration.
func (a *Account) Settings() AccountSettings { return a.Env.Settings(a.User) }
