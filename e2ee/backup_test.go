package e2ee_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// backedUp waits until a user's newest backup holds so many keys, and returns its version.
func backedUp(t *testing.T, hs *liar.Server, user string, keys int) string {
	t.Helper()
	var version string
	await(t, "the room keys are not backed up", func() bool {
		var count int
		count, version = hs.BackedUp(user)
		return count == keys
	})
	return version
}

// newVersion makes a backup as another client would, and returns its private key.
func newVersion(t *testing.T, hs *liar.Server, s liar.Session, sign func(auth map[string]any)) *backup.MegolmBackupKey {
	t.Helper()
	key, err := backup.NewMegolmBackupKey()
	if err != nil {
		t.Fatal(err)
	}
	auth := map[string]any{"public_key": unpadded(key.PublicKey().Bytes())}
	sign(auth)
	call(t, hs, s, http.MethodPost, "room_keys/version", map[string]any{
		"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": auth,
	}, nil)
	return key
}

// uploads returns the versions that keys were uploaded to so far.
func uploads(hs *liar.Server, user string) []string {
	var out []string
	for _, r := range hs.Requests(liar.Of(user, liar.Is(http.MethodPut, "room_keys/keys"))) {
		out = append(out, strings.TrimPrefix(r.Query, "version="))
	}
	return out
}

// Another device of the user makes a new version whose key it puts into secret storage:
// everything is uploaded to it (requirement 16.6).
func TestBackupFollowsNewVersion(t *testing.T) {
	t.Parallel()
	alice, _, _ := pair(t)
	backedUp(t, alice.hs, alice.UserID, 1)
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
	alice.send(alice.newRoom(), "another key")
	if version := backedUp(t, alice.hs, alice.UserID, 2); version != "2" {
		t.Errorf("backed up in version %s", version)
	}
}

// Attack A14: the homeserver replaces the backup by one whose private key it knows. Its
// auth_data is unsigned, signed by an identity of its own, or the signature is of another
// key. No room key is ever encrypted to it, and the user is told.
func TestBackupOfTheHomeserver(t *testing.T) {
	t.Parallel()
	for name, sign := range map[string]func(t *testing.T, user string) func(map[string]any){
		"unsigned": func(*testing.T, string) func(map[string]any) { return func(map[string]any) {} },
		"signed by an identity of its own": func(t *testing.T, user string) func(map[string]any) {
			f := newForgery(t, user)
			return func(auth map[string]any) { f.sign(t, auth, f.master) }
		},
		"signed as another": func(t *testing.T, user string) func(map[string]any) {
			f := newForgery(t, user)
			return func(auth map[string]any) {
				f.sign(t, auth, f.master)
				signatures := auth["signatures"].(map[string]any)
				signatures["@mallory:liar.test"] = signatures[user]
				delete(signatures, user)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			alice, _, _ := pair(t)
			backedUp(t, alice.hs, alice.UserID, 1)
			newVersion(t, alice.hs, alice.Session, sign(t, alice.UserID))
			room := alice.newRoom()
			alice.send(room, "for the next key")
			await(t, "no warning", func() bool { return warningCodes(t, alice.dev)["backup_broken"].ID != "" })
			for _, version := range uploads(alice.hs, alice.UserID) {
				if version == "2" {
					t.Fatal("keys were uploaded to the homeserver's backup")
				}
			}
			if s := status(t, alice.dev); s.Backup.Trusted || !problems(s)["backup_broken"] {
				t.Errorf("status: %+v", s.Backup)
			}
			alice.restart()
			settle(t, alice.dev)
			alice.send(room, "after a restart")
			for _, version := range uploads(alice.hs, alice.UserID) {
				if version == "2" {
					t.Fatal("keys were uploaded to the homeserver's backup after a restart")
				}
			}
		})
	}
}

// A backup that the account's own identity has signed is written to even when its private
// key is not here (requirement 16.1); nothing can be read from it.
func TestBackupSignedByTheIdentity(t *testing.T) {
	t.Parallel()
	alice, _, _ := pair(t)
	backedUp(t, alice.hs, alice.UserID, 1)
	secrets, err := alice.dev.Secrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := &forgery{user: alice.UserID, master: signingKey(t, secrets["m.cross_signing.master"])}
	newVersion(t, alice.hs, alice.Session, func(auth map[string]any) { f.sign(t, auth, f.master) })
	setAccountData(t, alice.hs, alice.Session, "m.megolm_backup.v1", map[string]any{})
	room := alice.newRoom()
	alice.send(room, "for the next key")
	if version := backedUp(t, alice.hs, alice.UserID, 2); version != "2" {
		t.Errorf("backed up in version %s", version)
	}
	if s := status(t, alice.dev); !s.Backup.Trusted || s.Backup.Readable || !problems(s)["backup_unreadable"] || len(s.Warnings) != 0 {
		t.Errorf("status: %+v", s)
	}
}

