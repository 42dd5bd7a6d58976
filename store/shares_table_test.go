package store

import "testing"

// What was said last of a device holds: in a list, in a later one, and against a row from before
// there were lists.
func TestTheLastShareHolds(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		raw(t, db, "INSERT INTO shares (account, device, session_id, user_id, device_id, curve25519, idx, withheld) VALUES ($1, $2, 'x', '@b:hs', 'OLD', 'k', 1, '')", acct.ID, dev.ID)
		raw(t, db, "INSERT INTO shares (account, device, session_id, user_id, device_id, curve25519, idx, withheld) VALUES ($1, $2, 'x', '@b:hs', 'ONE', 'k', 1, 'm.unverified')", acct.ID, dev.ID)
		one := Share{SessionID: "x", UserID: "@b:hs", DeviceID: "ONE", Curve25519: "k", Index: 2}
		two := Share{SessionID: "x", UserID: "@a:hs", DeviceID: "TWO", Curve25519: "k2", Withheld: "m.no_olm"}
		other := Share{SessionID: "y", UserID: "@a:hs", DeviceID: "TWO", Curve25519: "k2", Index: 1<<32 - 1}
		save(t, db, acct, dev.ID, &Changes{Shares: []Share{one, two, other}})
		two.Withheld, two.Index = "", 7
		save(t, db, acct, dev.ID, &Changes{Shares: []Share{{SessionID: "x", UserID: "@a:hs", DeviceID: "TWO"}, two}})
		old := Share{SessionID: "x", UserID: "@b:hs", DeviceID: "OLD", Curve25519: "k", Index: 1}
		same(t, "shares", must[[]Share](t)(db.Shares(t.Context(), acct, dev.ID, "x")), []Share{two, old, one})
		same(t, "of another session", must[[]Share](t)(db.Shares(t.Context(), acct, dev.ID, "y")), []Share{other})
		raw(t, db, "UPDATE share_lists SET shares = $1", []byte{1, 5, 'a'})
		if _, err := db.Shares(t.Context(), acct, dev.ID, "x"); err == nil {
			t.Error("a damaged list is read")
		}
	})
}
