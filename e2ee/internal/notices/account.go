package notices

import (
	"context"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/store"
)

// Account has the warnings of an account and where they are shown. Its own lock guards it.
type Account struct {
	*core.Account
	// alert tells the account's devices that there is something to say. It takes no lock.
	alert func()

	// review lets one device at a time update the warnings about the user's own side.
	review locks.Turns[struct{}]

	mu locks.Mutex
	// rows are the account's warnings, if read; seq counts their changes.
	rows    []store.Warning
	read    bool
	seq     int
	newsSeq int // seq when the devices were last told
	// shared are the encrypted rooms shared with users whom warnings are about.
	shared map[id.UserID][]id.RoomID
	// noticeRoom is the room that shows warnings about the user's own side; empty before
	// one is chosen.
	noticeRoom id.RoomID
}

// NewAccount returns the warnings of an account. alert tells its devices that there is
// something to say; it may take no lock.
func NewAccount(acct *core.Account, alert func()) Account {
	order := acct.Env.Order
	return Account{
		Account: acct, alert: alert,
		mu:     locks.Mutex{Place: order.At(locks.RankAccount)},
		review: locks.Turns[struct{}]{Place: order.At(locks.RankReview)},
	}
}

// Pending returns the pending warnings, oldest first.
func (a *Account) Pending(ctx context.Context) ([]Warning, error) {
	rows, rooms, err := a.pending(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Warning, 0, len(rows))
	for i := range rows {
		w := &rows[i]
		out = append(out, Warning{
			ID: idOf(w), Code: w.Code, UserID: w.UserID, RoomIDs: rooms[w.UserID], Message: w.Message, Since: w.Since,
		})
	}
	return out, nil
}

// pending returns the rows of the pending warnings, and the encrypted rooms shared with the
// users they are about, as far as known.
func (a *Account) pending(ctx context.Context) ([]store.Warning, map[id.UserID][]id.RoomID, error) {
	rows, err := a.all(ctx)
	if err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return pending(rows), a.shared, nil
}

// all returns all rows, cached once they were read.
func (a *Account) all(ctx context.Context) ([]store.Warning, error) {
	a.mu.Lock()
	rows, read, seq := a.rows, a.read, a.seq
	a.mu.Unlock()
	if read {
		return rows, nil
	}
	rows, err := a.Env.Store.Warnings(ctx, a.Row)
	if err != nil {
		return nil, fmt.Errorf("load warnings: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seq == seq { // otherwise they changed meanwhile
		a.rows, a.read = rows, true
	}
	return rows, nil
}

// Unsettled returns the users whose identity changed, according to the warnings that were
// not resolved, also if they were dismissed.
func (a *Account) Unsettled(ctx context.Context) (map[id.UserID]bool, error) {
	rows, err := a.all(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[id.UserID]bool)
	for i := range rows {
		switch w := &rows[i]; {
		case w.Resolved || w.UserID == "":
		case w.Code == CodeIdentityChanged || w.Code == CodeVerificationLost:
			out[w.UserID] = true
		}
	}
	return out, nil
}

// forget makes the next reader ask the store again.
func (a *Account) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rows, a.read = nil, false
	a.seq++
}

// changed makes the next reader ask the store again, and alerts the devices.
func (a *Account) changed() {
	a.forget()
	a.alert()
}

// News reports whether the warnings changed since it was last called.
func (a *Account) News() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	news := a.seq != a.newsSeq
	a.newsSeq = a.seq
	return news
}

// Dismiss dismisses a warning, in a write of dev's.
func (a *Account) Dismiss(ctx context.Context, dev *core.Device, warning string) error {
	rows, _, err := a.pending(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rows, func(w store.Warning) bool { return idOf(&w) == warning })
	if i < 0 {
		return core.ErrUnknownWarning
	}
	note := store.Warning{ID: rows[i].ID + dismissedSuffix, Code: rows[i].Code, Since: rows[i].Since, Dismissed: true}
	if err := dev.Save(ctx, &store.Changes{Warnings: []store.Warning{note}}); err != nil {
		return fmt.Errorf("store the dismissed warning: %w", err)
	}
	a.forget()
	return nil
}
