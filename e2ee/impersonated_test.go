package e2ee_test

import (
	"net/http"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/trustcache"
)

// A ghost's device says that a bridge's device speaks for it, with that device's signature and
// that of the ghost's own identity (requirement 1.22, MSC4350). The proposal is not accepted, and
// whoever controls the homeserver could publish such a device: the ghost's messages are those
// of a sender who does not own the key, and are held back however well the bridge is signed. An
// administrator who lists the bridge has them shown with the warning that the specification
// demands. Nothing is encrypted for such a device.
func TestImpersonatedSenders(t *testing.T) {
	t.Parallel()
	for _, listed := range []bool{false, true} {
		for _, name := range []string{"impersonator", "fi.mau.msc4350.impersonator"} {
			st := newStage(t, func(o *e2ee.Options) {
				o.Policy = func() trustcache.Policy {
					return trustcache.Policy{Bridges: map[id.UserID]bool{"@bridge:liar.test": listed}}
				}
			})
			bridge, _ := confirmedPuppet(t, st.hs, "bridge", "BRIDGE")
			ghost := silentPuppet(t, st.hs, st.hs.Login("ghost", "GHOST"))
			own := newIdentity(t, st.hs, ghost.Session)
			speaker := bridge.deviceKeys()
			delete(speaker, "signatures")
			keys := map[string]any{
				"user_id": ghost.UserID, "device_id": "GHOST", "algorithms": []string{}, "keys": map[string]any{}, name: speaker,
			}
			signed := bridge.sign(keys) // with the bridge's device
			signed["signatures"].(map[string]any)[ghost.UserID] = own.signed(map[string]any{
				"user_id": ghost.UserID, "device_id": "GHOST", "algorithms": []string{}, "keys": map[string]any{}, name: speaker,
			}, own.self)["signatures"].(map[string]any)[ghost.UserID]
			st.hs.Intercept(liar.Is(http.MethodPost, "keys/query"), liar.Edit(func(_ *liar.Request, body map[string]any) {
				all, _ := body["device_keys"].(map[string]any)
				if all[ghost.UserID] != nil {
					all[ghost.UserID] = map[string]any{"GHOST": signed}
				}
			}))
			room := st.hs.CreateRoom(true, st.alice.UserID, bridge.UserID, ghost.UserID)
			st.send(room, "for the bridge")
			said := bridge.newMegolm(room)
			said.share(st.target())
			event := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: ghost.UserID, Content: said.seal(said.text("from over the bridge"))})
			if listed {
				st.awaitText(event, "from over the bridge")
			} else {
				st.wantHidden(event, "from over the bridge")
			}
			if trust := trustOf(st.shown[event]); trust["code"] != "MismatchedSender" || trust["color"] != "red" || trust["decrypted"] != listed {
				t.Errorf("%s, listed %t: it is shown with %v", name, listed, trust)
			}
			if len(bridge.roomKeys()) != 1 {
				t.Errorf("the bridge has %d keys", len(bridge.roomKeys()))
			}
			for _, r := range st.hs.Requests(liar.Of(st.alice.UserID, liar.Is(http.MethodPut, "sendToDevice"))) {
				if strings.Contains(string(r.Body), "GHOST") {
					t.Errorf("the ghost's device was written to: %s", r.Path)
				}
			}
		}
	}
}
