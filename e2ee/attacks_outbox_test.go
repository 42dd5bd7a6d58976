package e2ee_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// takesNothing has the homeserver refuse what alice sends to devices, for a while.
func (st *stage) takesNothing() (ends func()) {
	return st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("PUT", "sendToDevice/")), liar.Fail(http.StatusBadGateway, "M_UNKNOWN"))
}

// tries counts what was sent to devices, successfully or not.
func (st *stage) tries() int {
	return len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("PUT", "sendToDevice/m.room.encrypted"))))
}

// wantNothingWaits fails unless the outbox gets empty.
func (st *stage) wantNothingWaits() {
	st.t.Helper()
	await(st.t, "something still waits in the outbox", func() bool {
		st.dev.Maintain(st.t.Context())
		n, err := st.dev.InOutbox(st.t.Context())
		if err != nil {
			st.t.Fatal(err)
		}
		return n == 0
	})
}

// accepts records a membership that the homeserver has accepted from alice's client.
func (st *stage) accepts(room, user, membership string) {
	st.t.Helper()
	if err := st.dev.NoteMembership(st.t.Context(), id.RoomID(room), id.UserID(user), membership); err != nil {
		st.t.Fatal(err)
	}
}

// Attack: a device of alice's asks for a private key of her identity, for the backup's key or for a room
// key, as it may. The answer is sealed, and the homeserver takes nothing for devices. Meanwhile alice says
// that she distrusts the device, or its signature is withdrawn. An hour later the homeserver takes what
// it is sent again. The answer is not among it, nor is it kept: neither if the proxy was restarted. A
// device that has lost nothing gets it.
func TestAnswersThatWaitAreDecidedAgain(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"m.cross_signing.master", "m.megolm_backup.v1", "a room key"} {
		for name, tc := range map[string]struct {
			change func(a *asker)
			want   int
		}{
			"distrusted": {func(a *asker) { a.st.override(a.puppet, new(false)) }, 0},
			"signature withdrawn": {func(a *asker) {
				a.st.hs.EditDeviceKeys(a.UserID, a.DeviceID, func(keys map[string]any) { keys["signatures"] = a.deviceKeys()["signatures"] })
				a.st.told()
			}, 0},
			"distrusted, and a restart": {func(a *asker) { a.st.override(a.puppet, new(false)); a.st.again() }, 0},
			"nothing":                   {func(*asker) {}, 1},
			"a restart":                 {func(a *asker) { a.st.again() }, 1},
		} {
			t.Run(what+", "+name, func(t *testing.T) {
				t.Parallel()
				a := newAsker(t, what, nil)
				ends, before := a.st.takesNothing(), a.st.tries()
				a.ask("request")
				await(t, "no answer is made", func() bool { a.st.dev.Maintain(t.Context()); return a.st.tries() > before })
				tc.change(a)
				a.st.later(time.Hour)
				a.st.dev.Maintain(t.Context()) // nothing is under way any more that was decided before
				ends()
				a.st.told()
				a.st.wantNothingWaits()
				if n := a.answers(); n != tc.want {
					t.Errorf("%d answers, not %d", n, tc.want)
				}
			})
		}
	}
}

