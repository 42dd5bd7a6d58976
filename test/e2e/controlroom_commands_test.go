package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// What else can be written: exceptions are made and ended, a verification is withdrawn, a warning
// dropped, and the identity reset with the password. The new recovery key is shown until it is saved.
func TestControlRoomDoesTheRest(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		b := newAccount(t, hs, "bob")
		bob := loginCurl(t, proxy.URL, b, "BOB1")
		control := bob.controlRoom()
		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		bob.awaitInOrder()
		alice.AwaitMember(room, b.UserID, "join")
		alice.AwaitDecrypted(room, bob.SendText(room, "before"))

		who := a.UserID + " " + alice.DeviceID
		bob.ask(control, "distrust "+who, "Write yes to make this exception")
		bob.ask(control, "no", "Nothing was changed")
		bob.ask(control, "distrust "+who, "Write yes to make this exception")
		bob.ask(control, "yes", "To end the exception")
		bob.ask(control, "devices "+a.UserID, "by your exception it counts as not confirmed")
		bob.ask(control, "trust "+who, "although its owner has not confirmed it")
		bob.ask(control, "yes", "To end the exception")
		bob.ask(control, "devices "+a.UserID, "by your exception it counts as confirmed")
		bob.ask(control, "undo "+who, "There is no exception")
		bob.ask(control, "trust "+a.UserID, "Write the device behind it")

		bob.ask(control, "withdraw "+a.UserID, "nothing to give up")
		bob.call(http.MethodPost, userPath(a.UserID, "verify"), map[string]any{"master_key": bob.user(a.UserID).CurrentMasterKey}, nil)
		bob.ask(control, "devices "+a.UserID, "You have verified them")
		bob.ask(control, "withdraw "+a.UserID, "still the one that you verified")
		bob.ask(control, "verify", "Write whom")
		bob.ask(control, "verify me", "no other device with encryption")
		bob.ask(control, "cancel", "nothing to cancel")
		bob.ask(control, "setup", "has everything that it needs")

		alice.Reset(a.Password)
		bob.until("no warning", func() bool {
			return slices.ContainsFunc(bob.timeline[control], func(e tesths.Event) bool {
				return strings.Contains(bodyOf(e), "To verify again, write: verify "+a.UserID)
			})
		})
		bob.ask(control, "warnings", "1. ")
		bob.ask(control, "dismiss 7", "Write the number")
		bob.ask(control, "dismiss 1", "The warning is dropped")
		bob.ask(control, "warnings", "There are no warnings")
		bob.ask(control, "acknowledge "+a.UserID, "accepting the new one is not enough")
		bob.ask(control, "withdraw "+a.UserID, "Write yes to give the verification up")
		bob.ask(control, "yes", "is not verified any more")
		alice.AwaitDecrypted(room, bob.SendText(room, "after"))

		bob.ask(control, "reset", "Write yes to reset")
		bob.ask(control, "yes", "asks for the password")
		bob.ask(control, "not the password", "did not accept the password")
		bob.ask(control, "reset", "Write yes to reset")
		bob.ask(control, "yes", "asks for the password")
		shown := bob.ask(control, b.Password, "Your new recovery key is")
		_, key, _ := strings.Cut(shown, "\n\n")
		key, _, _ = strings.Cut(key, "\n")
		wantNotKept(t, bob, control, b.Password)
		if all := string(bob.get(roomPath(control, "messages?dir=b&limit=100")).Body); len(key) < 50 || !strings.Contains(all, key) {
			t.Fatalf("the recovery key is not shown: %d characters", len(key))
		}
		bob.ask(control, "saved", "not shown here any more")
		wantNotKept(t, bob, control, key)
		bob.ask(control, "recover", "Write your recovery key")
		bob.ask(control, key, "This device is confirmed")
		wantNotKept(t, bob, control, key)
	})
}
