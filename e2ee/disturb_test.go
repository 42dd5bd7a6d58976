package e2ee_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// shaken returns a stage whose engine is disturbed, and does not sync by itself.
func shaken(t *testing.T, tr *trouble) *stage {
	t.Helper()
	alice := aliceInOrder(t)
	st := &stage{rig: tr.rigOf(t, alice), alice: alice.session, shown: make(map[string]map[string]any)}
	st.dev = st.device(st.alice)
	ready(t, st.dev)
	settle(t, st.dev)
	t.Cleanup(func() {
		wantNoIndexTwice(t, st.hs)
		st.nothingLeaks("")(nil)
	})
	return st
}

// text sends a text as a request does that may be given up.
func (st *stage) text(ctx context.Context, out e2ee.Outgoing) error {
	if err := st.use(ctx); err != nil {
		return err
	}
	if how, err := st.dev.RoomEncryption(ctx, out.RoomID); err != nil || how != e2ee.RoomEncrypted {
		return fmt.Errorf("room encryption %d: %w", how, err)
	}
	enc, err := st.dev.Encrypt(ctx, out)
	if err != nil || enc.EventID != "" {
		return err
	}
	st.put(out, enc)
	return nil
}

// reads returns the texts of a room that a puppet can read with the keys it was given.
func (p *puppet) reads(room string) string {
	p.t.Helper()
	keys := p.roomKeys()
	var texts []string
	for _, ev := range p.hs.Events(room) {
		if ev.Type != "m.room.encrypted" {
			continue
		}
		var c struct {
			SessionID  string `json:"session_id"`
			Ciphertext string `json:"ciphertext"`
		}
		if err := json.Unmarshal(ev.Content, &c); err != nil {
			p.t.Fatal(err)
		}
		text := "?"
		if keys[c.SessionID] != nil {
			if plain, _, err := keys[c.SessionID].Decrypt([]byte(c.Ciphertext)); err == nil {
				text = string(plain)
			}
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "\n")
}

// A client that hangs up while its sync is committed lost the room key that came with it:
// the one-time key was gone from memory, and nothing was stored. What a response brings is
// stored whole or not at all, and the response can be asked for again.
func TestDisturbedCommit(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 15, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		return st.receiving(func(ctx context.Context) error {
			if err := st.use(ctx); err != nil {
				return err
			}
			return st.syncWith(ctx)
		})
	})
}

// The proxy's own sync moved its position with nothing stored: nobody knew any more that a
// room is encrypted, and to-device messages were acknowledged that nothing had come of.
func TestDisturbedOwnSync(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 5, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		return st.receiving(func(ctx context.Context) error {
			if err := st.use(ctx); err != nil {
				return err
			}
			return st.dev.SyncNow(ctx)
		})
	})
}

// receiving returns a scene in which a room key and its message come, over a new Olm
// session, with a change of the sender's devices, in a room that becomes encrypted.
func (st *stage) receiving(work func(ctx context.Context) error) scene {
	t, hs := st.t, st.hs
	bob, own := confirmedPuppet(t, hs, "bob", "BOB")
	room := hs.CreateRoom(false, st.alice.UserID, bob.UserID)
	st.sync()
	hs.Inject(room, liar.Event{
		Type: "m.room.encryption", StateKey: new(string), Sender: bob.UserID, Content: []byte(`{"algorithm":"m.megolm.v1.aes-sha2"}`),
	})
	m := bob.newMegolm(room)
	m.share(st.target())
	event := m.say("the first text")
	second := newPuppet(t, hs, "bob", "SECOND")
	own.confirm(second)
	return scene{work: work, outcome: func() string {
		if err := st.use(t.Context()); err != nil {
			t.Fatal(err)
		}
		st.awaitText(event, "the first text")
		// What comes over the same session, and over another, is read as well.
		next := bob.newMegolm(room)
		next.share(st.target())
		st.awaitText(next.say("the second text"), "the second text")
		last := second.newMegolm(room)
		last.share(st.target())
		st.awaitText(last.say("the third text"), "the third text")
		// What is answered reaches both devices, and the room is known to be encrypted even
		// if its homeserver denies it.
		defer hs.Intercept(liar.Is(http.MethodGet, "state/m.room.encryption"), liar.Fail(http.StatusNotFound, "M_NOT_FOUND"))()
		st.send(room, "the answer")
		got := []string{fmt.Sprint(len(bob.roomKeys())), fmt.Sprint(len(second.roomKeys()))}
		st.again()
		st.send(room, "after a restart")
		return strings.Join(append(got, fmt.Sprint(hs.OneTimeKeyCount(st.alice.UserID, st.alice.DeviceID) > 0)), " ")
	}}
}

