package e2ee

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/overview"
	"e2ee-proxy/internal/secret"
)

// What an organisation has to do with all accounts: its rules, and what its administrators see.

type (
	// Ruling is what an organisation narrows the policy by.
	Ruling = orgrules.Ruling
	// PointSettings are those of a decision point.
	PointSettings = orgrules.PointSettings
	// RuleDifference is something about which the rules on trial decide otherwise.
	RuleDifference = orgrules.Difference
)

// SetRules puts an organisation's rules in force as part of a version of the policy. What is under
// way is decided by one version or the other. Messages that were held back under other rules are
// judged again, for clients with their next sync; if only that fails, the rules are in force. Not
// for use by several at a time.
func (e *Engine) SetRules(ctx context.Context, r Ruling, policy string) error {
	was := e.env.Rules.Now().Hash()
	if err := e.env.Rules.Set(r, policy); err != nil || e.env.Rules.Now().Hash() == was {
		return err
	}
	return e.judgeHeldBack(ctx)
}

// RuleDifferences returns what the rules on trial would have decided otherwise in this process.
func (e *Engine) RuleDifferences() []RuleDifference { return e.env.Rules.Now().Differences() }

// judgeHeldBack has events judged again that were held back under another policy.
func (e *Engine) judgeHeldBack(ctx context.Context) error {
	return e.env.Store.HeldBackUnder(ctx, e.env.Policy().ReceiveRules()+e.env.Rules.Now().Hash())
}

type (
	// Overview is what administrators are shown of all accounts; a Page is a part of it.
	Overview = overview.Overview
	Page     = overview.Page
	// OverviewAccounts and the following are what an Overview returns.
	OverviewAccounts   = overview.Accounts
	OverviewAccount    = overview.Detail
	OverviewExceptions = overview.Exceptions
	OverviewWarnings   = overview.Warnings
	OverviewRollout    = overview.Rollout
	EndedSessions      = overview.Ended
)

// Errors of an Overview.
var (
	ErrNoAccount = overview.ErrNoAccount
	ErrPage      = overview.ErrPage
)

// ParsePage reads the parameters of a page; each may be empty.
func ParsePage(from, limit string) (Page, error) { return overview.ParsePage(from, limit) }

// Overview returns what administrators are shown.
func (e *Engine) Overview() *Overview { return overview.New(e.env, overviewHost{e}) }

// overviewHost implements overview.Host.
type overviewHost struct{ *Engine }

// Tokens implements overview.Host.
func (h overviewHost) Tokens(user id.UserID, device id.DeviceID, row int64) []secret.String {
	if d := h.loaded(deviceKey{user, device}); d != nil && d.core.RowID == row {
		return d.core.Tokens()
	}
	return nil
}

// Rollouts implements overview.Host.
func (h overviewHost) Rollouts() map[id.UserID]*PolicyStatus {
	all := h.owned.All()
	out := make(map[id.UserID]*PolicyStatus, len(all))
	for _, a := range all {
		out[a.User] = a.rollout.Status()
	}
	return out
}
