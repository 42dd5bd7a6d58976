package store

import (
	"bytes"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// The table says of nobody in which room something is unread, nor that two accounts have
// something unread in the same one.
func TestUnreadNamesNoRoom(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		a, _ := device(t, db, alice, "A")
		b, _ := device(t, db, "@bob:hs", "B")
		room := []UnreadRoom{{RoomID: "!room:hs", State: []byte("state with a word")}}
		save(t, db, a, 0, &Changes{Unread: room})
		save(t, db, b, 0, &Changes{Unread: room})
		names := column(t, db, "SELECT room FROM unread")
		if len(names) != 2 || bytes.Equal(names[0], names[1]) || bytes.Contains(names[0], []byte("room:hs")) {
			t.Errorf("the rooms stand as %q", names)
		}
		for _, sealed := range column(t, db, "SELECT sealed_state FROM unread") {
			if bytes.Contains(sealed, []byte("word")) {
				t.Error("a state stands in clear")
			}
		}
	})
}

// The last of several changes of a room counts, and an empty one deletes its row, that of
// this account only.
func TestUnreadIsReplacedAndDeleted(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		a, _ := device(t, db, alice, "A")
		b, _ := device(t, db, "@bob:hs", "B")
		read := func(acct *Account) string {
			return string(must[map[id.RoomID]secret.Bytes](t)(db.Unread(t.Context(), acct, []id.RoomID{"!r", "!other"}))["!r"].Reveal())
		}
		save(t, db, a, 0, &Changes{Unread: []UnreadRoom{{RoomID: "!r", State: []byte("one")}, {RoomID: "!r", State: []byte("two")}}})
		save(t, db, b, 0, &Changes{Unread: []UnreadRoom{{RoomID: "!r", State: []byte("bob's")}}})
		same(t, "the last", read(a), "two")
		save(t, db, a, 0, &Changes{Unread: []UnreadRoom{{RoomID: "!r", State: []byte("three")}}})
		same(t, "replaced", read(a), "three")
		save(t, db, a, 0, &Changes{Unread: []UnreadRoom{{RoomID: "!r"}, {RoomID: "!never"}}})
		same(t, "deleted", read(a), "")
		same(t, "bob's", read(b), "bob's")
	})
}
