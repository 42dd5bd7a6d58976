package store

import (
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"
)

// TestPlainRoomAsksNothing: a message in clear is sent without a question to an SQLite
// database, which nobody else writes to; what is known in it is found all the same, also by
// the next process.
func TestPlainRoomAsksNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		h := &hook{}
		o := options(t, url)
		o.Wrap = h.wrap
		db := open(t, o)
		ctx := t.Context()
		encrypted := func(rooms ...id.RoomID) (known []id.RoomID) {
			t.Helper()
			for room := range must[map[id.RoomID]EncryptedRoom](t)(db.EncryptedRooms(ctx, rooms)) {
				known = append(known, room)
			}
			slices.Sort(known)
			return known
		}
		note := func(room id.RoomID) {
			t.Helper()
			if err := db.NoteEncryptedRoom(ctx, EncryptedRoom{RoomID: room, Algorithm: "m.megolm", Since: at(1)}); err != nil {
				t.Fatal(err)
			}
		}
		note("!a:hs")
		h.Watch(nil)
		same(t, "plain rooms", encrypted("!plain:hs", "!other:hs"), []id.RoomID(nil))
		if asked := h.Statements(); strings.HasPrefix(url, "sqlite:") && len(asked) > 0 {
			t.Errorf("%q was asked", asked)
		}
		note("!b:hs")
		same(t, "after it was noted", encrypted("!plain:hs", "!a:hs", "!b:hs"), []id.RoomID{"!a:hs", "!b:hs"})
		closeDB(t, db)
		db = open(t, options(t, url))
		same(t, "opened again", encrypted("!plain:hs", "!a:hs", "!b:hs"), []id.RoomID{"!a:hs", "!b:hs"})
	})
}

// TestTooManyKnownRooms: what does not fit into memory is asked for.
func TestTooManyKnownRooms(t *testing.T) {
	t.Parallel()
	k := knownRooms{parts: make(map[uint64]struct{})}
	name := func(n int) (b [32]byte) {
		b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n)
		return b
	}
	for n := range maxKnownRooms {
		k.add(name(n))
	}
	same(t, "a room that is in the table", k.lacks(name(1)), false)
	same(t, "a room that is not", k.lacks(name(maxKnownRooms)), true)
	k.add(name(maxKnownRooms))
	same(t, "when it is full", k.lacks(name(maxKnownRooms+1)), false)
}
