package e2e

import (
	"net/http"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// Issue 2, part 3: a client that uploads its own device keys is left alone. It logs in
// through the proxy as any other; nobody knows yet that it has keys. From its upload on
// it is passed through, it talks to others as if the proxy were not there, and status
// says so.
func TestClientWithItsOwnKeysIsLeftAlone(t *testing.T) {
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

		var status struct {
			Mode     string `json:"mode"`
			Problems []struct {
				Code string `json:"code"`
			} `json:"problems"`
		}
		client := proxy.Client().As(tesths.Account{AccessToken: carol.AccessToken})
		if err := client.Call(t.Context(), http.MethodGet, "/_e2ee_proxy/v1/status", nil, &status); err != nil {
			t.Fatal(err)
		}
		if status.Mode != "foreign" || len(status.Problems) != 1 || status.Problems[0].Code != "device_has_own_keys" {
			t.Errorf("status is %+v", status)
		}
	})
}
