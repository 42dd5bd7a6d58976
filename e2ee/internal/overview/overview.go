package overview

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/rollout"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// ErrNoAccount means that the proxy has no such account.
var ErrNoAccount = errors.New("the proxy has no such account")

// Overview is what administrators see. Its methods are told who asks, for the audit log.
type Overview struct {
	env  *core.Env
	host Host
}

// Host is what an Overview needs of the engine.
type Host interface {
	// Tokens returns the access tokens of a device in memory; none for one that is not there.
	Tokens(user id.UserID, device id.DeviceID, row int64) []secret.String
	// Forget deletes devices whose sessions have ended, with their keys.
	Forget(ctx context.Context, user id.UserID, devices ...id.DeviceID) error
	// Rollouts returns, of the accounts in memory, what enforcing the policy would have done.
	Rollouts() map[id.UserID]*rollout.Status
}

// New returns an Overview.
func New(env *core.Env, host Host) *Overview { return &Overview{env, host} }

// Account is one account.
type Account struct {
	UserID    id.UserID `json:"user_id"`
	FirstSeen time.Time `json:"first_seen"`
	// Identity is the state of the account's own digital identity: none, pinned, changed,
	// verified or verification_lost.
	Identity string `json:"identity"`
	// Devices are those whose keys the proxy holds, OtherDevices the others that have used it.
	Devices      int `json:"devices"`
	OtherDevices int `json:"other_devices"`
	Warnings     int `json:"warnings"`
	Exceptions   int `json:"exceptions"`
}

// Accounts is a page of accounts.
type Accounts struct {
	Accounts []Account `json:"accounts"`
	Next     string    `json:"next,omitempty"`
}

// Accounts returns accounts in the order in which they were first seen.
func (o *Overview) Accounts(ctx context.Context, who string, page Page) (*Accounts, error) {
	if err := o.tell(ctx, who, "", "accounts"); err != nil {
		return nil, err
	}
	rows, err := o.env.Store.AccountsAfter(ctx, page.row, page.Limit)
	if err != nil {
		return nil, err
	}
	out := &Accounts{Accounts: make([]Account, len(rows))}
	for i := range rows {
		r := &rows[i]
		out.Accounts[i] = Account{
			UserID: r.UserID, FirstSeen: r.CreatedAt, Identity: trustcache.StateOf(r.Own).String(),
			Devices: r.Proxied, OtherDevices: r.Others, Warnings: r.Warnings, Exceptions: r.Exceptions,
		}
	}
	if len(rows) == page.Limit {
		out.Next = cursor{Row: rows[len(rows)-1].ID}.String()
	}
	return out, nil
}

// Detail is one account with its devices.
type Detail struct {
	UserID   id.UserID `json:"user_id"`
	Identity string    `json:"identity"`
	Devices  []Device  `json:"devices"`
}

// Device is a device of an account.
type Device struct {
	DeviceID id.DeviceID `json:"device_id"`
	// Keys says who has its keys: proxy, client, or lost.
	Keys string `json:"keys"`
	// Signed reports whether the account's identity has confirmed it; nil if it is not known.
	Signed *bool `json:"signed"`
	// Here reports whether this process works for it at the moment.
	Here bool `json:"in_memory_of_this_process"`
}

// Account returns one account with the devices that have used the proxy.
func (o *Overview) Account(ctx context.Context, who string, user id.UserID) (*Detail, error) {
	row, err := o.lookUp(ctx, user)
	if err != nil {
		return nil, err
	}
	if err := o.tell(ctx, who, user, "account"); err != nil {
		return nil, err
	}
	devices, err := o.env.Store.Devices(ctx, row)
	if err != nil {
		return nil, err
	}
	own, err := o.env.Store.Users(ctx, row, []id.UserID{user})
	if err != nil {
		return nil, err
	}
	shown, err := o.env.Store.UserDevices(ctx, row, []id.UserID{user})
	if err != nil {
		return nil, err
	}
	out := &Detail{UserID: user, Identity: trustcache.StateOf(own[user]).String(), Devices: make([]Device, len(devices))}
	for i := range devices {
		d := &devices[i]
		one := Device{DeviceID: d.DeviceID, Keys: holder(d.State), Here: len(o.host.Tokens(user, d.DeviceID, d.ID)) > 0}
		if at := slices.IndexFunc(shown[user], func(s store.UserDevice) bool { return s.DeviceID == d.DeviceID }); at >= 0 {
			one.Signed = &shown[user][at].Signed
		}
		out.Devices[i] = one
	}
	return out, nil
}

func holder(state store.DeviceState) string {
	switch state {
	case store.DeviceOurs:
		return "proxy"
	case store.DeviceForeign:
		return "client"
	case store.DeviceLost:
		return "lost"
	case store.DeviceUnknown:
	}
	return "unknown"
}

// Exception is an exception that an account made for a device.
type Exception struct {
	Account  id.UserID   `json:"account"`
	UserID   id.UserID   `json:"user_id"`
	DeviceID id.DeviceID `json:"device_id"`
	Trusted  bool        `json:"trusted"`
	// Gone reports whether the homeserver does not show the device any more.
	Gone bool `json:"gone,omitzero"`
	// MadeAt is when it was made, and MadeBy with which of the account's devices; neither is there
	// for exceptions older than that was kept.
	MadeAt *time.Time  `json:"made_at,omitempty"`
	MadeBy id.DeviceID `json:"made_by,omitempty"`
}

