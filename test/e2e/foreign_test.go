package e2e

import (
	"net/http"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// A client that uploads its own device keys is left alone. It logs in through the proxy as
// any other; nobody knows yet that it has keys. From its upload on it is passed through, it
// talks to others as if the proxy were not there, and status says so.
func TestClientWithItsOwnKeysIsLeftAlone(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice := element(t, hs, host, "alice")
		a := newAccount(t, hs, "carol")
		carol := host.Element(t, testpeer.Options{URL: proxy.URL, User: a.UserID, Password: a.Password, Setup: testpeer.Bootstrap})

		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{a.UserID}})
		carol.AwaitRoom(room, "invite")
		carol.Join(room)
		alice.AwaitMember(room, a.UserID, "join")
		sent := carol.SendText(room, "with keys of my own")
		wantClean(t, alice.AwaitDecrypted(room, sent), "with keys of my own")
		answer := alice.SendText(room, "as it should be")
		wantClean(t, carol.AwaitDecrypted(room, answer), "as it should be")
		wantStoredEncrypted(t, hs, a, room, sent, answer)

		newCurl(t, proxy.URL, tesths.Account{AccessToken: carol.AccessToken}).wantForeign()
	})
}

// wantForeign fails unless status says that the device has keys of its own, and what to do.
func (c *curl) wantForeign() {
	c.t.Helper()
	var status struct {
		Mode     string `json:"mode"`
		Problems []struct {
			Code string `json:"code"`
			Hint string `json:"hint"`
		} `json:"problems"`
	}
	c.call(http.MethodGet, control+"status", nil, &status)
	if status.Mode != "foreign" || len(status.Problems) != 1 || status.Problems[0].Code != "device_has_own_keys" || status.Problems[0].Hint == "" {
		c.t.Errorf("status is %+v", status)
	}
}

// The token of a device that has published keys already, copied from another client as
// people do. It is passed through untouched: what it sends arrives as it is, what it gets
// is not decrypted, and its keys stay.
func TestTokenOfADeviceWithKeys(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice, bob := element(t, hs, host, "alice"), element(t, hs, host, "bob")
		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{bob.UserID}})
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		alice.AwaitMember(room, bob.UserID, "join")
		sent := bob.SendText(room, "for the client with the keys")
		wantClean(t, alice.AwaitDecrypted(room, sent), "for the client with the keys") // she has the room key

		copied := newCurl(t, proxy.URL, tesths.Account{UserID: alice.UserID, DeviceID: alice.DeviceID, AccessToken: alice.AccessToken})
		if got := copied.Await(room, testpeer.Where{"event_id": sent}); got.Type != "m.room.encrypted" {
			t.Errorf("it gets %s", got.Type)
		}
		if m := copied.Await(room, testpeer.Where{"type": "m.room.encryption"}); m.EventID == "" {
			t.Error("it does not see that the room is encrypted")
		}
		content := map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "made by the client", "session_id": "s"}
		own := copied.send(room, "m.room.encrypted", content)
		stored, err := hs.Client().As(copied.account).Event(t.Context(), room, own)
		if err != nil {
			t.Fatal(err)
		}
		wantJSON(t, "the homeserver has", content, stored.Content)
		copied.wantForeign()
		// The keys are still those of the client.
		answer := bob.SendText(room, "once more")
		wantClean(t, alice.AwaitDecrypted(room, answer), "once more")
	})
}
