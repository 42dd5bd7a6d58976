package ownership

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// The accounts of a process that has ended must go on receiving, whether or not a client asks
// for them. So every process of a cluster looks again and again for accounts that nobody has,
// takes those that it is to have, and visits their devices. And it gives idle ones away that
// another process is to have, if it has many more than its share.

const (
	// orphansAtOnce is how many accounts are claimed by one statement.
	orphansAtOnce = 1000
	// slack is how many accounts more than its share a process keeps in any case, and one in
	// slackShare of the share beyond that.
	slack, slackShare = 16, 8
	// awayAtOnce bounds how many accounts are given away at the same time, and mostAway how
	// many before it is looked again who has how many.
	awayAtOnce, mostAway = 8, 1000
	// givenAwayAfter is how long no client has used an account that is given away, and
	// awayWithin how long that may take.
	givenAwayAfter = 5 * time.Minute
	awayWithin     = 5 * time.Second
	// visitsAtOnce bounds how many of the accounts that were claimed are visited at the same
	// time.
	visitsAtOnce = 16
)

// ClaimOrphans claims the accounts that nobody has and that this process is to have.
func (t *Table[A]) ClaimOrphans(ctx context.Context) []*store.Account {
	var all []*store.Account
	for ctx.Err() == nil && !t.draining.Load() {
		some, err := t.env.Store.ClaimOrphans(ctx, orphansAtOnce)
		if err != nil {
			if ctx.Err() == nil {
				t.env.Log.Warn().Err(err).Msg("Accounts that nobody has could not be claimed; it is tried again")
			}
			break
		}
		all = append(all, some...)
		if len(some) < orphansAtOnce {
			break
		}
	}
	if len(all) > 0 {
		t.env.Log.Info().Int("accounts", len(all)).Msg("Accounts that no process had are this one's now")
	}
	return all
}

// Tend claims and gives away until ctx ends.
func (t *Table[A]) Tend(ctx context.Context) {
	orphans, shares := time.NewTicker(t.opts.ClaimEvery), time.NewTicker(t.opts.ShareEvery)
	defer orphans.Stop()
	defer shares.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-orphans.C:
			if claimed := t.ClaimOrphans(ctx); len(claimed) > 0 {
				t.env.WG.Go(func() { t.visit(ctx, claimed) })
			}
		case <-shares.C:
			if err := t.giveAway(ctx); err != nil && ctx.Err() == nil {
				t.env.Log.Warn().Err(err).Msg("Accounts could not be given to another process; it is tried again")
			}
		}
	}
}

// visit visits the devices of accounts.
func (t *Table[A]) visit(ctx context.Context, accounts []*store.Account) {
	var visits errgroup.Group
	visits.SetLimit(visitsAtOnce)
	for _, row := range accounts {
		visits.Go(func() error {
			return t.env.Survive(func() error {
				if ctx.Err() == nil {
					t.host.Visit(ctx, row)
				}
				return nil
			})
		})
	}
	_ = visits.Wait() // what they return is logged
}

// giveAway hands idle accounts over that another process is to have, if this one has many more
// than its share.
func (t *Table[A]) giveAway(ctx context.Context) error {
	replicas, err := t.env.Store.Replicas(ctx)
	if err != nil {
		return fmt.Errorf("look at the other processes: %w", err)
	}
	surplus := surplusOf(replicas)
	if surplus == 0 {
		return nil
	}
	users, err := t.env.Store.Misplaced(ctx, mostAway)
	if err != nil {
		return fmt.Errorf("look for accounts to give away: %w", err)
	}
	var away errgroup.Group
	away.SetLimit(awayAtOnce)
	for _, user := range users {
		if surplus == 0 {
			break
		}
		if !t.isIdle(user) {
			continue
		}
		surplus--
		away.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, awayWithin)
			defer cancel()
			return t.env.Survive(func() error { return t.HandOver(ctx, user) })
		})
	}
	return away.Wait() //nolint:wrapcheck // it is HandOver's
}

// surplusOf returns how many accounts this process has too many.
func surplusOf(replicas []store.Replica) int {
	mine, all, taking := 0, 0, 0
	for i := range replicas {
		r := &replicas[i]
		all += r.Accounts
		if r.Self {
			mine = r.Accounts
		}
		if !r.Draining {
			taking++
		}
	}
	if taking < 2 {
		return 0
	}
	share := all / taking
	if mine-share <= slack+share/slackShare {
		return 0
	}
	return mine - share
}

// isIdle reports whether no client uses an account, nor did lately.
func (t *Table[A]) isIdle(user id.UserID) bool {
	var none A
	a := t.Get(user)
	return a == none || !a.Ownership().isUsed() && t.host.IsIdle(a, t.env.Now().Add(-givenAwayAfter))
}
