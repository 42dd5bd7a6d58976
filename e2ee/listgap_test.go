package e2ee_test

import (
	"net/http"
	"testing"

	"maunium.net/go/mautrix/id"

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
