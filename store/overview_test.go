package store

import (
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"
)

// Administrators see all accounts in pages, each by one statement, with what waits there and who
// made which exception when.
func TestOverview(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		var first int64
		for i := range 5 {
			user := id.UserID(fmt.Sprintf("@u%d:x", i))
			acct, dev := device(t, db, user, "A")
			if i == 0 {
				first = acct.ID
			}
			c := &Changes{Users: []User{{UserID: user, Master: []byte(`{"usage":["master"]}`), PinnedMaster: "M", Verified: i == 1}}}
			for n := range i {
				c.UserDevices = append(c.UserDevices, UserDevice{
					UserID: "@bob:x", DeviceID: id.DeviceID(fmt.Sprintf("B%d", n)), Ed25519: "e", Curve25519: "c", Keys: []byte("{}"),
					Override: new(n%2 == 0), OverrideAt: at(n + 1), OverrideBy: "A",
				})
				c.Warnings = append(c.Warnings, Warning{ID: fmt.Sprint(n), Code: "identity_changed", UserID: "@bob:x", Since: at(n), Dismissed: n == 1, Resolved: n == 2})
			}
			c.UserDevices = append(c.UserDevices, UserDevice{UserID: "@bob:x", DeviceID: "PLAIN", Ed25519: "e", Curve25519: "c", Keys: []byte("{}")})
			save(t, db, acct, dev.ID, c)
		}
		page := must[[]AccountOverview](t)(db.AccountsAfter(t.Context(), 0, 2))
		if len(page) != 2 || page[0].UserID != "@u0:x" || page[1].Proxied != 1 || page[1].Others != 0 || !page[1].Own.Verified || page[1].Own.PinnedMaster != "M" {
			t.Errorf("the first page is %+v", page)
		}
		rest := must[[]AccountOverview](t)(db.AccountsAfter(t.Context(), page[1].ID, 100))
		if len(rest) != 3 || rest[2].UserID != "@u4:x" || rest[2].Exceptions != 4 || rest[2].Warnings != 2 || rest[2].Own.Verified {
			t.Errorf("the others are %+v", rest)
		}
		var listed []string
		var last ExceptionOverview
		for {
			some := must[[]ExceptionOverview](t)(db.ExceptionsAfter(t.Context(), last.Account, last.UserID, last.DeviceID, 3))
			if len(some) == 0 {
				break
			}
			for _, x := range some {
				listed = append(listed, fmt.Sprint(x.Account-first, x.Owner, x.UserID, x.DeviceID, x.Trusted, x.By, x.At.Equal(at(int(x.DeviceID[1]-'0')+1))))
			}
			last = some[len(some)-1]
		}
		if len(listed) != 10 || listed[1] != "2@u2:x@bob:xB0trueAtrue" || listed[2] != "2@u2:x@bob:xB1falseAtrue" {
			t.Errorf("listed: %q", listed)
		}
		warned := must[[]WarningOverview](t)(db.WarningsAfter(t.Context(), first, "0", 100))
		if len(warned) != 5 || warned[4].Owner != "@u4:x" || warned[4].ID != "3" || warned[4].Code != "identity_changed" {
			t.Errorf("warnings: %+v", warned)
		}
		if all := must[[]UserDevice](t)(db.DeviceExceptions(t.Context(), must[*Account](t)(db.LookupAccount(t.Context(), "@u1:x")))); len(all) != 1 || all[0].OverrideBy != "A" || !all[0].OverrideAt.Equal(at(1)) {
			t.Errorf("exceptions: %+v", all)
		}
	})
}