// A send that is disturbed is sent once, when the client tries again, to all who may read
// it; its index is used for no other text.
func TestDisturbedSend(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 15, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		unsigned := newPuppet(t, st.hs, "bob", "UNSIGNED")
		room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
		first, second := st.outgoing(room, "one"), st.outgoing(room, "two")
		return scene{
			work: func(ctx context.Context) error {
				if err := st.text(ctx, first); err != nil {
					return err
				}
				return st.text(ctx, second)
			},
			between: st.nothingLeaks(room, unsigned),
			outcome: func() string {
				st.nothingLeaks(room, unsigned)(nil)
				return bob.reads(room)
			},
		}
	})
}

// Another device's request for a room key is answered, whatever disturbs the answer.
func TestDisturbedKeyShare(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 10, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		room := st.hs.CreateRoom(true, st.alice.UserID)
		h := st.send(room, "before the other device")
		other := st.ownPuppet("OTHER")
		st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, st.alice.UserID, "m.room_key_request", map[string]any{
			"action": "request", "request_id": "1", "requesting_device_id": "OTHER",
			"body": map[string]any{"algorithm": megolmAlgorithm, "room_id": room, "session_id": h.session},
		})
		return scene{
			work: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				if err := st.dev.SyncNow(ctx); err != nil {
					return err
				}
				st.dev.Maintain(ctx)
				return nil
			},
			outcome: func() string {
				await(t, "the key is not given", func() bool {
					if err := st.use(t.Context()); err != nil {
						t.Fatal(err)
					}
					st.dev.Maintain(t.Context())
					other.listen()
					return slices.ContainsFunc(other.opened, func(ev heard) bool { return ev.Type == "m.forwarded_room_key" })
				})
				return fmt.Sprint(slices.ContainsFunc(other.opened, func(ev heard) bool { return ev.Content["session_id"] == h.session }))
			},
		}
	})
}

// A bootstrap that is disturbed goes on to the same end: one identity, one secret storage,
// one backup.
func TestDisturbedBootstrap(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 20, func(t *testing.T, tr *trouble) scene {
		hs := liar.New(t)
		r := tr.rig(t, hs)
		s := hs.Login("alice", "FIRST")
		return scene{
			work: func(ctx context.Context) error {
				d, err := r.eng.Device(ctx, id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token))
				if err != nil {
					return err
				}
				_, err = d.Bootstrap(ctx, e2ee.UserAuth{})
				return err
			},
			outcome: func() string {
				d := r.device(s)
				ready(t, d)
				says(t, hs, d, s, "hello")
				backedUp(t, hs, s.UserID, 1)
				return fmt.Sprint(inspect(t, hs, s, recoveryKey(t, d)), calm(t, d))
			},
		}
	})
}

