package e2ee_test

import (
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/trustcache"
)

// heldSend is a send that something of the homeserver's holds up.
type heldSend struct {
	st   *stage
	out  e2ee.Outgoing
	done chan sendResult
}

type sendResult struct {
	enc e2ee.Encrypted
	err error
}

// begin begins to encrypt a text.
func (st *stage) begin(room, text string) *heldSend {
	st.t.Helper()
	if _, err := st.dev.RoomEncryption(st.t.Context(), id.RoomID(room)); err != nil {
		st.t.Fatal(err)
	}
	s := &heldSend{st, st.outgoing(room, text), make(chan sendResult, 1)}
	go func() {
		enc, err := st.dev.Encrypt(st.t.Context(), s.out)
		s.done <- sendResult{enc, err}
	}()
	return s
}

// arrives waits until a request of the send is held.
func (s *heldSend) arrives(gate *liar.Gate) {
	s.st.t.Helper()
	select {
	case <-gate.Arrived():
	case got := <-s.done:
		s.st.t.Fatalf("the send is over before it is held: %v", got.err)
	}
}

// end waits for the send and lets the event go out, if there is one.
func (s *heldSend) end() (header, error) {
	s.st.t.Helper()
	got := <-s.done
	if got.err != nil {
		return header{}, got.err
	}
	h := headerOf(s.st.t, got.enc.Content)
	h.event = s.st.put(s.out, got.enc)
	return h, nil
}

// wantBlocked fails unless the send was refused because of the identity of a user.
func (s *heldSend) wantBlocked(user string) {
	s.st.t.Helper()
	_, err := s.end()
	var changed *e2ee.IdentityChangedError
	if !errors.As(err, &changed) || !slices.Equal(changed.Users, []id.UserID{id.UserID(user)}) {
		s.st.t.Errorf("the send gives %v, want a refusal because of %s", err, user)
	}
}

// The moments between deciding who gets a room key and sealing the event, in which the
// homeserver can hold a send for as long as it likes.
var heldMoments = map[string]liar.Match{
	"while one-time keys are claimed":  liar.Is("POST", "keys/claim$"),
	"while the room key is given away": liar.Is("PUT", "sendToDevice/m.room.encrypted/"),
}

// Attack: the homeserver holds a send and replaces bob's whole identity meanwhile. The
// proxy hears of it before it encrypts, whether or not it has looked at the new identity
// already. Nothing that is said goes to a device of either, until alice has acknowledged
// the change.
func TestIdentityReplacedDuringASend(t *testing.T) {
	t.Parallel()
	for moment, match := range heldMoments {
		for _, looked := range []bool{false, true} {
			name := moment
			if looked {
				name += ", and it was looked at"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
				bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
				room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
				st.told()
				gate := liar.NewGate()
				defer st.hs.Intercept(liar.Of(st.alice.UserID, match), gate.Before)()
				send := st.begin(room, "to the bob we know")
				send.arrives(gate)
				spy := newPuppet(t, st.hs, "bob", "SPY")
				other := newIdentity(t, st.hs, bob.Session)
				other.confirm(spy)
				st.told()
				if looked {
					if _, err := st.dev.User(t.Context(), id.UserID(bob.UserID)); err != nil {
						t.Fatal(err)
					}
				}
				gate.Open()
				send.wantBlocked(bob.UserID)
				if n := len(st.hs.Requests(liar.Is("PUT", "/send/"))); n > 0 {
					t.Errorf("%d events were sent", n)
				}
				if err := st.dev.Acknowledge(t.Context(), id.UserID(bob.UserID), id.Ed25519(publicKey(other.master))); err != nil {
					t.Fatal(err)
				}
				h := st.send(room, "to the bob we know now")
				reads(t, spy, h)
				cannotRead(t, bob, h)
			})
		}
	}
}

