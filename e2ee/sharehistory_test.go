package e2ee_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/trustcache"
)

// ownRoom makes a room of alice's alone, with a history visibility and something said in it.
func (st *stage) ownRoom(visibility string) (room string, said header) {
	st.t.Helper()
	room = st.hs.CreateRoom(true, st.alice.UserID)
	st.setVisibility(room, visibility)
	return room, st.send(room, "in "+visibility)
}

func (st *stage) setVisibility(room, visibility string) {
	st.t.Helper()
	path := "rooms/" + url.PathEscape(room) + "/state/m.room.history_visibility"
	call(st.t, st.hs, st.alice, http.MethodPut, path, map[string]any{"history_visibility": visibility}, nil)
	st.told()
}

// share gives the history to a puppet that is about to be invited.
func (st *stage) share(room string, p *puppet) {
	st.t.Helper()
	st.dev.ShareHistory(st.t.Context(), id.RoomID(room), id.UserID(p.UserID))
}

// uploads counts the files that alice has uploaded.
func (st *stage) uploads() int { return len(st.hs.Files()) }

// Alice invites bob to a room whose history is visible to later members: his device gets every
// key that may be passed on, under room_keys, and hears of the others under withheld, never
// both (requirement 17.5). The message carries her device's keys (requirement 17.6). Nobody but
// him can read the file, and what she says next has another key.
func TestHistoryIsSharedWithAnInvitee(t *testing.T) {
	t.Parallel()
	for _, visibility := range []string{"shared", "world_readable"} {
		t.Run(visibility, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
			room, first := st.ownRoom("joined")
			st.setVisibility(room, visibility)
			second := st.send(room, "shareable")
			member, silent := carol.newMegolm(room), carol.newMegolm(room)
			for m, shared := range map[*megolm]bool{member: true, silent: false} {
				content := roomKey(room, m.ID().String(), m.export())
				content["shared_history"] = shared
				carol.sendOlm(st.target(), carol.envelope(st.target(), "m.room_key", content))
			}
			st.told()
			st.share(room, bob)
			keys, notes, messages := bob.bundles()
			if len(messages) != 1 || messages[0].Content["room_id"] != room || len(messages[0].DeviceKeys) == 0 {
				t.Fatalf("bob gets %+v", messages)
			}
			for session, owner := range map[string]id.Curve25519{second.session: st.target().curve25519, member.ID().String(): carol.curve25519} {
				key := keys[session]
				if key["sender_key"] != owner.String() || key["room_id"] != room || key["algorithm"] != megolmAlgorithm || key["session_key"] == nil || notes[session] != nil {
					t.Errorf("of %s bob gets %v, %v", session, key, notes[session])
				}
				if key["shared_history"] != nil || key["forwarding_curve25519_key_chain"] != nil {
					t.Errorf("the key has what no bundle has: %v", key)
				}
			}
			for _, session := range []string{first.session, silent.ID().String()} {
				if note := notes[session]; note["code"] != "m.history_not_shared" || note["room_id"] != room || note["sender_key"] == "" || keys[session] != nil {
					t.Errorf("of %s bob gets %v, %v", session, note, keys[session])
				}
			}
			for name, file := range st.hs.Files() {
				if json.Valid(file) {
					t.Errorf("%s is in clear", name)
				}
			}
			if next := st.send(room, "afterwards"); next.session == second.session {
				t.Error("a key that bob was given before he came is used for another message")
			}
		})
	}
}