// Attack: alice is about to invite dave, and the message that says where his bundle of keys is waits, because
// the homeserver takes nothing for devices. Meanwhile his device is distrusted or loses its signature, or the
// invitation is taken back, there is none, the history is for members only from now on, or alice leaves. An hour
// later nothing of it is sent. If he is still invited, he gets the history.
func TestHistoryThatWaitsIsDecidedAgain(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(st *stage, room string, dave *puppet, of *identity)
		want   int
	}{
		"distrusted": {func(st *stage, _ string, dave *puppet, _ *identity) { st.override(dave, new(false)) }, 0},
		"signature withdrawn": {func(st *stage, _ string, dave *puppet, _ *identity) {
			st.hs.EditDeviceKeys(dave.UserID, dave.DeviceID, func(keys map[string]any) { keys["signatures"] = dave.deviceKeys()["signatures"] })
		}, 0},
		"identity replaced": {func(st *stage, _ string, dave *puppet, _ *identity) {
			newIdentity(st.t, st.hs, dave.Session).confirm(dave)
		}, 0},
		"invitation taken back": {func(st *stage, room string, dave *puppet, _ *identity) {
			st.hs.Inject(room, memberEvent(dave.UserID, "leave"))
			st.told()
		}, 0},
		"removed through the proxy": {func(st *stage, room string, dave *puppet, _ *identity) {
			st.hs.Inject(room, memberEvent(dave.UserID, "ban"))
			st.accepts(room, dave.UserID, "ban")
		}, 0},
		"only for members": {func(st *stage, room string, _ *puppet, _ *identity) {
			stateOf(st.t, st.hs, st.alice, room, "m.room.history_visibility", map[string]any{"history_visibility": "joined"})
			if err := st.dev.NoteVisibility(st.t.Context(), id.RoomID(room), "joined"); err != nil {
				st.t.Error(err)
			}
		}, 0},
		"alice leaves": {func(st *stage, room string, _ *puppet, _ *identity) {
			st.hs.Inject(room, memberEvent(st.alice.UserID, "leave"))
			st.accepts(room, st.alice.UserID, "leave")
		}, 0},
		"distrusted, and a restart": {func(st *stage, _ string, dave *puppet, _ *identity) { st.override(dave, new(false)); st.again() }, 0},
		"nothing":                   {func(*stage, string, *puppet, *identity) {}, 1},
		"a restart":                 {func(st *stage, _ string, _ *puppet, _ *identity) { st.again() }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
			dave, of := confirmedPuppet(t, st.hs, "dave", "DAVE")
			room, _ := st.ownRoom("shared")
			ends := st.takesNothing()
			st.share(room, dave)
			st.hs.Inject(room, invite(st.alice.UserID, dave.UserID))
			st.told()
			tc.change(st, room, dave, of)
			st.later(time.Hour)
			st.dev.Maintain(t.Context())
			ends()
			st.wantNothingWaits()
			if _, _, messages := dave.bundles(); len(messages) != tc.want {
				t.Errorf("%d bundles, not %d", len(messages), tc.want)
			}
		})
	}
}

// Attack: the history was sealed for dave, and the invitation never came about. It waits while one may still
// come, and then it is dropped.
func TestHistoryThatWaitsForAnInvitation(t *testing.T) {
	t.Parallel()
	for _, invited := range []bool{false, true} {
		st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
		dave, _ := confirmedPuppet(t, st.hs, "dave", "DAVE")
		room, _ := st.ownRoom("shared")
		ends := st.takesNothing()
		st.share(room, dave)
		st.later(time.Minute)
		st.dev.Maintain(t.Context())
		ends()
		st.dev.Maintain(t.Context())
		if n, err := st.dev.InOutbox(t.Context()); n != 1 || err != nil {
			t.Fatalf("%d requests wait: %v", n, err)
		}
		if invited {
			st.hs.Inject(room, invite(st.alice.UserID, dave.UserID))
			st.accepts(room, dave.UserID, "invite")
		} else {
			st.later(time.Minute)
		}
		st.wantNothingWaits()
		if _, _, messages := dave.bundles(); (len(messages) == 1) != invited {
			t.Errorf("invited: %v, %d bundles", invited, len(messages))
		}
	}
}