// Attack: the same with one device of bob's. While the send is held its owner withdraws the
// signature, or alice her exception, or alice says that she distrusts it. The event
// that goes out cannot be read by that device, and the others have its key.
func TestDeviceLosesItsTrustDuringASend(t *testing.T) {
	t.Parallel()
	withdrawn := func(st *stage, odd *puppet) {
		st.hs.EditDeviceKeys(odd.UserID, odd.DeviceID, func(keys map[string]any) {
			keys["signatures"] = odd.deviceKeys()["signatures"]
		})
		st.told()
	}
	for moment, match := range heldMoments {
		for name, tc := range map[string]struct {
			signed, trusted bool
			lose            func(st *stage, odd *puppet)
			told            string
		}{
			"signature withdrawn": {true, false, withdrawn, "m.unverified"},
			"signature withdrawn, and it was looked at": {true, false, func(st *stage, odd *puppet) {
				withdrawn(st, odd)
				if _, err := st.dev.User(st.t.Context(), id.UserID(odd.UserID)); err != nil {
					st.t.Fatal(err)
				}
			}, "m.unverified"},
			"exception withdrawn": {false, true, func(st *stage, odd *puppet) { st.override(odd, nil) }, "m.unverified"},
			"distrusted":          {true, false, func(st *stage, odd *puppet) { st.override(odd, new(false)) }, "m.blacklisted"},
		} {
			t.Run(name+" "+moment, func(t *testing.T) {
				t.Parallel()
				st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
				bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
				odd := newPuppet(t, st.hs, "bob", "ODD")
				if tc.signed {
					own.confirm(odd)
				}
				room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
				st.told()
				if tc.trusted {
					st.override(odd, new(true))
				}
				gate := liar.NewGate()
				defer st.hs.Intercept(liar.Of(st.alice.UserID, match), gate.Before)()
				send := st.begin(room, "not for the odd device")
				send.arrives(gate)
				tc.lose(st, odd)
				gate.Open()
				h, err := send.end()
				if err != nil {
					t.Fatal(err)
				}
				reads(t, bob, h)
				cannotRead(t, odd, h)
				if odd.roomKeys()[h.session] != nil {
					t.Error("the session that the device was given is used further")
				}
				wantTold(t, odd, h.session, tc.told)
			})
		}
	}
}

// Attack: the same while the first room key of a new device waits until others have heard of
// that device.
func TestIdentityReplacedWhileTheKeyWaits(t *testing.T) {
	t.Parallel()
	st := newbornStage(t, func(o *e2ee.Options) { o.OwnSyncAfter, o.Spread = time.Hour, 4*time.Second })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.told()
	st.later(-10 * time.Second) // so that the whole time is left, however slow this machine is
	send := st.begin(room, "to the bob we know")
	await(t, "no session is made", func() bool { return !st.dev.KeyBegunAt(id.RoomID(room)).IsZero() })
	other := newIdentity(t, st.hs, bob.Session)
	other.confirm(bob) // the very device; its owner is in question all the same
	st.told()
	if n := len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$")))); n > 0 {
		t.Fatal("the key did not wait for long enough to show anything")
	}
	send.wantBlocked(bob.UserID)
	if n := len(bob.roomKeys()); n > 0 {
		t.Errorf("bob was given %d room keys", n)
	}
}

// Attack: while the send is held the homeserver replaces the user's own identity by one that
// has signed this device too. Nothing more leaves it.
func TestOwnIdentityReplacedDuringASend(t *testing.T) {
	t.Parallel()
	for moment, match := range heldMoments {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			st.told()
			gate := liar.NewGate()
			defer st.hs.Intercept(liar.Of(st.alice.UserID, match), gate.Before)()
			send := st.begin(room, "from a device that is confirmed")
			send.arrives(gate)
			forge := newForgery(t, st.alice.UserID)
			defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/query")), liar.Edit(func(_ *liar.Request, body map[string]any) {
				forge.show(t, body, st.alice.UserID, st.alice.DeviceID)
			}))()
			st.hs.ChangeDevices(st.alice.UserID)
			st.told()
			gate.Open()
			if h, err := send.end(); !errors.Is(err, e2ee.ErrDeviceNotSigned) {
				t.Errorf("event %s went out: %v", h.event, err)
			}
		})
	}
}