// What only the backup has is fetched first (requirement 17.5), once for several invitations.
func TestHistoryOfTheBackupIsShared(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	first := newPerson(t, hs, "alice", "FIRST")
	room := hs.CreateRoom(true, first.UserID)
	if _, err := first.dev.RoomEncryption(t.Context(), id.RoomID(room)); err != nil {
		t.Fatal(err)
	}
	first.send(room, "with the first device")
	backedUp(t, hs, first.UserID, 1)
	second := &person{t: t, hs: hs, rig: newRig(t, hs, nil), Session: hs.Login("alice", "SECOND")}
	second.dev = second.rig.device(second.Session)
	settle(t, second.dev)
	if err := second.recover(recoveryKey(t, first.dev)); err != nil {
		t.Fatal(err)
	}
	ready(t, second.dev)
	asked := func() int {
		return len(hs.Requests(func(r *liar.Request) bool {
			return r.DeviceID == "SECOND" && liar.Is(http.MethodGet, "room_keys/keys/")(r)
		}))
	}
	before := asked()
	for _, name := range []string{"bob", "carol"} {
		p, _ := confirmedPuppet(t, hs, name, "DEVICE")
		second.dev.ShareHistory(t.Context(), id.RoomID(room), id.UserID(p.UserID))
		if keys, _, _ := p.bundles(); len(keys) != 1 {
			t.Errorf("%s is given %d keys", name, len(keys))
		}
	}
	if n := asked() - before; n != 1 {
		t.Errorf("the backup is asked %d times", n)
	}
}

// Attack A23 and requirement 17.5. Only a device that its owner's identity has signed gets the
// history, whatever the policy says and whatever exceptions there are; nobody does whose
// identity changed without being acknowledged, whose homeserver cannot be asked, or from a
// device that is not signed itself. Nothing is uploaded for nobody.
func TestWhoGetsNoHistory(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, st *stage, bob *puppet, of *identity) (none bool){
		"an unsigned device beside a signed one": func(t *testing.T, st *stage, _ *puppet, _ *identity) bool {
			newPuppet(t, st.hs, "bob", "ODD")
			return false
		},
		"one with an exception beside it": func(t *testing.T, st *stage, _ *puppet, _ *identity) bool {
			st.override(newPuppet(t, st.hs, "bob", "ODD"), new(true))
			return false
		},
		"one that is distrusted": func(_ *testing.T, st *stage, bob *puppet, _ *identity) bool {
			st.override(bob, new(false))
			return true
		},
		"somebody whose identity changed": func(t *testing.T, st *stage, bob *puppet, _ *identity) bool {
			if _, err := st.dev.User(t.Context(), id.UserID(bob.UserID)); err != nil {
				t.Fatal(err)
			}
			newIdentity(t, st.hs, bob.Session).confirm(bob)
			return true
		},
		"somebody whose homeserver is down": func(_ *testing.T, st *stage, bob *puppet, _ *identity) bool {
			st.hs.Intercept(liar.Is(http.MethodPost, "keys/query"), liar.Edit(func(_ *liar.Request, body map[string]any) {
				devices, _ := body["device_keys"].(map[string]any)
				delete(devices, bob.UserID)
				body["failures"] = map[string]any{"liar.test": map[string]any{}}
			}))
			return true
		},
	} {
		for _, mode := range []trustcache.Mode{trustcache.ModeEnforce, trustcache.ModeWarn, trustcache.ModeOff} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				st := newStage(t, func(o *e2ee.Options) {
					o.Policy = func() trustcache.Policy { return trustcache.Policy{Send: mode} }
				})
				bob, of := confirmedPuppet(t, st.hs, "bob", "BOB")
				room, _ := st.ownRoom("shared")
				none := prepare(t, st, bob, of)
				st.told()
				st.share(room, bob)
				if _, _, got := bob.bundles(); (len(got) == 0) != none {
					t.Errorf("bob's device gets %d bundles", len(got))
				}
				if n := st.uploads(); (n == 0) != none {
					t.Errorf("%d files are uploaded", n)
				}
				for _, r := range st.hs.Requests(liar.Of(st.alice.UserID, liar.Is(http.MethodPut, "sendToDevice/m.room.encrypted"))) {
					var body struct {
						Messages map[string]map[string]any `json:"messages"`
					}
					if err := r.JSON(&body); err != nil || body.Messages[bob.UserID]["ODD"] != nil {
						t.Errorf("the odd device is written to, %v", err)
					}
				}
			})
		}
	}
}

