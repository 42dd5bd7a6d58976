package e2ee_test

import (
	"bytes"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// Wherever the process ends while messages are sent into new rooms and their keys are
// backed up, the client's retries go through, every key comes into the backup once, the
// reader can read all of it, and no index of a session carries two texts.
func TestCrashDuringSendAndBackup(t *testing.T) {
	t.Parallel()
	type outcome struct {
		accountState
		readable int
	}
	everyCrash(t, 10, func(t *testing.T, c *crash, after int) (bool, outcome) {
		hs := liar.New(t)
		bob, _ := confirmedPuppet(t, hs, "bob", "BOB")
		alice := &person{t: t, hs: hs, rig: c.rig(t, hs), Session: hs.Login("alice", "FIRST")}
		alice.dev = alice.rig.device(alice.Session)
		ready(t, alice.dev)
		var rooms []string
		for range 2 {
			rooms = append(rooms, hs.CreateRoom(true, alice.UserID, bob.UserID))
		}
		send := func() error {
			for i, room := range rooms {
				for j := range 2 {
					if _, err := alice.dev.RoomEncryption(t.Context(), id.RoomID(room)); err != nil {
						return err
					}
					if _, err := alice.trySend(room, fmt.Sprintf("text %d of room %d", j, i)); err != nil {
						return err
					}
				}
			}
			return nil
		}
		c.arm(after)
		err := send()
		if err == nil {
			c.over(t, func() bool { keys, _ := hs.BackedUp(alice.UserID); return keys == len(rooms) })
		}
		alice.rig.stop()
		died := c.disarm()
		if err != nil && !died {
			t.Fatal(err)
		}
		alice.rig.start()
		alice.dev = alice.rig.device(alice.Session)
		if err := send(); err != nil {
			t.Fatalf("the retry: %v", err)
		}
		backedUp(t, hs, alice.UserID, len(rooms))
		wantNoIndexTwice(t, hs)
		out := outcome{accountState: inspect(t, hs, alice.Session, recoveryKey(t, alice.dev))}
		keys := bob.roomKeys()
		for _, room := range rooms {
			for _, ev := range hs.Events(room) {
				if ev.Type != "m.room.encrypted" {
					continue
				}
				if h := headerOf(t, ev.Content); keys[h.session] != nil && uint64(keys[h.session].FirstKnownIndex()) <= h.index {
					out.readable++
				}
			}
		}
		return died, out
	})
}

// Wherever the process ends while a device asks another for the backup's key, or the
// other one while it answers, the key comes.
func TestCrashDuringSecretSharing(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"who asks", "who answers"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			everyCrash(t, 3, func(t *testing.T, c *crash, after int) (bool, string) {
				hs := liar.New(t)
				first := &person{t: t, hs: hs, Session: hs.Login("alice", "FIRST")}
				if who == "who answers" {
					first.rig = c.rig(t, hs)
				} else {
					first.rig = newRig(t, hs, nil)
				}
				first.dev = first.rig.device(first.Session)
				ready(t, first.dev)
				mine, err := first.dev.Secrets(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				setAccountData(t, hs, first.Session, backupSecret, map[string]any{})
				defer hs.Intercept(liar.Is("PUT", "account_data/"+backupSecret), func(*liar.Request, func() liar.Reply) liar.Reply {
					return liar.OK(map[string]any{})
				})()
				second := &person{t: t, hs: hs, Session: hs.Login("alice", "SECOND")}
				crashed := first
				if who == "who asks" {
					second.rig, crashed = c.rig(t, hs), second
				} else {
					second.rig = newRig(t, hs, nil)
				}
				second.dev = second.rig.device(second.Session)
				settle(t, second.dev)
				key := recoveryKey(t, first.dev)
				c.arm(after)
				err = second.recover(key)
				readable := func() bool {
					st, err := second.dev.Status(t.Context())
					return err == nil && st.Backup.Readable
				}
				if err == nil {
					c.over(t, readable)
				}
				crashed.rig.stop()
				died := c.disarm()
				if err != nil && !died {
					t.Fatal(err)
				}
				crashed.rig.start()
				crashed.dev = crashed.rig.device(crashed.Session)
				settle(t, crashed.dev)
				if err != nil {
					if err := second.recover(key); err != nil {
						t.Fatal(err)
					}
				}
				await(t, "the key does not come", readable)
				theirs, err := second.dev.Secrets(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return died, fmt.Sprint("the same key: ", mine[backupSecret] == theirs[backupSecret])
			})
		})
	}
}

// Wherever the process ends while room keys are imported, the import can be repeated, and
// what it brought is there once, and goes into the backup.
func TestCrashDuringImport(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	other := newPerson(t, hs, "other", "OTHER")
	for i := range 3 {
		says(t, hs, other.dev, other.Session, fmt.Sprintf("text %d", i))
	}
	var file bytes.Buffer
	passphrase := secret.NewString("open sesame")
	if err := other.dev.ExportCheaply(t.Context(), passphrase, &file); err != nil {
		t.Fatal(err)
	}
	everyCrash(t, 1, func(t *testing.T, c *crash, after int) (bool, accountState) {
		hs := liar.New(t)
		s := hs.Login("alice", "FIRST")
		r := c.rig(t, hs)
		d := r.device(s)
		ready(t, d)
		c.arm(after)
		_, err := d.ImportKeys(t.Context(), passphrase, e2ee.KeyFile(file.Bytes()))
		if err == nil {
			c.over(t, func() bool { keys, _ := hs.BackedUp(s.UserID); return keys == 3 })
		}
		r.stop()
		died := c.disarm()
		if err != nil && !died {
			t.Fatal(err)
		}
		r.start()
		d = r.device(s)
		if _, err := d.ImportKeys(t.Context(), passphrase, e2ee.KeyFile(file.Bytes())); err != nil {
			t.Fatalf("it cannot be repeated: %v", err)
		}
		backedUp(t, hs, s.UserID, 3)
		if kept, err := d.InboundSessions(t.Context()); err != nil || len(kept) != 3 {
			t.Errorf("%d keys are kept, %v", len(kept), err)
		}
		return died, inspect(t, hs, s, recoveryKey(t, d))
	})
}
