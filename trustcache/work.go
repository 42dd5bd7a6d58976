package trustcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/audit"
	"e2ee-proxy/store"
)

// cached returns a user from memory, or nil.
func (t *Tracker) cached(user id.UserID) *entry {
	e, _ := t.cache.users.Get(cacheKey{t.number, user})
	return e
}

// keep replaces a user in memory. The caller holds rows.
func (t *Tracker) keep(e *entry) {
	t.cache.users.Add(cacheKey{t.number, e.row.UserID}, e)
}

// load returns users in the order of the argument, from memory or else the store.
func (t *Tracker) load(ctx context.Context, users []id.UserID) ([]*entry, error) {
	out := make([]*entry, len(users))
	for i, user := range users {
		if out[i] = t.cached(user); out[i] == nil {
			t.rows.Lock()
			defer t.rows.Unlock()
			return t.loadRows(ctx, users)
		}
	}
	return out, nil
}

// loadRows is like load, for a caller that holds rows.
func (t *Tracker) loadRows(ctx context.Context, users []id.UserID) ([]*entry, error) {
	out := make([]*entry, len(users))
	var missing []id.UserID
	for i, user := range users {
		if out[i] = t.cached(user); out[i] == nil {
			missing = append(missing, user)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	// Before the rows are read: a mark that is removed meanwhile may not be in them yet.
	marks := t.marksOf(missing)
	rows, err := t.store.Users(ctx, t.account, missing)
	if err != nil {
		return nil, fmt.Errorf("load users: %w", err)
	}
	devices, err := t.store.UserDevices(ctx, t.account, missing)
	if err != nil {
		return nil, fmt.Errorf("load devices of users: %w", err)
	}
	gone, err := t.store.Distrusts(ctx, t.account, missing)
	if err != nil {
		return nil, fmt.Errorf("load distrusted devices of users: %w", err)
	}
	loaded := make(map[id.UserID]*entry, len(missing))
	for _, user := range missing {
		row := rows[user]
		row.UserID = user
		if m, ok := marks[user]; ok {
			row = m.apply(row)
		}
		if loaded[user], err = restore(t.account.UserID, row, devices[user], gone[user]); err != nil {
			return nil, err
		}
		t.keep(loaded[user])
	}
	for i, user := range users {
		if out[i] == nil {
			out[i] = loaded[user]
		}
	}
	return out, nil
}

func (t *Tracker) marksOf(users []id.UserID) map[id.UserID]reportedChange {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[id.UserID]reportedChange)
	for _, user := range users {
		if m, ok := t.marks[user]; ok {
			out[user] = m
		}
	}
	return out
}

// saveFor bounds one write.
const saveFor = 10 * time.Second

// rowsTx is one change of users' rows in the making.
type rowsTx struct {
	t        *Tracker
	ch       store.Changes
	events   []Event
	entries  map[id.UserID]*entry
	changed  map[id.UserID]store.User // rows to store
	touched  map[id.UserID]bool       // entries to keep
	answered []id.UserID              // by a query
	dropHeld bool
	by       *ClientQuery // whose answer this is; nil for others
	decider  id.DeviceID  // whose session it is that decides, see By
}

// change loads users and the own user, calls f to change them, stores the result in one
// transaction, and only then puts it into memory. Nobody else changes rows meanwhile.
func (t *Tracker) change(ctx context.Context, users []id.UserID, f func(*rowsTx) error) error {
	stored, err := t.changeRows(ctx, users, f)
	if stored != nil {
		stored() // without rows: it may wait for a caller who waits for them
	}
	return err
}

func (t *Tracker) changeRows(ctx context.Context, users []id.UserID, f func(*rowsTx) error) (stored func(), err error) {
	t.rows.Lock()
	defer t.rows.Unlock()
	loaded, err := t.loadRows(ctx, append(slices.Clone(users), t.account.UserID))
	if err != nil {
		return nil, err
	}
	w := &rowsTx{
		t: t, decider: decidedBy(ctx), entries: make(map[id.UserID]*entry, len(loaded)),
		changed: make(map[id.UserID]store.User), touched: make(map[id.UserID]bool),
	}
	for _, e := range loaded {
		w.entries[e.row.UserID] = e
	}
	if err := f(w); err != nil {
		return nil, err
	}
	if len(w.changed) == 0 {
		w.show()
		return nil, nil
	}
	for _, row := range w.changed {
		w.ch.Users = append(w.ch.Users, row)
	}
	if len(w.events) > 0 {
		stored = t.opts.Observe(w.events, &w.ch)
	}
	// The caller may be gone by now; the change is stored all the same.
	saving, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveFor)
	defer cancel()
	if err := t.store.Save(saving, t.account, 0, &w.ch); err != nil {
		err = fmt.Errorf("store users: %w", err)
		if !errors.Is(err, store.ErrUnsure) {
			return nil, err
		}
		for user := range w.changed { // what is in memory may be old
			t.cache.users.Remove(cacheKey{t.number, user})
		}
		t.version.Add(1)
		return stored, err // and so may be what follows from it
	}
	w.show()
	return stored, nil
}

