package e2ee

import (
	"context"
	"errors"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/ownidentity"
)

// maintain does what is due for a device: it publishes keys, sends the outbox, sets the
// identity up and backs up room keys. It is safe to repeat.
func (d *Device) maintain(ctx context.Context) {
	d.core.Mu.Lock()
	d.schedule.queued, d.schedule.maintained = false, true
	d.core.Mu.Unlock()
	give, err := d.schedule.upkeep.Take(ctx, struct{}{})
	if err != nil {
		return
	}
	defer give()
	if d.core.Ended() {
		return // retired: another Device took its place
	}
	failed, more := false, false
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"upload keys", d.keySupply.Upload},
		{"replace dead keys", d.keySupply.ClaimDead},
		{"flush outbox", d.channel.FlushOutbox},
		{"check received secrets", d.backups.CheckReceived},
		{"set up identity", d.ownIdentity.SetUp},
		{"answer requests for secrets", d.gossip.AnswerSecretRequests},
		{"answer requests for room keys", d.gossip.AnswerKeyRequests},
		{"flush outbox", d.channel.FlushOutbox},
		{"back up room keys", d.backups.BackUp},
		{"restore history", d.backups.ResumeHistory},
		{"request room keys", d.gossip.RequestKeys},
		{"unwedge", d.channel.Unwedge},
		{"refresh device lists", d.refreshDeviceLists},
		{"review warnings", d.reviewWarnings},
		{"locate warnings", d.locateWarnings},
	} {
		switch err := step.do(ctx); {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, core.ErrMoreToDo):
			more = true
		case ownidentity.NeedsPerson(err):
			d.core.Env.Log.Info().Err(err).Str("step", step.name).Msg("A step of a device's upkeep waits for what its owner has to do; status tells them")
		default:
			failed = true
			d.core.Env.Log.Warn().Err(err).Str("step", step.name).Msg("A step of a device's upkeep failed; it is tried again")
		}
	}
	d.schedule.maintainAgain(failed, more)
}

// refreshDeviceLists queries users whose devices changed or could not be queried, so that
// sends need not wait for that (requirement 4.3).
func (d *Device) refreshDeviceLists(ctx context.Context) error {
	if d.core.Mode != core.ModeProxied || !d.core.IsPublished() || d.core.CurrentToken().IsZero() {
		return nil
	}
	return d.acct.Tracker.Refresh(ctx, d.core.Query())
}
