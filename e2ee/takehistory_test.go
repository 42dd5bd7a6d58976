package e2ee_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// Bob invites alice and gives her the keys of what was said before (requirement 17.7). Whatever
// comes first, the bundle, the invitation or the join, through which client ever, and with
// restarts in between, she reads it, and is told who shared it. The client never sees the
// message that says where the keys are, under either of its names.
func TestHistoryIsTakenFromTheInviter(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(st *stage, p *past, give func()){
		"bundle, invitation, join": func(st *stage, p *past, give func()) {
			give()
			st.told()
			p.invited()
			st.join(p.room)
		},
		"all at once, and the client syncs": func(st *stage, p *past, give func()) {
			st.sync()
			give()
			p.bob.invites(p.room, st.alice.UserID)
			st.sync()
			st.join(p.room)
		},
		"invitation, join, bundle": func(st *stage, p *past, give func()) {
			p.invited()
			st.join(p.room)
			give()
		},
		"joined with another client": func(st *stage, p *past, give func()) {
			give()
			p.invited()
			st.joinElsewhere(p.room)
		},
		"restarts": func(st *stage, p *past, give func()) {
			give()
			st.told()
			st.again()
			p.invited()
			st.again()
			st.hs.Intercept(liar.Is(http.MethodGet, "/media/"), liar.First(2, liar.Fail(http.StatusServiceUnavailable, "M_UNKNOWN")))
			st.join(p.room)
			st.again()
		},
		"where the homeserver knows the old path only": func(st *stage, p *past, give func()) {
			st.hs.Intercept(liar.Is(http.MethodGet, "/client/v1/media/"), liar.Fail(http.StatusNotFound, "M_UNRECOGNIZED"))
			give()
			p.invited()
			st.join(p.room)
		},
	} {
		for _, eventType := range []string{"m.room_key_bundle", "io.element.msc4268.room_key_bundle"} {
			t.Run(name+", "+eventType, func(t *testing.T) {
				t.Parallel()
				st := newStage(t, nil)
				p := newPast(t, st)
				run(st, p, func() {
					content := p.bob.stored(p.room, bundleOf([]any{p.key}, nil))
					p.bob.sendOlm(st.target(), p.bob.envelope(st.target(), eventType, content))
				})
				st.wantShared(p.event, p.text, p.bob.UserID)
				if i := slices.IndexFunc(st.heard, func(ev heard) bool { return ev.Type == eventType }); i >= 0 {
					t.Errorf("the client is shown %+v", st.heard[i])
				}
			})
		}
	}
}

// A client that joins reads the room's history at once: its join waits until the keys are here,
// also when the bundle is still at the homeserver.
func TestJoinWaitsForHistory(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(st *stage, p *past, give func()){
		"it came before": func(_ *stage, p *past, give func()) { give(); p.invited() },
		"it is there":    func(_ *stage, p *past, give func()) { p.invited(); give() },
	} {
		st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
		p := newPast(t, st)
		run(st, p, func() { p.bob.give(st.target(), p.bob.stored(p.room, bundleOf([]any{p.key}, nil))) })
		st.join(p.room)
		if n, first := st.kept(p.said.ID().String()); n != 1 || first != 0 {
			t.Errorf("%s: when the join is answered %d keys are here, from index %d", name, n, first)
		}
	}
}