// show puts what was stored into memory.
func (w *rowsTx) show() {
	for user := range w.touched {
		w.t.keep(w.entries[user])
	}
	if len(w.changed) > 0 {
		w.t.version.Add(1) // after it can be seen
	}
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	for user := range w.changed {
		w.t.overtake(user, w.by)
	}
	for _, user := range w.answered {
		drop(&w.t.marks, user) // what it said is in what was stored
	}
	if w.dropHeld {
		w.t.held = ""
	}
}

func (w *rowsTx) get(user id.UserID) *entry { return w.entries[user] }

// set adds an entry to what is stored and shown.
func (w *rowsTx) set(e *entry) {
	user := e.row.UserID
	w.entries[user], w.changed[user], w.touched[user] = e, e.row, true
}

// touch adds an entry to what is shown, when nothing of it is to be stored.
func (w *rowsTx) touch(e *entry) {
	user := e.row.UserID
	w.entries[user], w.touched[user] = e, true
}

// setRow is like set for an entry of which only the row changes.
func (w *rowsTx) setRow(e *entry, row store.User) { w.set(e.with(w.t.account.UserID, row)) }

// ownSigner returns the own user-signing key if the own identity is verified: identities of
// others that it signed are verified too.
func (w *rowsTx) ownSigner() id.Ed25519 {
	own := w.get(w.t.account.UserID).user
	if !own.Verified {
		return ""
	}
	return own.UserSigning
}

// applyPin applies an event to the pin of a user and returns their new row.
func (w *rowsTx) applyPin(e *entry, row store.User, ev PinEvent) (store.User, error) {
	ev.Automatic = !e.user.Own && w.t.opts.AcknowledgeUnverified()
	return w.pinRow(e.user.Own, e.user.Pin, row, ev)
}

func (w *rowsTx) pinRow(own bool, before Pin, row store.User, ev PinEvent) (store.User, error) {
	after, effects, err := before.Apply(ev)
	if err != nil {
		return row, err
	}
	now := w.t.opts.Now()
	previous := before.Current
	if ev.Kind != PinSeen {
		previous = before.PinnedMaster
	}
	for _, effect := range effects {
		w.events = append(w.events, Event{
			Kind: EventPin, UserID: row.UserID, Own: own, At: now, Effect: effect, State: after.State(),
			ByOwnChange: after.LostByUs(),
		})
		w.ch.UserChanges = append(w.ch.UserChanges, store.UserChange{
			UserID: row.UserID, At: now, Kind: string(effect), Previous: previous.String(), Master: after.Current.String(),
		})
		row.ChangedAt = now
		w.ch.Audit = append(w.ch.Audit, w.pinRecord(row.UserID, effect, after)...)
	}
	row.PinnedMaster, row.Verified, row.WasVerified = after.PinnedMaster.String(), after.Verified, after.WasVerified
	return row, nil
}

