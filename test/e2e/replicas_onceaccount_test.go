package e2e

import (
	"net/http"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// As TestRequestsAreDoneOnce, for what is done to the account itself, whose homeservers differ in
// what they say to it the second time: the password is the new one, there is one new identity,
// of which the client has the recovery key, and one more invitation by e-mail.
func TestAccountChangesAreDoneOnce(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		for name, after := range map[string]bool{"not done": false, "done": true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				wantDoneOnce(t, hs, after, accountCases)
			})
		}
	})
}

func accountCases(t *testing.T, hs *tesths.Homeserver, stile *turnstile, at *testproxy.Proxy) []onceCase {
	t.Helper()
	var cases []onceCase
	for what, session := range map[string]bool{"a new password": false, "a new password, with a session": true} {
		c := loginCurl(t, at.URL, newAccount(t, hs, "once"), "")
		other := loginCurl(t, at.URL, c.account, "")
		auth := map[string]any{
			"type": "m.login.password", "password": c.account.Password, "identifier": map[string]string{"type": "m.id.user", "user": c.account.UserID},
		}
		if session {
			auth["session"] = c.challenge("/_matrix/client/v3/account/password", map[string]any{"new_password": "changed " + c.account.UserID})
		}
		body := map[string]any{"new_password": "changed " + c.account.UserID, "auth": auth}
		cases = append(cases, onceCase{what, c, "/_matrix/client/v3/account/password", body, func(map[string]string) {
			if _, err := hs.Client().Login(t.Context(), c.account.UserID, "changed "+c.account.UserID, ""); err != nil {
				t.Errorf("%s: the new one: %v", what, err)
			}
			if _, err := hs.Client().Login(t.Context(), c.account.UserID, c.account.Password, ""); err == nil {
				t.Errorf("%s: the old one holds", what)
			}
			for _, one := range []*curl{c, other} {
				direct := tesths.Client{URL: hs.URL, Token: one.account.AccessToken}
				said, err := direct.Do(t.Context(), http.MethodGet, "/_matrix/client/v3/account/whoami", nil)
				if want := one == c; err != nil || (said.Status == http.StatusOK) != want {
					t.Errorf("%s: a token is answered with %d, %v; it is the client's own: %v", what, said.Status, err, want)
				}
			}
		}})
	}
	c := loginCurl(t, at.URL, newAccount(t, hs, "once"), "")
	c.awaitSetUp()
	body := map[string]any{"confirm": true, "password": c.account.Password}
	cases = append(cases, onceCase{"a reset", c, control + "reset", body, func(answer map[string]string) {
		if n := stile.published(c.account.AccessToken); n != 1 {
			t.Errorf("a reset: %d identities were published", n)
		}
		c.awaitSetUp()
		if key := c.control(http.StatusOK, http.MethodGet, "recovery_key", nil).RecoveryKey; key == "" || key != answer["recovery_key"] {
			t.Errorf("a reset: the client is told another recovery key: %v", key != "")
		}
		fresh := loginCurl(t, c.http.URL, c.account, "")
		fresh.control(http.StatusOK, http.MethodPost, "recover", map[string]any{"recovery_key": answer["recovery_key"]})
	}})
	inviter := loginCurl(t, at.URL, newAccount(t, hs, "once"), "")
	room := inviter.createRoom()
	mail := func(address string) map[string]any {
		return map[string]any{"id_server": "id.example", "id_access_token": "t", "medium": "email", "address": address}
	}
	inviter.call(http.MethodPost, roomPath(room, "invite"), mail("before@example.org"), nil)
	cases = append(cases, onceCase{"an invitation by e-mail", inviter, roomPath(room, "invite"), mail("once@example.org"), func(map[string]string) {
		var state []struct{ Type string }
		direct := tesths.Client{URL: hs.URL, Token: inviter.account.AccessToken}
		if err := direct.Call(t.Context(), http.MethodGet, roomPath(room, "state"), nil, &state); err != nil {
			t.Error(err)
		}
		invited := 0
		for _, e := range state {
			if e.Type == "m.room.third_party_invite" {
				invited++
			}
		}
		if invited != 2 {
			t.Errorf("%d invitations by e-mail, want one before and one", invited)
		}
	}})
	return cases
}

// challenge returns the session of an authentication that the homeserver asks for.
func (c *curl) challenge(path string, body map[string]any) string {
	c.t.Helper()
	resp, err := c.http.Do(c.t.Context(), http.MethodPost, path, body)
	if err != nil || resp.Status != http.StatusUnauthorized {
		c.t.Fatalf("%s is answered with %d, %v", path, resp.Status, err)
	}
	var said struct{ Session string }
	if err := resp.JSON(&said); err != nil || said.Session == "" {
		c.t.Fatalf("%s: no session: %s", path, resp.Body)
	}
	return said.Session
}