// While a send is held the day comes from which the policy is enforced: what it let pass
// before is decided by it.
func TestPolicyIsEnforcedDuringASend(t *testing.T) {
	t.Parallel()
	for moment, match := range heldMoments {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			var enforced atomic.Bool
			st := newStage(t, func(o *e2ee.Options) {
				o.OwnSyncAfter = time.Hour
				o.Policy = func() trustcache.Policy {
					if enforced.Load() {
						return trustcache.Policy{}
					}
					return trustcache.Policy{Send: trustcache.ModeWarn}
				}
			})
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			odd := newPuppet(t, st.hs, "bob", "ODD")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			st.told()
			gate := liar.NewGate()
			defer st.hs.Intercept(liar.Of(st.alice.UserID, match), gate.Before)()
			send := st.begin(room, "for confirmed devices only")
			send.arrives(gate)
			enforced.Store(true)
			gate.Open()
			h, err := send.end()
			if err != nil {
				t.Fatal(err)
			}
			reads(t, bob, h)
			cannotRead(t, odd, h)
		})
	}
}

// A device that says of itself that nothing is to be encrypted for it (MSC4261) gets no room
// key, confirmed or trusted by exception as it may be, no secret and no notice that it was
// left out, and costs nobody else a session. One that says so later loses the key.
func TestDeviceThatWantsNoKeys(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	silent := func(p *puppet, confirmed bool) {
		st.hs.EditDeviceKeys(p.UserID, p.DeviceID, func(keys map[string]any) {
			said := p.deviceKeys()
			said["org.matrix.msc4261.do_not_encrypt"] = true
			said = p.sign(said)
			if confirmed {
				said = own.signed(said, own.self)
			}
			clear(keys)
			maps.Copy(keys, said)
		})
	}
	confirmed, unsigned, trusted, later := newPuppet(t, st.hs, "bob", "CONFIRMED"), newPuppet(t, st.hs, "bob", "UNSIGNED"),
		newPuppet(t, st.hs, "bob", "TRUSTED"), newPuppet(t, st.hs, "bob", "LATER")
	silent(confirmed, true)
	silent(unsigned, false)
	silent(trusted, false)
	own.confirm(later)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.told()
	st.override(trusted, new(true))
	first := st.send(room, "first")
	reads(t, bob, first)
	reads(t, later, first)
	silent(later, true)
	st.told()
	h := st.send(room, "second")
	reads(t, bob, h)
	if h.session == first.session {
		t.Error("the session that one who wants none has is used further")
	}
	if next := st.send(room, "third"); next.session != h.session {
		t.Error("a device that wants no keys made a new session")
	}
	for _, p := range []*puppet{confirmed, unsigned, trusted} {
		if p.listen(); len(p.opened)+len(p.plain) > 0 {
			t.Errorf("%s was sent %d messages over Olm and %d in clear", p.DeviceID, len(p.opened), len(p.plain))
		}
	}
	cannotRead(t, later, h)
	if told := later.withheld()[h.session]; len(told) > 0 {
		t.Errorf("it was told %v", told)
	}
}

// What is known of somebody in another room changes all the time, and so may what is known
// of a member: as long as everybody may have what they get, a send that is held goes on
// where it was, with the session and the one-time keys that it has.
func TestHarmlessChangesDoNotStartASendOver(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	st.hs.CreateRoom(true, st.alice.UserID, carol.UserID)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.told()
	if _, err := st.dev.User(t.Context(), id.UserID(carol.UserID)); err != nil {
		t.Fatal(err)
	}
	gate := liar.NewGate()
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$")), gate.Before)()
	send := st.begin(room, "as if nothing had happened")
	send.arrives(gate)
	newIdentity(t, st.hs, carol.Session)
	second := newPuppet(t, st.hs, "bob", "SECOND")
	own.confirm(second)
	st.told()
	for _, user := range []string{bob.UserID, carol.UserID} {
		if _, err := st.dev.User(t.Context(), id.UserID(user)); err != nil {
			t.Fatal(err)
		}
	}
	gate.Open()
	h, err := send.end()
	if err != nil {
		t.Fatal(err)
	}
	reads(t, bob, h)
	all, err := st.dev.InboundSessions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(all); n != 1 {
		t.Errorf("%d sessions were made for one event", n)
	}
	if next := st.send(room, "with the new device"); next.session != h.session {
		t.Error("a device that was added made another session")
	} else {
		reads(t, second, next)
	}
}
