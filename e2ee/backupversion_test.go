package e2ee_test

import (
	"slices"
	"testing"
)

// Another client makes a new version, and nothing tells the device so until it writes to the
// old one and is refused with M_WRONG_ROOM_KEYS_VERSION. It looks again at whether the new
// one is to be trusted, and uploads everything to it (requirement 16.6). One that is not to
// be trusted is not followed, however often that is said.
func TestWrongBackupVersionIsFollowed(t *testing.T) {
	t.Parallel()
	for name, trusted := range map[string]bool{"of the identity": true, "of the homeserver": false} {
		t.Run(name, func(t *testing.T) {
			alice, _, _ := pair(t)
			backedUp(t, alice.hs, alice.UserID, 1)
			settle(t, alice.dev)
			secrets, err := alice.dev.Secrets(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f := newForgery(t, alice.UserID)
			if trusted {
				f.master = signingKey(t, secrets["m.cross_signing.master"])
			}
			newVersion(t, alice.hs, alice.Session, func(auth map[string]any) { f.sign(t, auth, f.master) })
			alice.send(alice.newRoom(), "for the next key")
			await(t, "nothing is written to the old version", func() bool {
				n := 0
				for _, version := range uploads(alice.hs, alice.UserID) {
					if version == "1" {
						n++
					}
				}
				return n > 1
			})
			if trusted {
				if version := backedUp(t, alice.hs, alice.UserID, 2); version != "2" {
					t.Errorf("backed up in version %s", version)
				}
				return
			}
			await(t, "no warning", func() bool { return warningCodes(t, alice.dev)["backup_broken"].ID != "" })
			alice.dev.Maintain(t.Context())
			if slices.Contains(uploads(alice.hs, alice.UserID), "2") {
				t.Error("keys were uploaded to the homeserver's backup")
			}
		})
	}
}
