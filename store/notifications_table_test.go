package store

import (
	"bytes"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// An account's list is replaced, deleted when it is empty, and goes with the account's last
// device: what still works for that does not bring it back. It says nothing in clear.
func TestNotificationsEndWithTheLastDevice(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		ctx := t.Context()
		acct, one := device(t, db, alice, "A")
		_, two := device(t, db, alice, "B")
		bob, _ := device(t, db, id.UserID("@bob:hs"), "A")
		put := func(acct *Account, list string) {
			t.Helper()
			events := secret.Bytes(list)
			save(t, db, acct, 0, &Changes{Notifications: &events})
		}
		has := func(acct *Account) string {
			return string(must[secret.Bytes](t)(db.Notifications(ctx, acct)))
		}
		put(acct, "first")
		put(acct, "second with !room:hs")
		put(bob, "bob's")
		save(t, db, acct, 0, &Changes{Unread: []UnreadRoom{{RoomID: "!r", State: []byte("x")}}})
		same(t, "replaced", has(acct), "second with !room:hs")
		for _, sealed := range column(t, db, "SELECT sealed_events FROM notifications") {
			if bytes.Contains(sealed, []byte("room")) {
				t.Error("a list stands in clear")
			}
		}
		put(acct, "")
		same(t, "emptied", has(acct), "")
		same(t, "bob's", has(bob), "bob's")
		put(acct, "third")
		must[int](t)(0, db.DeleteDevice(ctx, acct, one.ID))
		same(t, "after the first device", has(acct), "third")
		must[int](t)(0, db.DeleteDevice(ctx, acct, two.ID))
		same(t, "after the last device", has(acct), "")
		put(acct, "late")
		same(t, "written late", has(acct), "")
		must[int](t)(0, db.DeleteAccount(ctx, bob))
		same(t, "rows of a deleted account", rowCounts(t, db)["notifications"], 0)
	})
}
