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
	t.Parallel()
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

// The plain clients themselves: without the proxy, in a room that is not encrypted,
// they do all that the tests through the proxy ask of them.
func TestPlainClientsDirectly(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		a, b := newAccount(t, hs, "alice"), newAccount(t, hs, "bob")
		alice := testpeer.PlainJS(t, testpeer.Options{URL: hs.URL, User: a.UserID, Password: a.Password})
		bob := testpeer.Nio(t, testpeer.Options{URL: hs.URL, User: b.UserID, Password: b.Password})

		room := alice.CreateRoom(testpeer.Room{Invite: []string{b.UserID}})
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		alice.AwaitMember(room, b.UserID, "join")

		hello := alice.SendText(room, "hello")
		bob.AwaitText(room, "hello")
		reply := bob.Reply(room, hello, "hello yourself")
		if got := alice.Await(room, testpeer.Where{"relates_to": hello}); got.EventID != reply {
			t.Errorf("alice sees %+v as the reply", got)
		}
		bob.React(room, hello, "👍")
		alice.Await(room, testpeer.Where{"rel_type": "m.annotation", "key": "👍"})
		bob.Edit(room, reply, "hello indeed")
		if got := alice.AwaitText(room, "hello indeed"); got.EventID == reply && got.Edited == "" {
			t.Errorf("alice sees no edit: %+v", got)
		}
		alice.Edit(room, hello, "good day")
		bob.Await(room, testpeer.Where{"rel_type": "m.replace", "relates_to": hello})
		bob.Redact(room, reply)
		alice.Await(room, testpeer.Where{"event_id": reply, "redacted": true})
		if !bob.Saw("good day") || bob.Saw("good night") {
			t.Error("bob's record of what came over the wire is wrong")
		}
	})
}