// A recovery that is disturbed can be repeated, and has changed nothing of the account but
// the device's signature.
func TestDisturbedRecover(t *testing.T) {
	t.Parallel()
	source := liar.New(t)
	first := newPerson(t, source, "alice", "FIRST")
	says(t, source, first.dev, first.Session, "to be restored")
	backedUp(t, source, first.UserID, 1)
	key := recoveryKey(t, first.dev)
	first.rig.stop()
	r := newRig(t, source, func(o *e2ee.Options) { o.Spread = -1 })
	s := source.Login("alice", "SECOND")
	settle(t, r.device(s))
	second := prepare(t, r, s)
	everyDisturbance(t, 10, func(t *testing.T, tr *trouble) scene {
		r := tr.rigOf(t, second)
		hs := r.hs
		settle(t, r.device(s))
		return scene{
			work: func(ctx context.Context) error {
				d, err := r.eng.Device(ctx, id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token))
				if err != nil {
					return err
				}
				return d.Recover(ctx, e2ee.Recovery{Key: key})
			},
			between: func(error) {
				// What is said of the device is what others see of it, and nothing of the account is
				// changed.
				said := status(t, r.device(s)).Identity.DeviceSigned
				if is := inspect(t, hs, s, key); said && !is.confirmed || is.identities != 1 || is.storages != 1 || is.keys != 1 {
					t.Errorf("the device says that it is signed: %v; the account is %+v", said, is)
				}
			},
			outcome: func() string {
				d := r.device(s)
				ready(t, d)
				return fmt.Sprint(inspect(t, hs, s, key), calm(t, d))
			},
		}
	})
}

// A reset that is disturbed leaves the old identity whole, or comes to its end.
func TestDisturbedReset(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 20, func(t *testing.T, tr *trouble) scene {
		alice := aliceInOrder(t)
		r, s := tr.rigOf(t, alice), alice.session
		hs, d := r.hs, r.device(s)
		ready(t, d)
		settle(t, d)
		before, old := hs.CrossSigningKey(s.UserID, "master"), recoveryKey(t, d)
		return scene{
			work: func(ctx context.Context) error {
				d, err := r.eng.Device(ctx, id.UserID(s.UserID), id.DeviceID(s.DeviceID), secret.NewString(s.Token))
				if err != nil {
					return err
				}
				_, err = d.Reset(ctx, e2ee.UserAuth{Password: secret.NewString("password of alice")})
				return err
			},
			between: func(err error) {
				if hs.CrossSigningKey(s.UserID, "master") != before {
					return
				}
				if err == nil {
					t.Error("the reset is done, and the old identity is there")
				}
				inspect(t, hs, s, old) // the old recovery key opens what belongs to the old identity
			},
			again: func(ctx context.Context) error {
				d := r.device(s)
				if hs.CrossSigningKey(s.UserID, "master") != before {
					return nil // the answer was lost, and what is left to do is done alone
				}
				_, err := d.Reset(ctx, e2ee.UserAuth{Password: secret.NewString("password of alice")})
				return err
			},
			outcome: func() string {
				d := r.device(s)
				d.Maintain(t.Context())
				ready(t, d)
				whole := inspect(t, hs, s, recoveryKey(t, d))
				return fmt.Sprint(whole, calm(t, d))
			},
		}
	})
}

// An acknowledgement holds, with its warning gone, or does not hold, with its warning there.
func TestDisturbedAcknowledge(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 3, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
		st.send(room, "before")
		newIdentity(t, st.hs, bob.Session).confirm(bob)
		st.told()
		await(t, "no warning", func() bool {
			_, _ = st.dev.User(t.Context(), id.UserID(bob.UserID))
			return codes(t, st.dev) == "identity_changed"
		})
		acknowledged := false
		master := id.Ed25519(st.hs.CrossSigningKey(bob.UserID, "master"))
		return scene{
			work: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				err := st.dev.Acknowledge(ctx, id.UserID(bob.UserID), master)
				acknowledged = err == nil
				return err
			},
			again: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				trust, err := st.dev.User(ctx, id.UserID(bob.UserID))
				if err != nil {
					return err
				}
				if warned := codes(t, st.dev) != ""; warned != (trust.State != "pinned") || acknowledged && warned {
					t.Errorf("bob is %s, warned: %v", trust.State, warned)
				}
				return st.dev.Acknowledge(ctx, id.UserID(bob.UserID), master)
			},
			outcome: func() string {
				if err := st.use(t.Context()); err != nil {
					t.Fatal(err)
				}
				st.send(room, "after")
				return fmt.Sprint(len(bob.roomKeys()), codes(t, st.dev))
			},
		}
	})
}

