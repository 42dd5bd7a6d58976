package e2ee

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/ownership"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/store"
)

// Which accounts are this process's, see package ownership, and how accounts and devices leave
// memory.

// Own claims the account of a user for a request of theirs, which uses it until done is called.
// An account that is being handed over is waited for. An error that wraps [store.ErrElsewhere]
// says who has it, or nobody if that is to be asked again. Without a cluster it does nothing.
func (e *Engine) Own(ctx context.Context, user id.UserID) (done func(), err error) {
	return e.owned.Own(ctx, user)
}

// HandOver gives the account of a user to nobody, so that the next process that needs it claims
// it. Requests that use it are waited for, and waiting syncs of clients end early, until ctx
// ends; then it is given away all the same, and what is still under way stores nothing.
func (e *Engine) HandOver(ctx context.Context, user id.UserID) error {
	return e.owned.HandOver(ctx, user)
}

// Drain hands all accounts over, and claims none any more. Those that no request uses leave at
// once, the others when their last request has ended, and all when ctx ends.
func (e *Engine) Drain(ctx context.Context) error {
	e.endVisits()
	return e.owned.Drain(ctx)
}

// Lost is to be called when it was found that an account is another process's, with what was
// claimed of it, see [store.Cluster]. What is in memory of it is dropped; nothing is stored.
func (e *Engine) Lost(row *store.Account) { e.owned.Lost(row) }

// existing claims the account of a user; the error is [store.ErrNotFound] if there is none.
func (e *Engine) existing(ctx context.Context, user id.UserID) (*account, error) {
	return e.owned.Claim(ctx, user, e.env.Store.ClaimExisting)
}

// Ownership implements ownership.Account.
func (a *account) Ownership() *ownership.Tenure { return &a.tenure }

// owner is the engine as the host of its accounts.
type owner struct{ *Engine }

var _ ownership.Host[*account] = owner{}

// Make implements ownership.Host.
func (o owner) Make(row *store.Account) *account { return newAccount(o.Engine, row) }

// Detach implements ownership.Host.
func (o owner) Detach(gone func(*account), accounts ...*account) func(ctx context.Context, keep bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	users := make(map[id.UserID]bool, len(accounts))
	all := make(map[*account][]*Device, len(accounts))
	for _, a := range accounts {
		gone(a)
		users[a.User], all[a] = true, nil
	}
	for key, d := range o.devices {
		if devices, ok := all[d.acct]; ok {
			all[d.acct] = append(devices, d)
			delete(o.devices, key)
		}
	}
	for key := range o.visited {
		if users[key.user] {
			delete(o.visited, key)
		}
	}
	return func(ctx context.Context, keep bool) {
		var ending sync.WaitGroup
		keys := make(map[roomkeys.DeviceKeys]id.UserID)
		for a, devices := range all {
			for _, d := range devices {
				keys[roomkeys.KeysOf(d.core)] = a.User
			}
			ending.Go(func() { o.unload(ctx, a, devices, keep) })
		}
		ending.Wait()
		if len(keys) > 0 {
			o.inbound.Forget(keys)
		}
	}
}

// unload ends the work of an account that was removed from memory. With keep it waits for what
// must not be done by two, and stores what only memory knows.
func (e *Engine) unload(ctx context.Context, a *account, devices []*Device, keep bool) {
	for _, d := range devices {
		if !keep {
			d.core.MustReload.Store(true)
			e.endDevice(d)
			continue
		}
		e.quiet(ctx, d)
	}
	if keep {
		if err := a.unread.Flush(ctx); err != nil {
			e.env.Log.Info().Err(err).Msg("Unread messages of an account that is handed over could not be stored")
		}
	}
	a.identity.ForgetPassword()
	a.search.Forget()
	a.Tracker.Close() // waits for its queries
}

// quiet ends the work of a device, and waits for its sync and its maintenance, which uploads
// keys.
func (e *Engine) quiet(ctx context.Context, d *Device) {
	if d.core.Mode == core.ModeProxied {
		if err := d.channel.KeepBegun(ctx, d.outbound.GivenSince); err != nil {
			e.env.Log.Info().Err(err).Msg("Who began sessions with a device that is handed over could not be stored")
		}
	}
	e.endDevice(d)
	for _, turns := range []interface {
		Take(context.Context, struct{}) (func(), error)
	}{&d.schedule.UpkeepTurn, &d.schedule.SyncTurn} {
		if give, err := turns.Take(ctx, struct{}{}); err == nil {
			give()
		}
	}
	d.core.MustReload.Store(true)
}

// Wake implements ownership.Host.
func (o owner) Wake(a *account) {
	for _, d := range a.proxied() {
		d.core.Mu.Lock()
		d.clientState.wakeWaiting()
		d.core.Mu.Unlock()
	}
}

