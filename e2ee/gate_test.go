package e2ee_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// blockedBy returns the users whose change holds up a send, and those of them who had been
// verified; nothing when it is not held up.
func blockedBy(t *testing.T, err error) (users, lost []id.UserID) {
	t.Helper()
	var changed *e2ee.IdentityChangedError
	if err != nil && !errors.As(err, &changed) {
		t.Fatalf("send: %v", err)
	}
	if changed == nil {
		return nil, nil
	}
	return changed.Users, changed.Lost
}

// sentSoFar counts what reached the room or a device of somebody else.
func (st *stage) sentSoFar() int {
	return len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("PUT", "/(send|sendToDevice)/"))))
}

// The change of an identity holds up messages to those rooms that its owner may read: where
// they are, or are invited and the history's visibility lets those who are invited read.
// That they leave, are banned or only knock clears it (requirement 1.12).
func TestWhoHoldsUpASend(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		visibility string
		membership []string
		blocked    bool
	}{
		"joined":                            {"shared", []string{"join"}, true},
		"left":                              {"shared", []string{"join", "leave"}, false},
		"banned":                            {"shared", []string{"join", "ban"}, false},
		"left and came back":                {"shared", []string{"join", "leave", "join"}, true},
		"knocks":                            {"shared", []string{"knock"}, false},
		"invited, may read what is shared":  {"shared", []string{"invite"}, true},
		"invited, may read since then":      {"invited", []string{"invite"}, true},
		"invited, may read once joined":     {"joined", []string{"invite"}, false},
		"invited, and the invite withdrawn": {"shared", []string{"invite", "leave"}, false},
		"invited where all may read":        {"world_readable", []string{"invite"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
			direct := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			st.send(direct, "now bob is known")
			newIdentity(t, st.hs, bob.Session).confirm(bob)

			room := st.hs.CreateRoom(true, st.alice.UserID, carol.UserID)
			st.hs.Inject(room, stateEvent(st.alice.UserID, "m.room.history_visibility", map[string]string{"history_visibility": tt.visibility}))
			st.send(room, "bob is not there yet")
			for _, membership := range tt.membership {
				event := memberEvent(bob.UserID, membership)
				st.hs.Inject(room, event)
				st.told()
			}
			before := st.sentSoFar()
			_, err := st.trySend(room, "is bob there")
			users, _ := blockedBy(t, err)
			if want := []id.UserID{id.UserID(bob.UserID)}; slices.Equal(users, want) != tt.blocked {
				t.Errorf("held up by %v", users)
			}
			if tt.blocked && st.sentSoFar() != before {
				t.Error("something was sent all the same")
			}
			if users, _ := blockedBy(t, second(st.trySend(direct, "to bob"))); len(users) != 1 {
				t.Errorf("what happens in one room changed another: %v", users)
			}
		})
	}
}

func second[A any](_ A, err error) error { return err }

// A send that is held up is lost to nobody: once the very identity that is current then is
// acknowledged, the client's retry with the same transaction ID goes through, as one event.
// An acknowledgement that a second change has overtaken counts for nothing, whether the
// proxy knew of that change when it came or not.
func TestAcknowledgementMeetsASecondChange(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]bool{"that is known": true, "that is not known yet": false} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			var slow atomic.Bool // the homeserver does not tell
			defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "/sync")), liar.Edit(func(_ *liar.Request, body map[string]any) {
				if slow.Load() {
					delete(body, "device_lists")
				}
			}))()
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			st.send(room, "before")
			user := id.UserID(bob.UserID)
			first := newIdentity(t, st.hs, bob.Session)
			first.confirm(bob)
			st.told()

			out := st.outgoing(room, "held up")
			_, err := st.encrypt(out)
			if users, lost := blockedBy(t, err); len(users) != 1 || len(lost) != 0 {
				t.Fatalf("held up by %v, %v", users, lost)
			}
			trust, err := st.dev.User(t.Context(), user)
			if err != nil || trust.State != "changed" || trust.CurrentMasterKey != id.Ed25519(publicKey(first.master)) {
				t.Fatalf("%+v, %v", trust, err)
			}
			slow.Store(!known)
			latest := newIdentity(t, st.hs, bob.Session)
			latest.confirm(bob)
			if known {
				st.told()
			}
			err = st.dev.Acknowledge(t.Context(), user, trust.CurrentMasterKey)
			if known {
				wantErr(t, "acknowledging what was current before", err, e2ee.ErrMasterKeyNotCurrent)
			} else if err != nil {
				t.Fatal(err)
			}
			if !known {
				st.update(user)
			}
			before := st.sentSoFar()
			_, err = st.encrypt(out)
			if users, _ := blockedBy(t, err); len(users) != 1 || st.sentSoFar() != before {
				t.Errorf("held up by %v, sent %d", users, st.sentSoFar()-before)
			}

			if err := st.dev.Acknowledge(t.Context(), user, id.Ed25519(publicKey(latest.master))); err != nil {
				t.Fatal(err)
			}
			enc, err := st.encrypt(out)
			if err != nil {
				t.Fatal(err)
			}
			h := headerOf(t, enc.Content)
			h.event = st.put(out, enc)
			reads(t, bob, h)
			again, err := st.encrypt(out)
			if err != nil || again.EventID.String() != h.event {
				t.Errorf("a second retry: %+v, %v", again, err)
			}
		})
	}
}