// Another client deletes the backup: it is not made again behind the user's back, but the
// user is told; POST bootstrap makes a new one. If that client also switched key backup
// off, there is nothing to tell. Dendrite (0.15.2) answers with 500 who writes to a deleted one.
func TestBackupDeletedElsewhere(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]bool{"deleted": false, "switched off": true, "deleted on Dendrite": false} {
		alice, _, room := pair(t)
		backedUp(t, alice.hs, alice.UserID, 1)
		if name == "deleted on Dendrite" {
			alice.hs.Intercept(liar.Of(alice.UserID, liar.Is(http.MethodPut, "room_keys/keys")), func(r *liar.Request, next func() liar.Reply) liar.Reply {
				if r.Query == "version=1" {
					return liar.Failure(http.StatusInternalServerError, "M_UNKNOWN", "PerformKeyBackup: backup was deleted")
				}
				return next()
			})
		}
		if off {
			setAccountData(t, alice.hs, alice.Session, "m.key_backup", map[string]any{"enabled": false})
		}
		call(t, alice.hs, alice.Session, http.MethodDelete, "room_keys/version/1", map[string]any{}, nil)
		alice.send(alice.newRoom(), "a new key")
		await(t, "the deletion is not noticed", func() bool {
			s := status(t, alice.dev)
			if off {
				return !s.Backup.Enabled && len(s.Problems) == 0 && len(s.Warnings) == 0
			}
			return warningCodes(t, alice.dev)["backup_broken"].ID != "" && problems(s)["backup_broken"]
		})
		alice.restart()
		settle(t, alice.dev)
		alice.send(alice.newRoom(), "one more key")
		alice.dev.Maintain(t.Context())
		if _, version := alice.hs.BackedUp(alice.UserID); version != "" {
			t.Error("it was made again unasked")
		}
		if off {
			continue
		}
		if _, err := alice.dev.Bootstrap(t.Context(), e2ee.UserAuth{}); err != nil {
			t.Fatal(err)
		}
		alice.send(room, "on")
		if version := backedUp(t, alice.hs, alice.UserID, 3); version != "2" {
			t.Errorf("backed up in version %s", version)
		}
		await(t, "the warning stays", func() bool { return len(warningCodes(t, alice.dev)) == 0 })
	}
}

// An upload that fails is tried again by itself; one that is too large goes in smaller
// parts; after a restart it goes on.
func TestBackupUploadGoesOn(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	put := liar.Of(alice.UserID, liar.Is(http.MethodPut, "room_keys/keys"))
	broken := hs.Intercept(put, liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))
	for range 3 {
		alice.send(alice.newRoom(), "a key")
	}
	await(t, "no upload is tried", func() bool { return len(uploads(hs, alice.UserID)) > 0 })
	alice.restart()
	broken()
	hs.Intercept(put, func(r *liar.Request, next func() liar.Reply) liar.Reply {
		var body struct {
			Rooms map[string]json.RawMessage `json:"rooms"`
		}
		if err := r.JSON(&body); err != nil || len(body.Rooms) > 1 {
			return liar.Failure(http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "too large")
		}
		return next()
	})
	backedUp(t, hs, alice.UserID, 3)
}

// A backup that is not authenticated proves nothing: the text is shown grey, source
// backup. So it is for a wrong MAC, and for one that was made for another session or
// moved to another place; the MAC's own word that a key is not authentic counts too.
func TestUnauthenticatedBackup(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, alice, _ := conversation(t, hs, 1)
	for name, change := range map[string]func(data map[string]any){
		"no MAC": func(data map[string]any) { delete(data, "unsigned") },
		"a wrong MAC": func(data map[string]any) {
			data["unsigned"] = map[string]any{"org.matrix.msc4048.backup_mac": strings.Repeat("A", 43)}
		},
		"a member added": func(data map[string]any) { data["extra"] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			second := recovered(t, hs, alice, "DEVICE "+name, false)
			defer hs.Intercept(liar.Of(second.UserID, liar.Is(http.MethodGet, "room_keys/keys/")), editBackedKeys(func(_ *liar.Request, body map[string]any) {
				change(body["session_data"].(map[string]any))
			}))()
			events := second.history(room)
			for _, ev := range events {
				trust := ev.Unsigned.Trust
				if !ev.Decrypted || trust.Source != "backup" || trust.Color != "grey" || trust.Code != "AuthenticityNotGuaranteed" {
					t.Errorf("%q is shown as %+v", ev.Content.Body, trust)
				}
			}
			if len(events) != 2 {
				t.Errorf("%d events", len(events))
			}
		})
	}
}