// Exceptions is a page of exceptions.
type Exceptions struct {
	Exceptions []Exception `json:"exceptions"`
	Next       string      `json:"next,omitempty"`
}

// Exceptions returns the exceptions of all accounts.
func (o *Overview) Exceptions(ctx context.Context, who string, page Page) (*Exceptions, error) {
	if err := o.tell(ctx, who, "", "exceptions"); err != nil {
		return nil, err
	}
	rows, err := o.env.Store.ExceptionsAfter(ctx, page.row, id.UserID(page.first), id.DeviceID(page.second), page.Limit)
	if err != nil {
		return nil, err
	}
	out := &Exceptions{Exceptions: make([]Exception, len(rows))}
	for i := range rows {
		r := &rows[i]
		out.Exceptions[i] = Exception{Account: r.Owner, UserID: r.UserID, DeviceID: r.DeviceID, Trusted: r.Trusted, Gone: r.Gone, MadeBy: r.By}
		if !r.At.IsZero() {
			out.Exceptions[i].MadeAt = &r.At
		}
	}
	if n := len(rows); n >= page.Limit {
		out.Next = cursor{rows[n-1].Account, string(rows[n-1].UserID), string(rows[n-1].DeviceID)}.String()
	}
	return out, nil
}

// Warning is a warning that waits for an answer of its account.
type Warning struct {
	Account id.UserID `json:"account"`
	Code    string    `json:"code"`
	UserID  id.UserID `json:"user_id,omitempty"`
	Since   time.Time `json:"since"`
}

// Warnings is a page of warnings.
type Warnings struct {
	Warnings []Warning `json:"warnings"`
	Next     string    `json:"next,omitempty"`
}

// Warnings returns the warnings of all accounts that wait for an answer.
func (o *Overview) Warnings(ctx context.Context, who string, page Page) (*Warnings, error) {
	if err := o.tell(ctx, who, "", "warnings"); err != nil {
		return nil, err
	}
	rows, err := o.env.Store.WarningsAfter(ctx, page.row, page.first, page.Limit)
	if err != nil {
		return nil, err
	}
	out := &Warnings{Warnings: make([]Warning, len(rows))}
	for i := range rows {
		out.Warnings[i] = Warning{rows[i].Owner, rows[i].Code, rows[i].UserID, rows[i].Since}
	}
	if n := len(rows); n == page.Limit {
		out.Next = cursor{Row: rows[n-1].Account, First: rows[n-1].ID}.String()
	}
	return out, nil
}

// Rollout is what enforcing the policy would have done to accounts, and what rules on trial would
// have decided otherwise.
type Rollout struct {
	// OfThisProcess is always true: nobody but each process knows its own.
	OfThisProcess bool                  `json:"of_this_process"`
	Accounts      []AccountRollout      `json:"accounts"`
	Differences   []orgrules.Difference `json:"rule_trial_differences"`
	Next          string                `json:"next,omitempty"`
}

// AccountRollout is what enforcing the policy would have done to one account.
type AccountRollout struct {
	UserID id.UserID `json:"user_id"`
	rollout.Status
}

// Rollout returns what this process knows. The differences come with the first page.
func (o *Overview) Rollout(ctx context.Context, who string, page Page) (*Rollout, error) {
	if err := o.tell(ctx, who, "", "rollout"); err != nil {
		return nil, err
	}
	out := &Rollout{OfThisProcess: true, Accounts: []AccountRollout{}, Differences: []orgrules.Difference{}}
	if page.first == "" {
		out.Differences = append(out.Differences, o.env.Rules.Now().Differences()...)
	}
	for user, status := range o.host.Rollouts() {
		if string(user) > page.first && status.Would != nil {
			out.Accounts = append(out.Accounts, AccountRollout{user, *status})
		}
	}
	slices.SortFunc(out.Accounts, func(a, b AccountRollout) int { return cmp.Compare(a.UserID, b.UserID) })
	if len(out.Accounts) > page.Limit {
		out.Accounts = out.Accounts[:page.Limit]
		out.Next = cursor{First: string(out.Accounts[page.Limit-1].UserID)}.String()
	}
	return out, nil
}

func (o *Overview) lookUp(ctx context.Context, user id.UserID) (*store.Account, error) {
	row, err := o.env.Store.LookupAccount(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNoAccount
	}
	if err != nil {
		return nil, fmt.Errorf("load account: %w", err)
	}
	return row, nil
}

// tell tells the audit log that an administrator looks at something, before it is shown.
func (o *Overview) tell(ctx context.Context, who string, user id.UserID, what string) error {
	r := &audit.Record{At: o.env.Now(), Kind: audit.KindOverview, Account: user.String(), Policy: o.env.PolicyVersion(), Note: what + ", by " + who}
	if err := o.env.Store.AppendAudit(ctx, r); err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}