// Attack: what an older program has sealed waits in the outbox, and nothing says what it gives. One for a
// device that may have neither secrets nor history any more is dropped. The others are sent, and so is what
// is for devices of several users, which holds room keys.
func TestOutboxOfAnOlderProgramIsDecided(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	mine, lost := st.ownPuppet("MINE"), st.ownPuppet("LOST")
	dave, own := confirmedPuppet(t, st.hs, "dave", "DAVE")
	odd := newPuppet(t, st.hs, "dave", "ODD")
	own.confirm(odd)
	erin, _ := confirmedPuppet(t, st.hs, "erin", "ERIN")
	all := []*puppet{mine, lost, dave, odd, erin}
	await(t, "the own devices are not known to be confirmed", func() bool {
		st.told()
		now, err := st.dev.Own(t.Context())
		return err == nil && now.Device("MINE") != nil && now.Device("MINE").Signed && now.Device("LOST") != nil && now.Device("LOST").Signed
	})
	ends := st.takesNothing()
	leave := func(text string, to ...*puppet) {
		t.Helper()
		var devices []e2ee.UserDevice
		for _, p := range to {
			devices = append(devices, e2ee.UserDevice{UserID: id.UserID(p.UserID), DeviceID: id.DeviceID(p.DeviceID)})
		}
		if err := st.dev.LeaveAsBefore(t.Context(), "m.secret.send", []byte(`{"text":"`+text+`"}`), devices); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range all {
		leave("alone", p)
	}
	leave("together", dave, odd, erin)
	st.override(lost, new(false))
	st.override(odd, new(false))
	st.dev.Maintain(t.Context())
	ends()
	st.wantNothingWaits()
	for p, want := range map[*puppet]string{mine: "alone", lost: "", dave: "alone together", odd: "together", erin: "alone together"} {
		p.listen()
		var got []string
		for _, ev := range p.opened {
			text, _ := ev.Content["text"].(string)
			got = append(got, text)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s gets %q, not %q", p.DeviceID, got, want)
		}
	}
}

// Attack: the keys of a room's history are being uploaded for dave, which takes long. Meanwhile the invitation
// is sent and taken back by a ban, or by his own leaving, only members may read from now on, or alice
// leaves the room: he is given nothing. What others do in the room does not matter.
func TestHistoryWhileItIsUploaded(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(st *stage, room string, dave *puppet)
		want   int
	}{
		"banned": {func(st *stage, room string, dave *puppet) {
			st.accepts(room, dave.UserID, "invite")
			st.accepts(room, dave.UserID, "ban")
		}, 0},
		"removed some time ago": {func(st *stage, room string, dave *puppet) {
			for _, membership := range []string{"invite", "leave"} {
				st.hs.Inject(room, memberEvent(dave.UserID, membership))
				st.accepts(room, dave.UserID, membership)
			}
			st.later(time.Minute)
		}, 0},
		"declined": {func(st *stage, room string, dave *puppet) {
			st.hs.Inject(room, invite(st.alice.UserID, dave.UserID))
			st.hs.Inject(room, memberEvent(dave.UserID, "leave"))
			st.told()
		}, 0},
		"only for members": {func(st *stage, room string, _ *puppet) {
			if err := st.dev.NoteVisibility(st.t.Context(), id.RoomID(room), "joined"); err != nil {
				st.t.Error(err)
			}
		}, 0},
		"alice leaves": {func(st *stage, room string, _ *puppet) { st.accepts(room, st.alice.UserID, "leave") }, 0},
		"others come and go": {func(st *stage, room string, dave *puppet) {
			carol := "@carol:" + liar.ServerName
			for _, who := range [][2]string{{carol, "invite"}, {dave.UserID, "invite"}, {carol, "leave"}} {
				st.hs.Inject(room, memberEvent(who[0], who[1]))
				st.accepts(room, who[0], who[1])
			}
			st.later(time.Minute)
		}, 1},
		"others are invited first": {func(st *stage, room string, _ *puppet) {
			st.hs.Inject(room, memberEvent("@carol:"+liar.ServerName, "invite"))
			st.accepts(room, "@carol:"+liar.ServerName, "invite")
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
			dave, _ := confirmedPuppet(t, st.hs, "dave", "DAVE")
			room, _ := st.ownRoom("shared")
			gate := liar.NewGate()
			defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodPost, "media/v3/upload")), gate.Before)()
			done := make(chan struct{})
			go func() { defer close(done); st.share(room, dave) }()
			<-gate.Arrived()
			tc.change(st, room, dave)
			gate.Open()
			<-done
			if _, _, messages := dave.bundles(); len(messages) != tc.want {
				t.Errorf("%d bundles, not %d", len(messages), tc.want)
			}
		})
	}
}

// Who had left the room before is invited again, and gets the history.
func TestHistoryForWhoComesBack(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	dave, _ := confirmedPuppet(t, st.hs, "dave", "DAVE")
	room, _ := st.ownRoom("shared")
	for _, membership := range []string{"invite", "leave"} {
		st.hs.Inject(room, memberEvent(dave.UserID, membership))
		st.told()
	}
	st.share(room, dave)
	if _, _, messages := dave.bundles(); len(messages) != 1 {
		t.Errorf("%d bundles", len(messages))
	}
}