// Attack: the homeserver gives one session's key under another's name, damaged data, or
// none of the right shape. Nothing is stored, the event stays undecrypted, and nothing
// breaks.
func TestHostileBackupData(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, alice, _ := conversation(t, hs, 1)
	for name, change := range map[string]func(r *liar.Request, body map[string]any){
		"no session data":  func(_ *liar.Request, body map[string]any) { delete(body, "session_data") },
		"data of a string": func(_ *liar.Request, body map[string]any) { body["session_data"] = "x" },
		"no ephemeral key": func(_ *liar.Request, body map[string]any) {
			delete(body["session_data"].(map[string]any), "ephemeral")
		},
		"a small-order ephemeral key": func(_ *liar.Request, body map[string]any) {
			body["session_data"].(map[string]any)["ephemeral"] = strings.Repeat("A", 43)
		},
		"no ciphertext": func(_ *liar.Request, body map[string]any) {
			body["session_data"].(map[string]any)["ciphertext"] = ""
		},
		"half a block": func(_ *liar.Request, body map[string]any) {
			body["session_data"].(map[string]any)["ciphertext"] = "AAAA"
		},
	} {
		t.Run(name, func(t *testing.T) {
			second := recovered(t, hs, alice, "DEVICE "+name, false)
			defer hs.Intercept(liar.Of(second.UserID, liar.Is(http.MethodGet, "room_keys/keys/")), editBackedKeys(change))()
			for _, ev := range second.history(room) {
				if ev.Decrypted || ev.Unsigned.Trust.Code != "MissingRoomKey" {
					t.Errorf("%s: %+v", ev.EventID, ev.Unsigned.Trust)
				}
			}
			if keys, err := second.dev.InboundSessions(t.Context()); err != nil || len(keys) != 0 {
				t.Errorf("%d keys, %v", len(keys), err)
			}
		})
	}
}

// The homeserver swaps the keys of two sessions in the backup.
func TestSwappedBackupKeys(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, _, second := conversation(t, hs, 1)
	hs.Intercept(liar.Of(second.UserID, liar.Is(http.MethodGet, "room_keys/keys/")), liar.Edit(swapBackedKeys))
	for _, ev := range second.history(room) {
		if ev.Decrypted {
			t.Errorf("%s was decrypted", ev.EventID)
		}
	}
}

// A homeserver that does not answer does not keep a reader of history for long.
func TestSlowBackupDoesNotHoldHistory(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, _, second := conversation(t, hs, 1)
	gate := liar.NewGate()
	hs.Intercept(liar.Of(second.UserID, liar.Is(http.MethodGet, "room_keys/keys/")), gate.Before)
	defer gate.Open()
	began := time.Now()
	for _, ev := range second.history(room) {
		if ev.Decrypted {
			t.Errorf("%s was decrypted", ev.EventID)
		}
	}
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("history took %v", took)
	}
}

// The password of a login is for the first bootstrap, and a reset by POST needs its own.
func TestResetNeedsAuthentication(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	identity, room := alice.master(), alice.newRoom()
	var needed *e2ee.AuthNeededError
	_, err := alice.dev.Reset(t.Context(), e2ee.UserAuth{})
	if !errorAs(err, &needed) || needed.Stage != "m.login.password" || needed.URL != "" {
		t.Errorf("a reset without authentication: %v", err)
	}
	_, err = alice.dev.Reset(t.Context(), e2ee.UserAuth{Password: secret.NewString("wrong")})
	wantErr(t, "a reset with a wrong password", err, e2ee.ErrWrongPassword)
	undo := hs.Intercept(liar.Is(http.MethodPost, "device_signing/upload"), func(r *liar.Request, next func() liar.Reply) liar.Reply {
		if strings.Contains(string(r.Body), `"wrong"`) {
			return liar.Failure(http.StatusForbidden, "M_FORBIDDEN", "as Dendrite says it")
		}
		return next()
	})
	_, err = alice.dev.Reset(t.Context(), e2ee.UserAuth{Password: secret.NewString("wrong")})
	wantErr(t, "the same on Dendrite", err, e2ee.ErrWrongPassword)
	undo()
	// The old identity is whole: it is used without a pause, and after a restart.
	alice.send(room, "at once")
	alice.restart()
	alice.send(room, "after a restart")
	ready(t, alice.dev)
	if alice.master() != identity || len(warningCodes(t, alice.dev)) != 0 {
		t.Error("a refused reset changed something")
	}
}
