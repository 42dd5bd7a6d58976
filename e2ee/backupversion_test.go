package e2ee_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
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

// Attack: the backup's key has become known, so the owner has made another backup. Then that one is
// deleted, and the homeserver shows the one before it again, as Synapse (1.163.2) does, with
// the good signature of the owner's identity. Nothing is uploaded for the old key, and the
// user is told.
func TestAttackReplacedBackupComesBack(t *testing.T) {
	t.Parallel()
	alice, _, _ := pair(t)
	backedUp(t, alice.hs, alice.UserID, 1)
	var old json.RawMessage
	call(t, alice.hs, alice.Session, http.MethodGet, "room_keys/version", nil, &old)
	key, err := alice.dev.RecoveryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, alice.hs, func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings { return e2ee.AccountSettings{RecoveryKey: key} }
	})
	session := alice.hs.Login("alice", "OTHER")
	other := r.device(session)
	ready(t, other)
	call(t, alice.hs, session, http.MethodDelete, "room_keys/version/1", map[string]any{}, nil)
	if _, err := other.Bootstrap(t.Context(), e2ee.UserAuth{}); err != nil {
		t.Fatal(err)
	}
	alice.send(alice.newRoom(), "for the new backup")
	if version := backedUp(t, alice.hs, alice.UserID, 2); version != "2" {
		t.Fatalf("backed up in version %s", version)
	}
	settle(t, alice.dev)
	r.stop()

	alice.hs.Intercept(liar.Is(http.MethodGet, "room_keys/version$"), func(*liar.Request, func() liar.Reply) liar.Reply { return liar.OK(old) })
	call(t, alice.hs, session, http.MethodDelete, "room_keys/version/2", map[string]any{}, nil)
	before := len(uploads(alice.hs, alice.UserID))
	alice.send(alice.newRoom(), "for nobody who has the old key")
	await(t, "the user is not told", func() bool {
		s := status(t, alice.dev)
		return problems(s)["backup_broken"] && !s.Backup.Trusted
	})
	alice.restart()
	settle(t, alice.dev)
	alice.send(alice.newRoom(), "nor after a restart")
	alice.dev.Maintain(t.Context())
	if after := uploads(alice.hs, alice.UserID)[before:]; slices.Contains(after, "1") {
		t.Errorf("keys were uploaded to the old backup: %v", after)
	}
}