// What the inviter says is not shared is a reason for what is missing. What the sender of a key
// said of it, and a key that is here, weigh more; other rooms' notes do not count.
func TestNotesOfABundle(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	p := newPast(t, st)
	elsewhere := p.bob.newMegolm(st.hs.CreateRoom(true, p.bob.UserID, st.alice.UserID))
	notShared, unstable, told, both := p.bob.newMegolm(p.room), p.bob.newMegolm(p.room), p.bob.newMegolm(p.room), p.bob.newMegolm(p.room)
	events := map[string]string{}
	wholes := map[string]any{"both": both.historic()}
	for name, m := range map[string]*megolm{"not shared": notShared, "unstable": unstable, "told": told, "both": both, "elsewhere": elsewhere} {
		events[name] = m.say(name)
	}
	st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, p.bob.UserID, "m.room_key.withheld", told.notShared("m.unverified"))
	p.bob.give(st.target(), p.bob.stored(p.room, bundleOf([]any{p.key, wholes["both"]}, []any{
		notShared.notShared("m.history_not_shared"), unstable.notShared("io.element.msc4268.history_not_shared"),
		told.notShared("m.history_not_shared"), both.notShared("m.history_not_shared"), elsewhere.notShared("m.history_not_shared"),
		"not an object", map[string]any{"room_id": p.room, "session_id": "x"},
	})))
	st.told()
	p.invited()
	st.join(p.room)
	st.wantShared(p.event, p.text, p.bob.UserID)
	st.wantShared(events["both"], "both", p.bob.UserID)
	for name, want := range map[string]string{"not shared": "m.history_not_shared", "unstable": "m.history_not_shared", "told": "m.unverified", "elsewhere": ""} {
		st.wantHidden(events[name], name)
		code, _ := trustOf(st.shown[events[name]])["withheld_code"].(string)
		if code != want {
			t.Errorf("%s: the reason is %q, want %q", name, code, want)
		}
	}
	if message := trustOf(st.shown[events["not shared"]])["message"]; message != "This message was sent before you came into the room, and may not be shared with later members." {
		t.Errorf("it says %q", message)
	}
}

// A bundle that is not to be had any more is given up (requirement 17.7), and one that comes
// later is taken, within a day of the join. After three that were of no use none is looked at.
func TestBundleThatIsGone(t *testing.T) {
	t.Parallel()
	for unusable := range 4 {
		st := newStage(t, nil)
		p := newPast(t, st)
		p.invited()
		st.join(p.room)
		for range unusable {
			content := p.bob.stored(p.room, bundleOf([]any{p.key}, nil))
			st.hs.PutFile("liar.test/bundle-of-BOB", nil)
			p.bob.give(st.target(), content)
			st.told()
			st.dev.Maintain(t.Context())
		}
		before := st.downloads()
		for range 2 {
			st.told()
			st.dev.Maintain(t.Context())
		}
		if n := st.downloads() - before; n > 0 {
			t.Errorf("a bundle that is gone is asked for %d times more", n)
		}
		p.bob.give(st.target(), p.bob.stored(p.room, bundleOf([]any{p.key}, nil)))
		if unusable < 3 {
			st.wantShared(p.event, p.text, p.bob.UserID)
			continue
		}
		st.told()
		st.dev.Maintain(t.Context())
		st.wantHidden(p.event, p.text)
	}
}

// A bundle counts for a day after its invitation was accepted, and not after alice has left
// again (requirement 17.7).
func TestWhenABundleIsTooLate(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(st *stage, p *past){
		"a day later": func(st *stage, _ *past) { st.later(25 * time.Hour) },
		"she has left": func(st *stage, p *past) {
			call(st.t, st.hs, st.alice, http.MethodPost, "rooms/"+p.room+"/leave", map[string]any{}, nil)
			st.told()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, nil)
			p := newPast(t, st)
			p.invited()
			st.join(p.room)
			st.told()
			then(st, p)
			p.bob.give(st.target(), p.bob.stored(p.room, bundleOf([]any{p.key}, nil)))
			st.told()
			st.dev.Maintain(t.Context())
			if n, _ := st.kept(p.said.ID().String()); n > 0 || st.downloads() > 0 {
				t.Errorf("%d keys, %d downloads", n, st.downloads())
			}
		})
	}
}

// Keys that came in a bundle may be passed on to the next who is invited: they are shareable by
// having been in one. What was withheld from alice stays so.
func TestSharedHistoryIsPassedOn(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	p := newPast(t, st)
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	p.bob.give(st.target(), p.bob.stored(p.room, bundleOf([]any{p.key}, nil)))
	st.told()
	p.invited()
	st.join(p.room)
	st.wantShared(p.event, p.text, p.bob.UserID)
	st.dev.ShareHistory(t.Context(), id.RoomID(p.room), id.UserID(carol.UserID))
	keys, _, _ := carol.bundles()
	if key := keys[p.said.ID().String()]; key["sender_key"] != p.bob.curve25519.String() || key["session_key"] != p.key["session_key"] {
		t.Errorf("carol is given %v", keys)
	}
}