// Nothing is shared of a room that is plain, whose history later members may not see, that
// alice is not in, or in which nobody said anything; nor from a device that is not signed.
func TestWhatIsNoHistory(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	plain := st.hs.CreateRoom(false, st.alice.UserID)
	silent := st.hs.CreateRoom(true, st.alice.UserID)
	left, _ := st.ownRoom("shared")
	call(t, st.hs, st.alice, http.MethodPost, "rooms/"+url.PathEscape(left)+"/leave", map[string]any{}, nil)
	st.told()
	rooms := []string{plain, silent, left}
	for _, visibility := range []string{"joined", "invited"} {
		room, _ := st.ownRoom("shared")
		st.setVisibility(room, visibility)
		rooms = append(rooms, room)
	}
	for _, room := range rooms {
		st.share(room, bob)
	}
	room, _ := st.ownRoom("shared")
	st.hs.EditDeviceKeys(st.alice.UserID, st.alice.DeviceID, func(keys map[string]any) {
		signed, _ := keys["signatures"].(map[string]any)
		mine, _ := signed[st.alice.UserID].(map[string]any)
		for name := range mine {
			if name != "ed25519:"+st.alice.DeviceID {
				delete(mine, name)
			}
		}
	})
	defer st.hs.Intercept(liar.Is(http.MethodPost, "signatures/upload"), liar.Fail(http.StatusForbidden, "M_FORBIDDEN"))()
	st.told()
	st.dev.Maintain(t.Context())
	if status(t, st.dev).Identity.DeviceSigned {
		t.Fatal("the device is still signed")
	}
	st.share(room, bob)
	if _, _, got := bob.bundles(); len(got) > 0 || st.uploads() > 0 {
		t.Errorf("bob gets %d bundles, %d files are uploaded", len(got), st.uploads())
	}
}

// Bob's device loses its signature, or his identity changes, after it was decided that it may
// have the history and while a one-time key is claimed: it is decided again, and nothing is sent.
func TestHistoryIsDecidedAgain(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(st *stage, bob *puppet){
		"the signature is gone": func(st *stage, bob *puppet) {
			st.hs.EditDeviceKeys(bob.UserID, "BOB", func(keys map[string]any) { keys["signatures"] = bob.deviceKeys()["signatures"] })
		},
		"the identity changed": func(st *stage, bob *puppet) { newIdentity(st.t, st.hs, bob.Session).confirm(bob) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			room, _ := st.ownRoom("shared")
			claimed := liar.NewGate()
			st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodPost, "keys/claim")), claimed.After)
			done := make(chan struct{})
			go func() { defer close(done); st.share(room, bob) }()
			<-claimed.Arrived()
			change(st, bob)
			if _, err := st.dev.Requery(t.Context(), id.UserID(bob.UserID)); err != nil {
				t.Fatal(err)
			}
			claimed.Open()
			<-done
			if _, _, got := bob.bundles(); len(got) > 0 {
				t.Errorf("bob gets %d bundles", len(got))
			}
		})
	}
}

// The homeserver does not take the file, or not in time. The invitation goes on; what was ready
// too late is sent all the same.
func TestSharingHoldsNoInvitationUp(t *testing.T) {
	t.Parallel()
	within := 30 * time.Second
	st := newStage(t, func(o *e2ee.Options) { o.ShareWithin = within })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room, _ := st.ownRoom("shared")
	stop := st.hs.Intercept(liar.Is(http.MethodPost, "media/v3/upload"), liar.Fail(http.StatusRequestEntityTooLarge, "M_TOO_LARGE"))
	st.share(room, bob)
	stop()
	if _, _, got := bob.bundles(); len(got) > 0 {
		t.Errorf("bob gets %d bundles", len(got))
	}
	within = time.Millisecond
	st.again()
	ready(t, st.dev)
	slow := liar.NewGate()
	st.hs.Intercept(liar.Is(http.MethodPost, "media/v3/upload"), slow.Before)
	st.share(room, bob) // returns, although the homeserver does not
	<-slow.Arrived()
	if _, _, got := bob.bundles(); len(got) > 0 {
		t.Errorf("bob gets %d bundles", len(got))
	}
	slow.Open()
	await(t, "bob gets no bundle", func() bool { _, _, got := bob.bundles(); return len(got) == 1 })
}