// IsIdle implements ownership.Host.
func (o owner) IsIdle(a *account, since time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range o.devices {
		if d.acct == a && (d.hasClient && !d.schedule.Unused(since) || d.flows.IsBusy()) {
			return false
		}
	}
	return true
}

// Visit implements ownership.Host.
func (o owner) Visit(ctx context.Context, row *store.Account) {
	devices, err := o.env.Store.Devices(ctx, row)
	if err != nil {
		o.visitFailed(ctx, err)
		return
	}
	for i := range devices {
		if devices[i].State == store.DeviceOurs && !devices[i].Token.IsZero() {
			if err := o.visit(ctx, deviceKey{row.UserID, devices[i].DeviceID}); err != nil {
				o.visitFailed(ctx, err)
			}
		}
	}
}

// judgeAgain has the events of an account judged again that were withheld: the rules of the
// process that had it before may have been others.
func (a *account) judgeAgain(ctx context.Context) error {
	if !a.Env.Store.Clustered() || a.tenure.Judged() {
		return nil
	}
	if err := a.Env.Store.Save(ctx, a.Row, 0, &store.Changes{ReadyWithheld: true}); err != nil {
		return fmt.Errorf("release events that were withheld: %w", err)
	}
	a.tenure.SetJudged()
	return nil
}

// forget stops a device's work and deletes everything that is stored of it.
func (e *Engine) forget(ctx context.Context, row *store.Account, dev store.Device) error {
	key := deviceKey{row.UserID, dev.DeviceID}
	give, err := e.opening.Take(ctx, key)
	if err != nil {
		return err
	}
	defer give()
	e.mu.Lock()
	d := e.devices[key]
	if d != nil && d.core.RowID != dev.ID {
		d = nil // a new device with the same ID
	}
	if d != nil {
		delete(e.devices, key)
	}
	delete(e.visited, key)
	if a := e.owned.Get(key.user); a != nil {
		a.identity.ForgetPasswordOf(key.device)
	}
	e.mu.Unlock()
	if d != nil {
		e.stopDevice(d)
	}
	return e.deleteDevice(ctx, row, dev)
}

// deleteDevice deletes what is stored of a device, also as one of its user's devices.
func (e *Engine) deleteDevice(ctx context.Context, row *store.Account, dev store.Device) error {
	switch err := e.env.Store.DeleteDevice(ctx, row, dev.ID); {
	case errors.Is(err, store.ErrNotFound):
		return nil // another request has deleted it
	case err != nil:
		return fmt.Errorf("forget device: %w", err)
	}
	gone := &audit.Record{At: e.env.Now(), Kind: audit.KindDeviceRemoved, Account: row.UserID.String(), Device: dev.DeviceID.String(), Ed25519: dev.Ed25519}
	if err := e.env.Store.Save(ctx, row, 0, &store.Changes{DeleteSecrets: identity.DeviceSecrets(id.Ed25519(dev.Ed25519)), Audit: []*audit.Record{gone}}); err != nil {
		return fmt.Errorf("forget device: %w", err)
	}
	e.owned.Of(row).search.Forget()
	e.owned.Of(row).unread.ForgetMissed()
	if err := e.owned.Of(row).Tracker.Ended(ctx, dev.DeviceID); err != nil {
		return fmt.Errorf("forget device: %w", err)
	}
	return nil
}

// Intent is a request that must not be done twice, as it is stored before it goes to the homeserver.
type Intent = store.Intent

// Intents returns those of a user, the oldest first.
func (e *Engine) Intents(ctx context.Context, user id.UserID) ([]Intent, error) {
	row, err := e.env.Store.Claim(ctx, user)
	if err != nil {
		return nil, err
	}
	return e.env.Store.Intents(ctx, row)
}

// PutIntent stores one, or what became of it.
func (e *Engine) PutIntent(ctx context.Context, user id.UserID, in Intent) error {
	row, err := e.env.Store.Claim(ctx, user)
	if err != nil {
		return err
	}
	return e.env.Store.PutIntent(ctx, row, in)
}

// DropIntent deletes one of which nothing came.
func (e *Engine) DropIntent(ctx context.Context, user id.UserID, request string) error {
	row, err := e.env.Store.Claim(ctx, user)
	if err != nil {
		return err
	}
	return e.env.Store.DropIntent(ctx, row, request)
}

// HashIntent and HashJoined are those of the database.
func (e *Engine) HashIntent(device id.DeviceID, content []byte) [32]byte {
	return e.env.Store.HashIntent(device, content)
}

// HashJoined is described at HashIntent.
func (e *Engine) HashJoined(room id.RoomID) uint64 { return e.env.Store.HashJoined(room) }
