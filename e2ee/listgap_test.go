package e2ee_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// Attack: bob withdraws a device's signature while the account has no device that would
// hear of it. What the account knew of him belongs to the account, and a new device begins
// with a sync that tells of no changes: the gap before it is closed all the same, and the
// device is given nothing (requirement 4.4).
func TestGapBeforeANewDevice(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, st *stage)
		asks    int // for what changed since the old device's position
	}{
		"no device is left": {func(t *testing.T, st *stage) {
			st.hs.Revoke(st.alice.Token)
			if err := st.eng.Forget(t.Context(), id.UserID(st.alice.UserID), id.DeviceID(st.alice.DeviceID)); err != nil {
				t.Fatal(err)
			}
		}, 0},
		"the old device fell silent": {func(_ *testing.T, st *stage) { st.silence() }, 1},
		"nobody tells what changed since": {func(_ *testing.T, st *stage) {
			st.silence()
			st.hs.Intercept(liar.Is("GET", "keys/changes$"), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
			lost := newPuppet(t, st.hs, "bob", "LOST")
			own.confirm(lost)
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			reads(t, lost, st.send(room, "before"))
			tt.prepare(t, st)
			st.hs.EditDeviceKeys(bob.UserID, lost.DeviceID, func(keys map[string]any) { keys["signatures"] = lost.deviceKeys()["signatures"] })
			fresh := newPuppet(t, st.hs, "bob", "FRESH")
			own.confirm(fresh)
			st.alice = st.hs.Login("alice", "SECOND")
			st.dev = st.device(st.alice)
			ready(t, st.dev)
			h := st.send(room, "after")
			reads(t, bob, h)
			reads(t, fresh, h)
			cannotRead(t, lost, h)
			if n := len(st.hs.Requests(liar.Is("GET", "keys/changes$"))); n != tt.asks {
				t.Errorf("asked %d times, want %d", n, tt.asks)
			}
		})
	}
}

// Attack: bob leaves, a device of his is stolen, he gets another and comes back, and so
// much happens that neither is in a timeline. Dendrite (v0.15.2) names nobody in device_lists
// who left or came in the gap of a limited one, nor later, nor in /keys/changes. The thief is
// given nothing, and the new device reads: the state of the gap says who came.
func TestReturnInAGap(t *testing.T) {
	t.Parallel()
	for name, own := range map[string]bool{"the client's syncs": false, "the proxy's own syncs": true} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, func(o *e2ee.Options) {
				if !own {
					o.OwnSyncAfter = time.Hour
				}
			})
			bob, identity := confirmedPuppet(t, st.hs, "bob", "BOB")
			stolen := newPuppet(t, st.hs, "bob", "STOLEN")
			identity.confirm(stolen)
			carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
			st.sync()
			reads(t, stolen, st.send(room, "before"))
			st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "/sync")), liar.Edit(func(_ *liar.Request, body map[string]any) {
				delete(body, "device_lists")
			}))
			hears, said := st.sync, liar.Event{Type: "m.reaction", Sender: carol.UserID, Content: json.RawMessage(`{}`)}
			if own { // they ask for no reactions
				hears, said = st.told, memberEvent(carol.UserID, "join")
			}
			talk := func() {
				for range 150 { // more than a timeline holds
					st.hs.Inject(room, said)
				}
				hears()
			}
			st.hs.Inject(room, memberEvent(bob.UserID, "leave"))
			talk()
			st.hs.EditDeviceKeys(bob.UserID, stolen.DeviceID, func(keys map[string]any) { keys["signatures"] = stolen.deviceKeys()["signatures"] })
			fresh := newPuppet(t, st.hs, "bob", "FRESH")
			identity.confirm(fresh)
			hears()
			st.hs.Inject(room, memberEvent(bob.UserID, "join"))
			talk()
			h := st.send(room, "after")
			reads(t, bob, h)
			reads(t, fresh, h)
			cannotRead(t, stolen, h)
		})
	}
}

// silence has the homeserver end the device's session softly: its keys stay, and it hears
// nothing any more.
func (st *stage) silence() {
	st.t.Helper()
	user, device := id.UserID(st.alice.UserID), id.DeviceID(st.alice.DeviceID)
	st.hs.Revoke(st.alice.Token)
	if err := st.eng.UnknownToken(st.t.Context(), user, device, secret.NewString(st.alice.Token), true); err != nil {
		st.t.Fatal(err)
	}
}
