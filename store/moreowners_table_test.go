package store

import (
	"errors"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// TestMoreOwners: the owners of a session are kept by user. Those of one take the place of
// no other's, cannot be moved to another session or user, and go with the device.
func TestMoreOwners(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		_, other := device(t, db, alice, "B")
		of := func(session, user string) OwnersRef { return OwnersRef{ref("!r1", session), id.UserID(user)} }
		bobs, carols := of("m1", "@bob:hs"), of("m1", "@carol:hs")
		save(t, db, acct, dev.ID, &Changes{MoreOwners: []MoreOwners{
			{bobs, []byte("first")}, {carols, []byte("carol's")}, {of("m2", "@bob:hs"), []byte("other session")}, {bobs, []byte("second")},
		}})
		all := func() (map[OwnersRef]secret.Bytes, error) {
			return db.MoreOwners(t.Context(), acct, dev.ID, []OwnersRef{bobs, carols, of("m3", "@bob:hs"), bobs})
		}
		same(t, "owners", must[map[OwnersRef]secret.Bytes](t)(all()), map[OwnersRef]secret.Bytes{bobs: []byte("second"), carols: []byte("carol's")})
		same(t, "of another device", len(must[map[OwnersRef]secret.Bytes](t)(db.MoreOwners(t.Context(), acct, other.ID, []OwnersRef{bobs}))), 0)
		if raw(t, db, "UPDATE more_owners SET user_id = '@carol:hs' WHERE user_id = '@bob:hs' AND session_id = 'm2'") != 1 {
			t.Fatal("no row was changed")
		}
		if _, err := db.MoreOwners(t.Context(), acct, dev.ID, []OwnersRef{of("m2", "@carol:hs")}); !errors.Is(err, ErrSealed) {
			t.Errorf("owners that were given to somebody else: %v", err)
		}
		if err := db.DeleteDevice(t.Context(), acct, dev.ID); err != nil {
			t.Fatal(err)
		}
		same(t, "after the device", rowCounts(t, db)["more_owners"], 0)
	})
}
