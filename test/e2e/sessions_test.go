package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// authenticated repeats a request with user-interactive authentication by password.
func (c *curl) authenticated(method, path string, body map[string]any) {
	c.t.Helper()
	resp, err := c.http.Do(c.t.Context(), method, path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	var challenge struct {
		Session string `json:"session"`
	}
	if resp.Status == http.StatusUnauthorized && json.Unmarshal(resp.Body, &challenge) == nil {
		body["auth"] = map[string]any{
			"type": "m.login.password", "session": challenge.Session, "password": c.account.Password,
			"identifier": map[string]string{"type": "m.id.user", "user": c.account.UserID},
		}
		if resp, err = c.http.Do(c.t.Context(), method, path, body); err != nil {
			c.t.Fatal(err)
		}
	}
	if resp.Status != http.StatusOK {
		c.t.Fatalf("%s %s answers %d: %s", method, path, resp.Status, resp.Body)
	}
}

// wantEnded fails unless the token is dead here and now, also for what the proxy answers
// without asking anybody.
func (c *curl) wantEnded(how string) {
	c.t.Helper()
	for _, path := range []string{control + "status", control + "recovery_key", "/_matrix/client/v3/sync?timeout=0"} {
		var said struct {
			ErrCode string `json:"errcode"`
		}
		resp := c.get(path)
		if err := resp.JSON(&said); err != nil || resp.Status != http.StatusUnauthorized || said.ErrCode != "M_UNKNOWN_TOKEN" {
			c.t.Errorf("after %s, %s answers the token of %s with %d: %s", how, path, c.account.DeviceID, resp.Status, resp.Body)
		}
	}
}

// Attack 46: however a session ends, its token is dead at the proxy at once, with all that
// the proxy alone answers, and the device's keys are gone: the same device ID, used again,
// is a new device that is set up from the beginning. Sessions that were not ended go on.
func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		account := newAccount(t, hs, "bob")
		login := func(device string) *curl {
			c := loginCurl(t, proxy.URL, account, device)
			c.awaitSetUp()
			return c
		}
		keys := func(c *curl) string {
			var status struct {
				Keys struct {
					Ed25519 string `json:"ed25519"`
				} `json:"keys"`
			}
			c.call(http.MethodGet, control+"status", nil, &status)
			return status.Keys.Ed25519
		}
		stays := login("STAYS")
		before := keys(stays)
		for how, end := range map[string]func(c *curl){
			"logout": func(c *curl) { c.call(http.MethodPost, "/_matrix/client/v3/logout", map[string]any{}, nil) },
			"the deletion of the device": func(*curl) {
				stays.authenticated(http.MethodDelete, "/_matrix/client/v3/devices/ENDS", map[string]any{})
			},
			"the deletion of devices": func(*curl) {
				stays.authenticated(http.MethodPost, "/_matrix/client/v3/delete_devices", map[string]any{"devices": []string{"ENDS"}})
			},
			"a change of the password": func(*curl) {
				stays.authenticated(http.MethodPost, "/_matrix/client/v3/account/password", map[string]any{"new_password": "another password", "logout_devices": true})
				account.Password, stays.account.Password = "another password", "another password"
			},
			// It is noticed by the homeserver's answer to whatever the token asks next.
			"a logout elsewhere": func(c *curl) {
				past := hs.Client().As(c.account)
				if err := past.Call(t.Context(), http.MethodPost, "/_matrix/client/v3/logout", map[string]any{}, nil); err != nil {
					t.Fatal(err)
				}
				if resp := c.get("/_matrix/client/v3/joined_rooms"); resp.Status != http.StatusUnauthorized {
					t.Errorf("the homeserver's refusal arrives as %d: %s", resp.Status, resp.Body)
				}
			},
		} {
			ends := login("ENDS")
			old := keys(ends)
			end(ends)
			ends.wantEnded(how)
			again := login("ENDS")
			if now := keys(again); now == old {
				t.Errorf("after %s the device has its old keys", how)
			}
			if now := keys(stays); now != before {
				t.Errorf("%s took the keys of another device", how)
			}
		}
		room := stays.createRoom()
		sent := stays.SendText(room, "still here")
		wantStoredEncrypted(t, hs, stays.account, room, sent)

		other := login("OTHER")
		stays.call(http.MethodPost, "/_matrix/client/v3/logout/all", map[string]any{}, nil)
		stays.wantEnded("logout of all")
		other.wantEnded("logout of all")

		last := login("LAST")
		last.authenticated(http.MethodPost, "/_matrix/client/v3/account/deactivate", map[string]any{})
		last.wantEnded("the end of the account")
	})
}

// With a public URL, discovery and logins name it; everything else that they say stays.
func TestDiscoveryNamesThePublicURL(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		const public = "https://matrix.example.org/e2ee"
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{Args: []string{"--public-url", public + "/"}})
		type server struct {
			Homeserver struct {
				BaseURL string `json:"base_url"`
			} `json:"m.homeserver"`
		}
		var found server
		client := proxy.Client()
		if err := client.Call(t.Context(), http.MethodGet, "/.well-known/matrix/client", nil, &found); err != nil {
			t.Fatal(err)
		}
		if found.Homeserver.BaseURL != public {
			t.Errorf("discovery names %q", found.Homeserver.BaseURL)
		}
		account := newAccount(t, hs, "bob")
		var login struct {
			AccessToken string  `json:"access_token"`
			WellKnown   *server `json:"well_known"`
		}
		body := map[string]any{"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": account.UserID}, "password": account.Password}
		if err := client.Call(t.Context(), http.MethodPost, "/_matrix/client/v3/login", body, &login); err != nil {
			t.Fatal(err)
		}
		if login.AccessToken == "" || login.WellKnown != nil && login.WellKnown.Homeserver.BaseURL != public {
			t.Errorf("the login names %+v", login.WellKnown)
		}
	})
}

// Requirement 23.2 and attack 32: what a token asserts to be is not believed: for
// everybody but an application service the homeserver ignores it, and so does the proxy.
func TestAssertedUser(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := loginCurl(t, proxy.URL, newAccount(t, hs, "alice"), "ALICE")
		bob := loginCurl(t, proxy.URL, newAccount(t, hs, "bob"), "BOB")
		alice.awaitInOrder()
		for _, query := range []string{
			"user_id=" + url.QueryEscape(alice.account.UserID),
			"user_id=" + url.QueryEscape(alice.account.UserID) + "&device_id=ALICE",
			"device_id=ALICE", "org.matrix.msc3202.device_id=ALICE",
		} {
			resp := bob.get(control + "status?" + query)
			var status struct {
				UserID   string `json:"user_id"`
				DeviceID string `json:"device_id"`
			}
			if resp.Status == http.StatusOK && (resp.JSON(&status) != nil || status.UserID != bob.account.UserID || status.DeviceID != "BOB") {
				t.Errorf("bob with %s is %+v", query, status)
			}
		}
	})
}
