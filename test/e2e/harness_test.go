package e2e

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
)

// The measuring instrument itself: without the proxy, two Element peers that exclude
// insecure devices read each other with no shield, and an unsigned third device of one
// of them neither reads nor is read.
func TestElementPeersDirectly(t *testing.T) {
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		a, b := newAccount(t, hs, "alice"), newAccount(t, hs, "bob")
		host := testpeer.NodeHost(t)
		alice := host.Element(t, testpeer.Options{URL: hs.URL, User: a.UserID, Password: a.Password, Setup: testpeer.Bootstrap})
		bob := host.Element(t, testpeer.Options{URL: hs.URL, User: b.UserID, Password: b.Password, Setup: testpeer.Bootstrap})

		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		alice.AwaitMember(room, b.UserID, "join")

		hello := alice.SendText(room, "hello bob")
		got := bob.AwaitDecrypted(room, hello)
		if got.Body != "hello bob" || got.WireType != "m.room.encrypted" {
			t.Errorf("bob sees %+v", got)
		}
		if diff := cmp.Diff(&testpeer.Shield{Colour: "NONE"}, got.Shield); diff != "" {
			t.Errorf("bob's shield (-want +got):\n%s", diff)
		}
		answer := bob.Reply(room, hello, "hello alice")
		if got := alice.AwaitDecrypted(room, answer); got.Shield == nil || got.Shield.Colour != "NONE" {
			t.Errorf("alice's shield: %+v", got.Shield)
		}
		stored, err := hs.Client().As(a).Event(t.Context(), room, hello)
		if err != nil {
			t.Fatal(err)
		}
		if stored.Type != "m.room.encrypted" {
			t.Errorf("the server stores %s", stored.Type)
		}

		unsigned := bob.SecondDevice(testpeer.Options{URL: hs.URL, User: b.UserID, Password: b.Password, Device: "UNSIGNED", IncludeInsecure: true})
		alice.AwaitDevice(b.UserID, "UNSIGNED", false)
		secret := alice.SendText(room, "not for unsigned devices")
		bob.AwaitDecrypted(room, secret)
		unsigned.AwaitFailure(room, secret, "MEGOLM_KEY_WITHHELD_FOR_UNVERIFIED_DEVICE")
		unsigned.AwaitToDevice("m.room_key.withheld", map[string]any{"code": "m.unverified", "room_id": room})

		shady := unsigned.SendText(room, "from an unsigned device")
		alice.AwaitFailure(room, shady, "UNSIGNED_SENDER_DEVICE")
	})
}
