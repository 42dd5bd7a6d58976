package e2e

import (
	"testing"

	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/testpeer"
)

// The lying homeserver is honest enough, as long as no hook says otherwise, for two
// Element peers: bootstrap, rooms, room keys, backup, recovery on a second device.
func TestElementPeersOnLiar(t *testing.T) {
	t.Parallel()
	s := liar.New(t)
	a, password := s.AddUser("alice")
	b, bobPassword := s.AddUser("bob")
	host := testpeer.NodeHost(t)
	alice := host.Element(t, testpeer.Options{URL: s.URL, User: a, Password: password, Setup: testpeer.Bootstrap})
	bob := host.Element(t, testpeer.Options{URL: s.URL, User: b, Password: bobPassword, Setup: testpeer.Bootstrap})

	room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b}})
	bob.AwaitRoom(room, "invite")
	bob.Join(room)
	alice.AwaitMember(room, b, "join")
	sent := alice.SendText(room, "CANARY")
	if got := bob.AwaitDecrypted(room, sent); got.Body != "CANARY" || got.Shield == nil || got.Shield.Colour != "NONE" {
		t.Errorf("bob sees %+v", got)
	}
	if s.PlaintextSeen("CANARY") {
		t.Error("the server saw the text")
	}

	second := alice.SecondDevice(testpeer.Options{
		URL: s.URL, User: a, Password: password, Setup: testpeer.Recover, RecoveryKey: alice.RecoveryKey,
	})
	bob.AwaitDevice(a, second.DeviceID, true)
	after := bob.SendText(room, "both of you")
	second.AwaitDecrypted(room, after)
	alice.Reset(password)
	bob.AwaitUserStatus(a, map[string]any{"needs_approval": true})
}
