package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// bring makes an encrypted room of the peer's and brings the account into it, past
// the proxy.
func bring(t *testing.T, hs *tesths.Homeserver, alice *testpeer.Client, a tesths.Account) string {
	t.Helper()
	room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{a.UserID}})
	join(t, hs, a, room)
	alice.AwaitMember(room, a.UserID, "join")
	return room
}

// join joins a room straight at the homeserver.
func join(t *testing.T, hs *tesths.Homeserver, a tesths.Account, room string) {
	t.Helper()
	if err := hs.Client().As(a).Call(t.Context(), http.MethodPost, roomPath(room, "join"), map[string]any{}, nil); err != nil {
		t.Fatal(err)
	}
}

// A token that never saw the proxy, of a client that never syncs. Its first send arrives
// encrypted and readable. So does one after the peer's next device was added and signed; a
// device that was not signed gets no key, but is told so.
func TestTokenThatNeverSyncs(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		a := newAccount(t, hs, "alice")
		alice := host.Element(t, testpeer.Options{URL: hs.URL, User: a.UserID, Password: a.Password, Setup: testpeer.Bootstrap})
		script := newAccount(t, hs, "script")
		room := bring(t, hs, alice, script)

		bob := newCurl(t, proxy.URL, script)
		first := bob.SendText(room, "backup done")
		wantClean(t, alice.AwaitDecrypted(room, first), "backup done")

		signed := alice.SecondDevice(testpeer.Options{
			URL: hs.URL, User: a.UserID, Password: a.Password, Device: "SIGNED",
			Setup: testpeer.Recover, RecoveryKey: alice.RecoveryKey,
		})
		unsigned := alice.SecondDevice(testpeer.Options{URL: hs.URL, User: a.UserID, Password: a.Password, Device: "UNSIGNED"})
		alice.AwaitDevice(a.UserID, "SIGNED", true)
		alice.AwaitDevice(a.UserID, "UNSIGNED", false)
		bob.await("both devices at the proxy", func(context.Context) error {
			known := make(map[string]bool)
			for _, d := range bob.user(a.UserID).Devices {
				known[d.DeviceID] = true
			}
			if !known["SIGNED"] || !known["UNSIGNED"] {
				return fmt.Errorf("it knows %v", known)
			}
			return nil
		})
		second := bob.SendText(room, "disk full")
		wantClean(t, alice.AwaitDecrypted(room, second), "disk full")
		wantClean(t, signed.AwaitDecrypted(room, second), "disk full")
		unsigned.AwaitToDevice("m.room_key.withheld", map[string]any{"code": "m.unverified", "room_id": room})
		unsigned.AwaitFailure(room, second, "MEGOLM_KEY_WITHHELD_FOR_UNVERIFIED_DEVICE")
		wantStoredEncrypted(t, hs, script, room, first, second)
	})
}

// Requirement 19.11: the same transaction ID again, as a script retries, is one event.
func TestRetryIsOneEvent(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := element(t, hs, testpeer.NodeHost(t), "alice")
		script := newAccount(t, hs, "script")
		room := bring(t, hs, alice, script)
		bob := newCurl(t, proxy.URL, script)
		path := roomPath(room, "send/m.room.message/%s", "retried")
		first := bob.put(path, text("once"))
		if err := proxy.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if again := bob.put(path, text("once")); again != first {
			t.Errorf("two events: %s, %s", first, again)
		}
		wantClean(t, alice.AwaitDecrypted(room, first), "once")
	})
}
