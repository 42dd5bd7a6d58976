package store

import (
	"errors"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"
)

// goneDevice is a distrusted device of Bob that the homeserver does not show.
func goneDevice(device id.DeviceID) UserDevice {
	return UserDevice{UserID: "@bob:hs", DeviceID: device, Ed25519: "ed" + string(device), Curve25519: "curve" + string(device), Override: new(false), OverrideAt: at(3), OverrideBy: "A"}
}

// Distrusts of devices without a row are read back and listed among the exceptions, each with its
// keys, of which there may be several under one ID; they go one by one, and with their account.
func TestDistrusts(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		ctx := t.Context()
		acct, dev := device(t, db, alice, "A")
		other, _ := device(t, db, "@carol:hs", "A")
		one, again, third := goneDevice("B1"), goneDevice("B1"), goneDevice("B3")
		again.Ed25519, again.Curve25519 = "other", "keys"
		shown := UserDevice{UserID: "@bob:hs", DeviceID: "B2", Ed25519: "e", Curve25519: "c", Keys: []byte("{}"), Override: new(true)}
		save(t, db, acct, dev.ID, &Changes{Distrusts: []UserDevice{one, again, third, one}, UserDevices: []UserDevice{shown}})
		bob := []id.UserID{"@bob:hs", "@eve:hs"}
		same(t, "stored", must[map[id.UserID][]UserDevice](t)(db.Distrusts(ctx, acct, bob)), map[id.UserID][]UserDevice{"@bob:hs": {one, again, third}})
		same(t, "of another account", len(must[map[id.UserID][]UserDevice](t)(db.Distrusts(ctx, other, bob))), 0)
		same(t, "exceptions", must[[]UserDevice](t)(db.DeviceExceptions(ctx, acct)), []UserDevice{one, again, shown, third})
		same(t, "devices", must[map[id.UserID][]UserDevice](t)(db.UserDevices(ctx, acct, bob)), map[id.UserID][]UserDevice{"@bob:hs": {shown}})
		same(t, "counted", must[[]AccountOverview](t)(db.AccountsAfter(ctx, 0, 1))[0].Exceptions, 4)

		raw(t, db, "UPDATE distrusts SET ed25519 = 'mine' WHERE ed25519 = 'other'")
		if _, err := db.Distrusts(ctx, acct, bob); !errors.Is(err, ErrSealed) {
			t.Errorf("other keys: got %v, want ErrSealed", err)
		}
		if _, err := db.DeviceExceptions(ctx, acct); !errors.Is(err, ErrSealed) {
			t.Errorf("the list with other keys: got %v, want ErrSealed", err)
		}
		raw(t, db, "UPDATE distrusts SET ed25519 = 'other' WHERE ed25519 = 'mine'")

		save(t, db, acct, dev.ID, &Changes{DeleteDistrusts: []UserDevice{again}})
		same(t, "left", must[map[id.UserID][]UserDevice](t)(db.Distrusts(ctx, acct, bob)), map[id.UserID][]UserDevice{"@bob:hs": {one, third}})
		if err := db.DeleteAccount(ctx, acct); err != nil {
			t.Fatal(err)
		}
		same(t, "of a deleted account", rowCounts(t, db)["distrusts"], 0)
	})
}

// Administrators see the exceptions for devices that are gone too, in the place where they would be;
// a page does not end between two for devices with the same ID.
func TestOverviewOfDistrusts(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		twice := goneDevice("B2")
		twice.Ed25519 = "another"
		save(t, db, acct, dev.ID, &Changes{
			Distrusts: []UserDevice{goneDevice("B1"), goneDevice("B2"), twice, goneDevice("B4")},
			UserDevices: []UserDevice{
				{UserID: "@bob:hs", DeviceID: "B2", Ed25519: "e", Curve25519: "c", Keys: []byte("{}"), Override: new(true)},
				{UserID: "@bob:hs", DeviceID: "B3", Ed25519: "e", Curve25519: "c", Keys: []byte("{}"), Override: new(false)},
			},
		})
		for limit, pages := range map[int][]int{1: {1, 2, 1, 1}, 2: {3, 2}, 10: {5}} {
			var got []string
			var sizes []int
			var last ExceptionOverview
			for {
				some := must[[]ExceptionOverview](t)(db.ExceptionsAfter(t.Context(), last.Account, last.UserID, last.DeviceID, limit))
				if len(some) == 0 {
					break
				}
				sizes = append(sizes, len(some))
				for _, x := range some {
					got = append(got, fmt.Sprint(x.DeviceID, " ", x.Trusted, x.Gone))
					if x.Owner != alice || x.UserID != "@bob:hs" || x.Gone && (x.By != "A" || !x.At.Equal(at(3))) {
						t.Errorf("listed: %+v", x)
					}
				}
				last = some[len(some)-1]
			}
			same(t, "listed", got, []string{"B1 false true", "B2 true false", "B2 false true", "B3 false false", "B4 false true"})
			same(t, "pages", sizes, pages)
		}
	})
}
