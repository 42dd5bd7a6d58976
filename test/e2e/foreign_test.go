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

// A client that has nothing but sliding sync and does its own encryption, as Element X: it
// finds sliding sync before it logs in, begins to sync while it uploads its keys, and goes on.
// Dendrite has none, which passes too.
func TestSlidingSyncOfAClientWithItsOwnKeys(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		has := slidingSyncIn(t, hs.Client())
		if got := slidingSyncIn(t, tesths.Client{URL: proxy.URL}); got != has {
			t.Errorf("named before a login: %t, want %t", got, has)
		}
		xenia := newAccount(t, hs, "xenia")
		room := newCurl(t, hs.URL, xenia).createRoom() // elsewhere: it would need keys
		c := loginCurl(t, proxy.URL, xenia, "ELEMENTX")
		c.wantSlidingSync(has, room)
		user, device := c.account.UserID, c.account.DeviceID
		c.call(http.MethodPost, "/_matrix/client/v3/keys/upload", map[string]any{"device_keys": map[string]any{
			"user_id": user, "device_id": device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
			"keys": map[string]string{
				"curve25519:" + device: "3C5BFWi2Y8MaVvjM8M22DBmh24PmgR0nPvJOIArzgyI",
				"ed25519:" + device:    "VzJIYXQ85u19z2ZpEeLLVu8hUKTCE0VXYUn4IY4iFcA",
			},
			"signatures": map[string]any{user: map[string]string{"ed25519:" + device: "signature+of+this+device"}},
		}}, nil)
		c.wantForeign()
		c.wantSlidingSync(has, room)
		if got := slidingSyncIn(t, c.http); got != has {
			t.Errorf("named to a client with its own keys: %t, want %t", got, has)
		}
	})
}

// wantSlidingSync asks for all rooms by sliding sync, under the names that it has.
func (c *curl) wantSlidingSync(served bool, room string) {
	c.t.Helper()
	body := map[string]any{"lists": map[string]any{"all": map[string]any{"ranges": [][]int{{0, 9}}, "timeline_limit": 5, "required_state": [][]string{}}}}
	resp, err := c.http.Do(c.t.Context(), http.MethodPost, "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0", body)
	switch {
	case err != nil:
		c.t.Fatal(err)
	case served && (resp.Status != http.StatusOK || !contains(resp.Body, room)), !served && resp.Status == http.StatusOK:
		c.t.Errorf("sliding sync: %d %s", resp.Status, resp.Body)
	}
	// No homeserver has the merged name yet; its answer is the homeserver's own.
	own, err := c.http.Do(c.t.Context(), http.MethodPost, "/_matrix/client/v4/sync", body)
	if err != nil || contains(own.Body, "The proxy encrypts") {
		c.t.Errorf("under its merged name: %d %s %v", own.Status, own.Body, err)
	}
}
