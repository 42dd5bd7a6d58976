package e2ee

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/trustcache"
)

// Person is a user whose identity is known, and how the account stands to it: see
// [UserTrust.State].
type Person struct {
	UserID id.UserID `json:"user_id"`
	State  string    `json:"state"`
}

// People returns up to limit users whose identity is known, those after one in the order of their
// IDs; the own user is not among them. It says what is stored, and does not ask the homeserver.
func (d *Device) People(ctx context.Context, after id.UserID, limit int) ([]Person, error) {
	if !d.judges() {
		return nil, core.ErrNotProxied
	}
	rows, err := d.core.Env.Store.UsersAfter(ctx, d.acct.Row, after, limit+1) // one may be the own user
	if err != nil {
		return nil, fmt.Errorf("list people: %w", err)
	}
	out := make([]Person, 0, len(rows))
	for i := range rows {
		if rows[i].UserID != d.acct.User && len(out) < limit {
			out = append(out, Person{rows[i].UserID, trustcache.StateOf(rows[i]).String()})
		}
	}
	return out, nil
}
