package store

import (
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"
)

// TestEncryptedRoomsBelongToNobody: what one device learned is known for the whole
// database, keeps its first algorithm (requirement 0.8), and outlives the device and its
// account. The names of rooms are nowhere in it.
func TestEncryptedRoomsBelongToNobody(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		ctx := t.Context()
		want := []id.RoomID{"!a:hs", "!b:hs", "!plain:hs", "!next:hs", "!a:hs"}
		read := func() map[id.RoomID]EncryptedRoom {
			t.Helper()
			return must[map[id.RoomID]EncryptedRoom](t)(db.EncryptedRooms(ctx, want))
		}
		same(t, "before", read(), map[id.RoomID]EncryptedRoom{})
		save(t, db, acct, dev.ID, &Changes{Rooms: []Room{
			{RoomID: "!a:hs", Algorithm: "m.megolm", EncryptedSince: at(1)}, {RoomID: "!plain:hs", HistoryVisibility: "shared"},
			{RoomID: "!b:hs", Algorithm: "x", EncryptedSince: at(2)},
		}})
		note := func(r EncryptedRoom) {
			t.Helper()
			if err := db.NoteEncryptedRoom(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		note(EncryptedRoom{RoomID: "!next:hs", Since: at(3)})
		known := map[id.RoomID]EncryptedRoom{
			"!a:hs": {"!a:hs", "m.megolm", at(1)}, "!b:hs": {"!b:hs", "x", at(2)}, "!next:hs": {"!next:hs", "", at(3)},
		}
		same(t, "after", read(), known)

		note(EncryptedRoom{"!a:hs", "m.none", at(9)})
		note(EncryptedRoom{RoomID: "!a:hs", Since: at(9)})
		note(EncryptedRoom{"!next:hs", "m.megolm", at(4)})
		known["!next:hs"] = EncryptedRoom{"!next:hs", "m.megolm", at(4)}
		save(t, db, acct, dev.ID, &Changes{Rooms: []Room{{RoomID: "!b:hs", Algorithm: "y", EncryptedSince: at(9)}, {RoomID: "!next:hs", Algorithm: "z"}}})
		same(t, "changes of what is known", read(), known)

		must[int](t)(0, db.DeleteDevice(ctx, acct, dev.ID))
		must[int](t)(0, db.DeleteAccount(ctx, acct))
		same(t, "without the account", read(), known)
		for _, row := range column(t, db, "SELECT room FROM encrypted_rooms") {
			if len(row) != 32 || strings.Contains(string(row), ":hs") {
				t.Errorf("a room stands there as %q", row)
			}
		}
	})
}

// TestForgottenDevices: a device that is deleted leaves behind that its key was made here,
// also when its account goes. One whose keys were never made here leaves nothing.
func TestForgottenDevices(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		ctx := t.Context()
		acct := must[*Account](t)(db.Account(ctx, alice))
		for _, state := range []DeviceState{DeviceUnknown, DeviceOurs, DeviceForeign, DeviceLost} {
			d := Device{DeviceID: "A", State: state, Ed25519: "key of A"}
			d = must[Device](t)(db.CreateDevice(ctx, acct, d))
			shown := PublishedDevice{alice, "A", "key of A"}
			same(t, "while it is there", must[bool](t)(db.Forgotten(ctx, shown)), state > DeviceOurs)
			must[int](t)(0, db.DeleteDevice(ctx, acct, d.ID))
			same(t, "deleted", must[bool](t)(db.Forgotten(ctx, shown)), state >= DeviceOurs)
			if err := db.DeleteDevice(ctx, acct, d.ID); err == nil {
				t.Error("deleted twice")
			}
		}
		must[int](t)(0, db.DeleteAccount(ctx, acct))
		for shown, want := range map[PublishedDevice]bool{
			{alice, "A", "key of A"}:     true,
			{alice, "A", "another key"}:  false,
			{alice, "B", "key of A"}:     false,
			{"@bob:hs", "A", "key of A"}: false,
			{alice, "A", ""}:             false,
		} {
			same(t, "without the account", must[bool](t)(db.Forgotten(ctx, shown)), want)
		}
	})
}