// pinRecord returns what the audit log is told of a transition that somebody decided; the
// others are made by what the homeserver shows.
func (w *rowsTx) pinRecord(user id.UserID, effect PinEffect, after Pin) []*audit.Record {
	r := &audit.Record{At: w.t.opts.Now(), Account: w.t.account.UserID.String(), Device: w.decider.String(), Users: []audit.User{{
		ID: user.String(), Pin: after.State().String(), Master: after.Current.String(),
	}}}
	switch effect {
	case EffectAcknowledged:
		r.Kind = audit.KindAcknowledged
	case EffectAcknowledgedByPolicy:
		r.Kind, r.Note = audit.KindAcknowledged, "by the account's settings"
	case EffectWithdrawn:
		r.Kind = audit.KindWithdrawn
	case EffectFirstSeen, EffectChanged, EffectRestored, EffectVerified, EffectVerificationLost:
		return nil
	default:
		return nil
	}
	return []*audit.Record{r}
}

// recordDevices stores and reports how a user's devices differ from before.
func (w *rowsTx) recordDevices(before *User, up update) {
	now := w.t.opts.Now()
	diff := compare(before, up.devices)
	for i := range up.devices {
		d := &up.devices[i]
		old := before.Device(d.DeviceID)
		if old == nil || old.Signed != d.Signed || !bytes.Equal(old.Raw, d.Raw) {
			w.ch.UserDevices = append(w.ch.UserDevices, d.stored())
		}
	}
	for _, device := range diff.Removed {
		w.ch.DeleteDevices = append(w.ch.DeleteDevices, store.DeviceRef{UserID: before.UserID, DeviceID: device})
	}
	if len(diff.Added)+len(diff.Removed)+len(diff.Signed)+len(diff.Unsigned) > 0 {
		diff.UserID, diff.Own, diff.At = before.UserID, before.Own, now
		w.events = append(w.events, diff)
	}
	if len(up.refused) > 0 {
		w.events = append(w.events, Event{Kind: EventDevicesRefused, UserID: before.UserID, Own: before.Own, At: now, Refused: up.refused})
	}
	if up.refusedIdentity {
		w.events = append(w.events, Event{Kind: EventIdentityRefused, UserID: before.UserID, Own: before.Own, At: now})
	}
}

// recheckBatch is how many users are rechecked at once when the own identity changes.
const recheckBatch = 500

// recheck computes anew who is verified, for every tracked user, after the own user-signing
// key changed or ceased to be verified.
func (w *rowsTx) recheck(ctx context.Context) error {
	users, err := w.t.store.TrackedUsers(ctx, w.t.account)
	if err != nil {
		return fmt.Errorf("load tracked users: %w", err)
	}
	for user := range w.entries {
		users = append(users, user)
	}
	slices.Sort(users)
	for batch := range slices.Chunk(slices.Compact(users), recheckBatch) {
		marks := w.t.marksOf(batch)
		rows, err := w.t.store.Users(ctx, w.t.account, batch)
		if err != nil {
			return fmt.Errorf("load users: %w", err)
		}
		for _, user := range batch {
			row, ok := rows[user]
			if m, marked := marks[user]; marked {
				row = m.apply(row)
			}
			e := w.entries[user]
			if e == nil {
				e = w.t.cached(user)
			}
			if e != nil {
				row, ok = e.row, true
			}
			if !ok || user == w.t.account.UserID {
				continue
			}
			if err := w.recheckOne(e, row); err != nil {
				return err
			}
		}
	}
	return nil
}

// recheckOne rechecks one user, of whom e is nil when not in memory.
func (w *rowsTx) recheckOne(e *entry, row store.User) error {
	signed := masterSignedBy(row.Master, w.t.account.UserID, w.ownSigner())
	if signed == row.Verified {
		return nil
	}
	identity, err := restoreIdentity(row)
	if err != nil {
		return fmt.Errorf("restore identity of a user: %w", err)
	}
	row, err = w.pinRow(false, pinOf(row, identity.Master), row, PinEvent{Kind: PinSeen, Master: identity.Master, SignedByUs: signed})
	if err != nil {
		return err
	}
	if e == nil {
		w.changed[row.UserID] = row
		return nil
	}
	w.setRow(e, row)
	return nil
}

// holds reports whether master is the one that SetOwnIdentity named.
func (t *Tracker) holds(master id.Ed25519) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return master != "" && t.held == master
}