// What is disturbed while room keys are backed up is backed up later, once.
func TestDisturbedBackup(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 5, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
		for range 3 {
			bob.newMegolm(room).share(st.target())
		}
		return scene{
			work: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				if err := st.dev.SyncNow(ctx); err != nil {
					return err
				}
				st.dev.Maintain(ctx)
				return nil
			},
			outcome: func() string {
				await(t, "the keys are not backed up", func() bool {
					if err := st.use(t.Context()); err != nil {
						t.Fatal(err)
					}
					st.dev.Maintain(t.Context())
					n, _ := st.hs.BackedUp(st.alice.UserID)
					return n == 3
				})
				return fmt.Sprint(inspect(t, st.hs, st.alice, recoveryKey(t, st.dev)))
			},
		}
	})
}

// An import that is disturbed can be repeated, and what it brought is there once.
func TestDisturbedImport(t *testing.T) {
	t.Parallel()
	source := liar.New(t)
	other := newPerson(t, source, "other", "OTHER")
	for i := range 3 {
		says(t, source, other.dev, other.Session, fmt.Sprintf("text %d", i))
	}
	var file bytes.Buffer
	passphrase := secret.NewString("open sesame")
	if err := other.dev.ExportCheaply(t.Context(), passphrase, &file); err != nil {
		t.Fatal(err)
	}
	everyDisturbance(t, 2, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		return scene{
			work: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				_, err := st.dev.ImportKeys(ctx, passphrase, e2ee.KeyFile(file.Bytes()))
				return err
			},
			between: func(err error) {
				if e := st.use(t.Context()); e != nil {
					t.Fatal(e)
				}
				kept, e := st.dev.InboundSessions(t.Context())
				if e != nil || len(kept) != 3 && (err == nil || len(kept) != 0) {
					t.Errorf("the import ends with %v, and %d of 3 keys are there, %v", err, len(kept), e)
				}
			},
			outcome: func() string {
				if err := st.use(t.Context()); err != nil {
					t.Fatal(err)
				}
				st.dev.Maintain(t.Context())
				backedUp(t, st.hs, st.alice.UserID, 3)
				kept, err := st.dev.InboundSessions(t.Context())
				return fmt.Sprint(len(kept), err)
			},
		}
	})
}

// A logout that the homeserver has accepted leaves no keys behind, whoever hangs up, and
// what the database refuses is done when it is said again. One that is not confirmed leaves
// them all: see TestKeysAreDestroyedForOneReason.
func TestDisturbedLogout(t *testing.T) {
	t.Parallel()
	disturbances(t, 1, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		st.send(st.hs.CreateRoom(true, st.alice.UserID), "before")
		call(t, st.hs, st.alice, http.MethodPost, "logout", map[string]any{}, nil)
		return scene{
			work: func(ctx context.Context) error {
				err := st.eng.Forget(ctx, id.UserID(st.alice.UserID), id.DeviceID(st.alice.DeviceID))
				if ctx.Err() != nil && err != nil {
					t.Errorf("the client hung up: %v", err)
				}
				return err
			},
			outcome: func() string {
				devices, awake := st.eng.InMemory()
				row, err := st.db.LookupAccount(t.Context(), id.UserID(st.alice.UserID))
				if err != nil {
					t.Fatal(err)
				}
				stored, err := st.db.Devices(t.Context(), row)
				if err != nil {
					t.Fatal(err)
				}
				return fmt.Sprint(devices, awake, len(stored))
			},
		}
	}, clientGone, readFails, writeFails, commitFails)
}
