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
}

// Settings returns the account's configuration.
func (a *Account) Settings() AccountSettings { return a.Env.Settings(a.User) }
