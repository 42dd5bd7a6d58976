package store

import (
	"bytes"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// An account's control room is replaced, and goes with the account's last device: what still
// works for that does not bring it back. Nothing of it stands in clear.
func TestControlRoomEndsWithTheLastDevice(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		ctx := t.Context()
		acct, one := device(t, db, alice, "A")
		bob, _ := device(t, db, id.UserID("@bob:hs"), "A")
		put := func(acct *Account, room string) {
			t.Helper()
			save(t, db, acct, 0, &Changes{ControlRoom: secret.Bytes(room)})
		}
		has := func(acct *Account) string {
			return string(must[secret.Bytes](t)(db.ControlRoom(ctx, acct)))
		}
		same(t, "nothing said", has(acct), "")
		put(acct, "first")
		put(acct, "second about @carol:hs")
		put(bob, "bob's")
		save(t, db, acct, 0, &Changes{Unread: []UnreadRoom{{RoomID: "!r", State: []byte("x")}}})
		same(t, "replaced", has(acct), "second about @carol:hs")
		for _, sealed := range column(t, db, "SELECT sealed_room FROM control_rooms") {
			if bytes.Contains(sealed, []byte("carol")) {
				t.Error("a room stands in clear")
			}
		}
		must[int](t)(0, db.DeleteDevice(ctx, acct, one.ID))
		same(t, "after the last device", has(acct), "")
		put(acct, "late")
		same(t, "written late", has(acct), "")
		same(t, "bob's", has(bob), "bob's")
		must[int](t)(0, db.DeleteAccount(ctx, bob))
		same(t, "rows of a deleted account", rowCounts(t, db)["control_rooms"], 0)
	})
}
