package e2ee_test

import (
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// noticeEvent is a notice as a plain client reads it.
type noticeEvent struct {
	Type      string `json:"type"`
	EventID   string `json:"event_id"`
	Sender    string `json:"sender"`
	Timestamp int64  `json:"origin_server_ts"`
	Content   struct {
		MsgType string `json:"msgtype"`
		Body    string `json:"body"`
	} `json:"content"`
	Unsigned struct {
		Warning struct {
			ID   string `json:"id"`
			Code string `json:"code"`
			User string `json:"user_id"`
		} `json:"dev.e2ee-proxy.warning"`
	} `json:"unsigned"`
}

// wantNotices fails unless the response shows so many notices, all of them in one room. It
// returns the last.
func wantNotices(t *testing.T, when string, extras e2ee.SyncExtras, room string, n int) (ev noticeEvent) {
	t.Helper()
	for where, all := range extras.Notices {
		if where.String() != room {
			t.Errorf("%s: %d notices in %s", when, len(all), where)
		}
	}
	all := extras.Notices[id.RoomID(room)]
	if len(all) != n {
		t.Errorf("%s: %d notices, want %d", when, len(all), n)
	}
	for _, raw := range all {
		if err := json.Unmarshal(raw, &ev); err != nil {
			t.Fatal(err)
		}
	}
	return ev
}

// somebodyChanged is alice, who is told in one room of two that bob's identity was reset,
// and the position that her client is at.
func somebodyChanged(t *testing.T) (alice, bob *person, room, since string) {
	t.Helper()
	alice, bob, room = pair(t)
	alice.send(alice.newRoom(newPerson(t, alice.hs, "carol", "CAROLS")), "nothing happens here")
	_, since = alice.sync("")
	bob.reset()
	alice.awaitLocated("identity_changed")
	t.Cleanup(func() {
		if alice.hs.PlaintextSeen("e2ee-proxy.invalid") {
			t.Error("the homeserver was sent the name of a notice")
		}
	})
	return alice, bob, room, since
}

// awaitLocated waits until it is known where to show a warning.
func (p *person) awaitLocated(code string) {
	p.t.Helper()
	await(p.t, "no room for the warning", func() bool { return len(warningCodes(p.t, p.dev)[code].RoomIDs) > 0 })
}

// A warning is a message in the rooms that it is about, from a sender of a server that cannot
// exist. A device is given it once: again until its client continues from the response that
// carried it, and anew when the client starts from nothing; not after a restart.
func TestNoticeIsShownOncePerDevice(t *testing.T) {
	t.Parallel()
	alice, bob, room, since := somebodyChanged(t)
	extras, _ := alice.sync(since)
	ev := wantNotices(t, "first", extras, room, 1)
	w := warningCodes(t, alice.dev)["identity_changed"]
	if ev.Type != "m.room.message" || ev.Content.MsgType != "m.notice" || ev.Content.Body != w.Message ||
		ev.Sender != e2ee.NoticeSender.String() || !e2ee.IsNoticeName(ev.Sender) || !e2ee.IsNoticeName(ev.EventID) ||
		ev.Timestamp != w.Since.UnixMilli() || ev.Unsigned.Warning.ID != w.ID || ev.Unsigned.Warning.User != bob.UserID {
		t.Errorf("the notice is %+v, the warning %+v", ev, w)
	}
	extras, next := alice.sync(since) // the client did not get that response
	if again := wantNotices(t, "asked for again", extras, room, 1); again.EventID != ev.EventID {
		t.Errorf("it was %s, now it is %s", ev.EventID, again.EventID)
	}
	place := func(when, want string) {
		t.Helper()
		if got, err := alice.dev.NoticePlace(t.Context(), id.RoomID(room), id.EventID(ev.EventID)); err != nil || got != want {
			t.Errorf("%s: the notice stands behind %q, %v, want %q", when, got, err, want)
		}
	}
	carried := next
	place("shown", carried)
	extras, next = alice.sync(next)
	wantNotices(t, "continued", extras, room, 0)
	place("continued", carried)
	alice.restart()
	extras, next = alice.sync(next) // before it is known again where the warning belongs
	wantNotices(t, "after a restart", extras, room, 0)
	alice.awaitLocated("identity_changed")
	extras, _ = alice.sync(next)
	wantNotices(t, "a while after a restart", extras, room, 0)
	place("after a restart", carried)
	extras, _ = alice.sync("")
	wantNotices(t, "from nothing", extras, room, 1)

	second := &person{t: t, hs: alice.hs, rig: alice.rig, Session: alice.hs.Login("alice", "SECOND")}
	second.dev = second.rig.device(second.Session)
	ready(t, second.dev)
	second.awaitLocated("identity_changed")
	extras, begin := second.sync("")
	wantNotices(t, "another device", extras, room, 1)
	extras, begin = second.sync(begin)
	wantNotices(t, "another device, continued", extras, room, 0)
	for name, tt := range map[string]struct {
		room, event string
		found       bool
	}{
		"the event":       {room, ev.EventID, true},
		"in another room": {"!other:liar.test", ev.EventID, false},
		"another event":   {room, "$other:" + e2ee.NoticeServer, false},
	} {
		raw, found, err := second.dev.Notice(t.Context(), id.RoomID(tt.room), id.EventID(tt.event))
		if err != nil || found != tt.found || found != (len(raw) > 0) {
			t.Errorf("%s: %s, %v, %v", name, raw, found, err)
		}
	}

	if err := second.dev.DismissWarning(t.Context(), w.ID); err != nil {
		t.Fatal(err)
	}
	extras, _ = alice.sync("")
	wantNotices(t, "after it was dismissed on another device", extras, room, 0)
	bob.reset()
	second.awaitLocated("identity_changed")
	extras, _ = second.sync(begin)
	if again := wantNotices(t, "another reset", extras, room, 1); again.EventID == ev.EventID {
		t.Error("another reset has the notice of the first")
	}
}

// A notice goes when what it warns of is over, also before it was shown, and is not shown
// where the user whom it is about no longer is.
func TestNoticeGoesWithItsCause(t *testing.T) {
	t.Parallel()
	t.Run("acknowledged", func(t *testing.T) {
		alice, bob, room, since := somebodyChanged(t)
		if err := alice.dev.Acknowledge(t.Context(), id.UserID(bob.UserID), bob.master()); err != nil {
			t.Fatal(err)
		}
		extras, _ := alice.sync(since)
		wantNotices(t, "after it was acknowledged", extras, room, 0)
	})
	t.Run("left", func(t *testing.T) {
		alice, bob, room, since := somebodyChanged(t)
		alice.hs.Inject(room, memberEvent(bob.UserID, "leave"))
		await(t, "the room is still named", func() bool { return len(warningCodes(t, alice.dev)["identity_changed"].RoomIDs) == 0 })
		extras, _ := alice.sync(since)
		wantNotices(t, "after the user left", extras, room, 0)
		if len(extras.Warnings) != 1 {
			t.Errorf("warnings: %+v", extras.Warnings)
		}
	})
}

// What concerns the own side is shown in one room, not in all; and when notices are switched
// off nothing is shown in rooms, but told in every response all the same.
func TestNoticeOfTheOwnSide(t *testing.T) {
	t.Parallel()
	for _, hidden := range []bool{false, true} {
		hs := liar.New(t)
		alice := &person{t: t, hs: hs, Session: hs.Login("alice", "FIRST")}
		alice.rig = newRig(t, hs, func(o *e2ee.Options) {
			o.Account = func(user id.UserID) e2ee.AccountSettings {
				return e2ee.AccountSettings{NoNotices: hidden && user == id.UserID(alice.UserID)}
			}
		})
		alice.dev = alice.rig.device(alice.Session)
		ready(t, alice.dev)
		for _, name := range []string{"bob", "carol"} {
			alice.send(alice.newRoom(newPerson(t, hs, name, "X")), "hello")
		}
		_, since := alice.sync("")
		newPuppet(t, hs, "alice", "STRAY")
		await(t, "no warning", func() bool { return warningCodes(t, alice.dev)["device_not_signed"].ID != "" })
		want := 1
		if hidden {
			want = 0
		}
		var shown []noticeEvent
		await(t, "no notice", func() bool {
			var extras e2ee.SyncExtras
			extras, since = alice.sync(since)
			for _, all := range extras.Notices {
				for _, raw := range all {
					var ev noticeEvent
					if err := json.Unmarshal(raw, &ev); err != nil {
						t.Fatal(err)
					}
					shown = append(shown, ev)
				}
			}
			return len(shown) >= want && len(extras.Warnings) == 1
		})
		if len(shown) != want || !hidden && shown[0].Unsigned.Warning.Code != "device_not_signed" {
			t.Errorf("hidden=%v: shown %+v", hidden, shown)
		}
	}
}
