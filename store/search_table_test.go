package store

import (
	"errors"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"
)

func searchPart(segment, part int64, data string) SearchPart {
	return SearchPart{SearchPartRef{segment, part}, []byte(data)}
}

// TestSearchParts: parts are written, replaced, read by number and by name, and deleted by
// segment or all together; nothing of another account is read or deleted.
func TestSearchParts(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		bob, bobs := device(t, db, "@bob:hs", "A")
		ctx := t.Context()
		read := func(of *Account, numbers ...int64) string {
			t.Helper()
			var text strings.Builder
			for _, p := range must[[]SearchPart](t)(db.SearchNumbered(ctx, of, numbers)) {
				text.WriteString(string(p.Data) + " ")
			}
			return text.String()
		}
		same(t, "at first", must[bool](t)(db.HasSearch(ctx, acct)), false)
		save(t, db, acct, dev.ID, &Changes{Search: []SearchPart{searchPart(2, 5, "b5"), searchPart(1, 5, "a5"), searchPart(1, 6, "a6"), searchPart(1<<40, 1<<30, "far")}})
		save(t, db, bob, bobs.ID, &Changes{Search: []SearchPart{searchPart(1, 5, "bob")}})
		same(t, "by number", read(acct, 5, 1<<30, 9), "a5 b5 far ")
		same(t, "none", read(acct), "")
		got := must[[]SearchPart](t)(db.SearchParts(ctx, acct, []SearchPartRef{{2, 5}, {1, 6}, {2, 6}}))
		same(t, "by name", got, []SearchPart{searchPart(1, 6, "a6"), searchPart(2, 5, "b5")})
		save(t, db, acct, dev.ID, &Changes{DeleteSearch: []int64{1}, Search: []SearchPart{searchPart(2, 5, "new")}})
		same(t, "replaced", read(acct, 5, 6, 1<<30), "new far ")
		same(t, "of another", read(bob, 5), "bob ")
		save(t, db, acct, dev.ID, &Changes{DropSearch: true, Search: []SearchPart{searchPart(3, 5, "anew")}})
		same(t, "begun anew", read(acct, 5, 6, 1<<30), "anew ")
		must[int](t)(0, db.DropSearch(ctx))
		same(t, "dropped", []bool{must[bool](t)(db.HasSearch(ctx, acct)), must[bool](t)(db.HasSearch(ctx, bob))}, []bool{false, false})
	})
}

// TestSearchEndsWithTheLastDevice: the index of an account goes with its last device, and
// what still works for a deleted device does not bring it back.
func TestSearchEndsWithTheLastDevice(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		ctx := t.Context()
		acct, one := device(t, db, alice, "A")
		_, two := device(t, db, alice, "B")
		has := func() bool { return must[bool](t)(db.HasSearch(ctx, acct)) }
		save(t, db, acct, one.ID, &Changes{Search: []SearchPart{searchPart(1, 5, "x")}})
		must[int](t)(0, db.DeleteDevice(ctx, acct, one.ID))
		same(t, "after the first device", has(), true)
		if err := db.Save(ctx, acct, one.ID, &Changes{Search: []SearchPart{searchPart(2, 5, "y")}}); !errors.Is(err, ErrNotFound) {
			t.Errorf("a deleted device writes: %v", err)
		}
		must[int](t)(0, db.DeleteDevice(ctx, acct, two.ID))
		same(t, "after the last device", has(), false)
		if err := db.Save(ctx, acct, two.ID, &Changes{Search: []SearchPart{searchPart(2, 5, "y")}}); !errors.Is(err, ErrNotFound) || has() {
			t.Errorf("a deleted device writes: %v", err)
		}

		bob, bobs := device(t, db, id.UserID("@bob:hs"), "A")
		save(t, db, bob, bobs.ID, &Changes{Search: []SearchPart{searchPart(1, 5, "x")}})
		must[int](t)(0, db.DeleteAccount(ctx, bob))
		same(t, "rows of a deleted account", rowCounts(t, db)["search_parts"], 0)
	})
}