// update makes one sync of the client's that tells of a change.
func (st *stage) update(user id.UserID) {
	st.t.Helper()
	in, err := st.dev.BeginSync(st.t.Context(), "later")
	if err != nil {
		st.t.Fatal(err)
	}
	defer in.End()
	if _, err := in.Commit(st.t.Context(), e2ee.SyncUpdate{Since: "later", NextBatch: "later still", Changed: []id.UserID{user}}); err != nil {
		st.t.Fatal(err)
	}
}

// An account that nobody watches acknowledges changes by itself, also those it saw before it
// was set so: it is told, it is counted, and sending goes on. The change of somebody it had
// verified holds up sending as ever.
func TestNobodyWatches(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	automatic := false
	st := newStage(t, func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings {
			return e2ee.AccountSettings{AcknowledgeUnverified: automatic}
		}
		reg = prometheus.NewRegistry()
		o.Metrics = reg
	})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	withBob := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	withCarol := st.hs.CreateRoom(true, st.alice.UserID, carol.UserID)
	st.send(withBob, "before")
	st.send(withCarol, "before")
	if err := st.dev.Verify(t.Context(), id.UserID(carol.UserID)); err != nil {
		t.Fatal(err)
	}
	newIdentity(t, st.hs, bob.Session).confirm(bob)
	newIdentity(t, st.hs, carol.Session).confirm(carol)
	st.told()
	if users, _ := blockedBy(t, second(st.trySend(withBob, "somebody watches"))); len(users) != 1 {
		t.Errorf("held up by %v", users)
	}
	st.stop()
	automatic = true
	st.start()
	st.dev = st.device(st.alice)
	reads(t, bob, st.send(withBob, "nobody watches"))
	if _, lost := blockedBy(t, second(st.trySend(withCarol, "verified before"))); !slices.Equal(lost, []id.UserID{id.UserID(carol.UserID)}) {
		t.Errorf("held up by %v", lost)
	}
	codes := warningCodes(t, st.dev)
	if w := codes["identity_changed"]; w.UserID != id.UserID(bob.UserID) || w.Message != bob.UserID+"'s digital identity was reset. It was accepted automatically, as is set for this account." {
		t.Errorf("warned of %+v", codes)
	}
	if codes["verification_lost"].UserID != id.UserID(carol.UserID) {
		t.Errorf("warned of %+v", codes)
	}
	newIdentity(t, st.hs, bob.Session).confirm(bob)
	st.told()
	reads(t, bob, st.send(withBob, "and again"))
	wantCount(t, reg, "e2ee_proxy_identity_changes_total", "others_accepted", 2)
	wantCount(t, reg, "e2ee_proxy_policy_sends_total", "blocked", 1)
}

// wantCount fails unless a counter with this label value stands at n.
func wantCount(t *testing.T, reg *prometheus.Registry, name, label string, n float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				if got := m.GetCounter().GetValue(); got != n {
					t.Errorf("%s %s is %v, want %v", name, label, got, n)
				}
				return
			}
		}
	}
	if n != 0 {
		t.Errorf("%s %s was never counted", name, label)
	}
}
