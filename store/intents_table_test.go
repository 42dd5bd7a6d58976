package store

import (
	"testing"

	"maunium.net/go/mautrix/id"
)

func intentFixture(db *DB) Intent {
	return Intent{Request: "r-1", Said: db.HashIntent("A", []byte(`{"name":"x"}`)), Before: []uint64{1, 2, 1 << 63}, MadeAt: at(5)}
}

// What was stored is read back, also what became of it, and goes with its time or its account.
func TestIntents(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		ctx := t.Context()
		acct := must[*Account](t)(db.Account(ctx, alice))
		other := must[*Account](t)(db.Account(ctx, "@bob:hs"))
		one := intentFixture(db)
		later := one
		later.Request, later.MadeAt, later.Before = "r-2", at(9), nil
		for _, in := range []Intent{one, later} {
			if err := db.PutIntent(ctx, acct, in); err != nil {
				t.Fatal(err)
			}
		}
		same(t, "stored", must[[]Intent](t)(db.Intents(ctx, acct)), []Intent{one, later})
		same(t, "of another account", len(must[[]Intent](t)(db.Intents(ctx, other))), 0)
		one.Room, one.Identity = "!made:hs", "master key"
		if err := db.PutIntent(ctx, acct, one); err != nil {
			t.Fatal(err)
		}
		if err := db.DropIntent(ctx, acct, later.Request); err != nil {
			t.Fatal(err)
		}
		same(t, "changed", must[[]Intent](t)(db.Intents(ctx, acct)), []Intent{one})
		same(t, "pruned", must[int64](t)(db.PruneIntents(ctx, at(6))), int64(1))
		if err := db.PutIntent(ctx, acct, one); err != nil {
			t.Fatal(err)
		}
		if err := db.DeleteAccount(ctx, acct); err != nil {
			t.Fatal(err)
		}
		same(t, "of a deleted account", rowCounts(t, db)["intents"], 0)
	})
}

// Attack: who can write to the database moves a room into the intent of another request, so that a
// client is told that a room was made which is the attacker's; nothing is read then.
func TestIntentsAreTied(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		ctx := t.Context()
		acct := must[*Account](t)(db.Account(ctx, alice))
		mine, theirs := intentFixture(db), intentFixture(db)
		theirs.Request, theirs.Room = "r-2", "!evil:hs"
		for _, in := range []Intent{mine, theirs} {
			if err := db.PutIntent(ctx, acct, in); err != nil {
				t.Fatal(err)
			}
		}
		for _, change := range []string{
			"UPDATE intents SET sealed_intent = (SELECT sealed_intent FROM intents WHERE request = 'r-2') WHERE request = 'r-1'",
			"UPDATE intents SET made_at = made_at + 1 WHERE request = 'r-2'",
		} {
			raw(t, db, change)
			if got, err := db.Intents(ctx, acct); err == nil {
				t.Errorf("after %s: %v", change, got)
			}
			for _, in := range []Intent{mine, theirs} {
				if err := db.PutIntent(ctx, acct, in); err != nil {
					t.Fatal(err)
				}
			}
		}
		if a, b := db.HashIntent("A", []byte("x")), db.HashIntent("", []byte("x")); a == b || db.HashJoined(id.RoomID("!a")) == db.HashJoined("!b") {
			t.Error("two are the same")
		}
	})
}
