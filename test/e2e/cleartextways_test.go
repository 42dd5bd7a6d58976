package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// Ways in which clear text once left. In each of these the homeserver, or the loss of the
// proxy's data, made the proxy believe that a device does its own encryption. The client is
// one that knows nothing of encryption; it keeps its token and goes on.

// plainClient is such a client in an encrypted room, behind a proxy, before a homeserver
// that the test can have lie.
type plainClient struct {
	*curl
	hs    *liar.Server
	proxy *testproxy.Proxy
	room  string
	said  []string
}

func newPlainClient(t *testing.T, config string) *plainClient {
	t.Helper()
	hs := liar.New(t)
	c := &plainClient{hs: hs, proxy: testproxy.Start(t, hs.URL, testproxy.Options{Config: config})}
	t.Cleanup(func() {
		for _, text := range c.said {
			if hs.PlaintextSeen(text) {
				t.Errorf("the homeserver can read %q", text)
			}
		}
	})
	c.curl = c.login(t, "ALICE")
	c.room = hs.CreateRoom(true, c.account.UserID)
	return c
}

// login logs a device in past the proxy.
func (c *plainClient) login(t *testing.T, device string) *curl {
	t.Helper()
	s := c.hs.Login("alice", device)
	next := newCurl(t, c.proxy.URL, tesths.Account{UserID: s.UserID, DeviceID: s.DeviceID, AccessToken: s.Token, Password: "password of alice"})
	if c.curl != nil {
		next.txn = c.txn // the homeserver remembers those of a device
	}
	return next
}

// wantEncrypted sends a text, which must arrive encrypted.
func (c *plainClient) wantEncrypted(text string) {
	c.t.Helper()
	before := len(c.hs.Events(c.room))
	c.SendText(c.room, c.marked(text))
	for _, ev := range c.hs.Events(c.room)[before:] {
		if ev.Type == "m.room.encrypted" {
			return
		}
	}
	c.t.Errorf("%q did not arrive encrypted", text)
}

// marked makes a text that is nowhere else.
func (c *plainClient) marked(text string) string {
	text = "clear text: " + text
	c.said = append(c.said, text)
	return text
}

// wantRefused sends a text, which must be refused with a code and words that say what to do.
func (c *plainClient) wantRefused(code, hint, body string) {
	c.t.Helper()
	for _, path := range []string{
		roomPath(c.room, "send/m.room.message/%s", c.nextTxn()), roomPath(c.room, "send/m.sticker/%s", c.nextTxn()),
		roomPath(c.room, "state/m.room.message"),
	} {
		resp, err := c.http.Do(c.t.Context(), http.MethodPut, path, text(c.marked(body)))
		if err != nil {
			c.t.Fatal(err)
		}
		var said struct {
			ErrCode string `json:"errcode"`
			Error   string `json:"error"`
		}
		if resp.JSON(&said) != nil || resp.Status/100 != 4 {
			c.t.Errorf("%s answers %d %s", path, resp.Status, resp.Body)
		}
		if !strings.Contains(path, "/state/") && (said.ErrCode != code || !strings.Contains(said.Error, hint)) {
			c.t.Errorf("%s answers %d %s, want %s and %q", path, resp.Status, resp.Body, code, hint)
		}
	}
}

// wantCiphertextPasses fails unless what a client that encrypts sends goes on untouched.
func (c *plainClient) wantCiphertextPasses() {
	c.t.Helper()
	c.send(c.room, "m.room.encrypted", map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "made by the client", "session_id": "s"})
	c.React(c.room, "$event", "+")
}

// key returns the device's public key as the homeserver shows it.
func (c *plainClient) key() string {
	c.t.Helper()
	var shown struct {
		DeviceKeys map[string]map[string]struct {
			Keys map[string]string `json:"keys"`
		} `json:"device_keys"`
	}
	past := tesths.Client{URL: c.hs.URL, Token: c.account.AccessToken}
	body := map[string]any{"device_keys": map[string]any{c.account.UserID: []string{}}}
	if err := past.Call(c.t.Context(), http.MethodPost, "/_matrix/client/v3/keys/query", body, &shown); err != nil {
		c.t.Fatal(err)
	}
	return shown.DeviceKeys[c.account.UserID][c.account.DeviceID].Keys["ed25519:"+c.account.DeviceID]
}

// wantMode fails unless status gives a mode and names a problem.
func (c *plainClient) wantMode(mode, problem string) {
	c.t.Helper()
	s := c.status()
	if p, ok := s.has(problem); s.Mode != mode || !ok || p.Hint == "" {
		c.t.Errorf("status is %+v, want mode %s and the problem %s", s, mode, problem)
	}
}

// emptied removes what is in a folder.
func emptied(t *testing.T, dir string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}

// copied copies the files of a folder into another, for their owner only.
func copied(t *testing.T, from, to string) {
	t.Helper()
	all, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		raw, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Attack vector: the data folder is lost. The client keeps its token, and the homeserver
// shows keys for its device that the new proxy has never seen: they were its own.
//
// Expected: nothing in clear into the encrypted room, with words that say what to do. What
// goes in clear from every client passes, so does a room that is not encrypted, and a new
// login is encrypted for.
func TestClearTextAfterTheDataFolderWasLost(t *testing.T) {
	t.Parallel()
	c := newPlainClient(t, "")
	c.wantEncrypted("before")
	if err := c.proxy.Stop(); err != nil {
		t.Fatal(err)
	}
	emptied(t, c.proxy.Data)
	if err := c.proxy.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.wantRefused("DEV.E2EE_PROXY.CLEAR_TEXT", "log in again", "after the loss")
	c.wantCiphertextPasses()
	c.wantMode("foreign", "device_has_own_keys")
	c.SendText(c.hs.CreateRoom(false, c.account.UserID), "in a plain room")

	c.curl = c.login(t, "AGAIN")
	c.call(http.MethodPost, control+"reset", map[string]any{"confirm": true, "password": c.account.Password}, nil)
	c.wantEncrypted("of a new device")
}

// Attack vector: an older backup is restored, from before the client logged in. It keeps its
// token, and the homeserver shows keys that this database never had.
//
// Expected: as if the data folder had been lost.
func TestClearTextAfterAnOlderBackupWasRestored(t *testing.T) {
	t.Parallel()
	c := newPlainClient(t, "")
	if err := c.proxy.Stop(); err != nil {
		t.Fatal(err)
	}
	backup := t.TempDir()
	copied(t, c.proxy.Data, backup)
	if err := c.proxy.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.wantEncrypted("before")
	if err := c.proxy.Stop(); err != nil {
		t.Fatal(err)
	}
	emptied(t, c.proxy.Data)
	copied(t, backup, c.proxy.Data)
	if err := c.proxy.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.wantRefused("DEV.E2EE_PROXY.CLEAR_TEXT", "log in again", "after the restore")
	c.wantCiphertextPasses()
}

// Attack vector: a homeserver invents keys for a device at first sight, whole ones or the
// least that could pass for some.
//
// Expected: whatever it invents, nothing goes in clear.
func TestClearTextWithInventedKeys(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]any{
		"nothing":   map[string]any{},
		"null":      nil,
		"no object": "keys",
		"whole": map[string]any{
			"user_id": "@alice:liar.test", "device_id": "ALICE", "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
			"keys":       map[string]string{"ed25519:ALICE": strings.Repeat("A", 43), "curve25519:ALICE": strings.Repeat("A", 43)},
			"signatures": map[string]any{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newPlainClient(t, "")
			c.hs.Intercept(liar.Is("POST", "/keys/query$"), liar.Edit(func(_ *liar.Request, body map[string]any) {
				body["device_keys"] = map[string]any{c.account.UserID: map[string]any{"ALICE": keys}}
			}))
			c.wantRefused("DEV.E2EE_PROXY.CLEAR_TEXT", "log in again", "with "+name)
			c.wantCiphertextPasses()
		})
	}
}

// The explicit exception for those who want it: policy.native_clear_text: pass.
func TestNativeClearTextPasses(t *testing.T) {
	t.Parallel()
	c := newPlainClient(t, "policy: {native_clear_text: pass}\n")
	c.hs.Intercept(liar.Is("POST", "/keys/query$"), liar.Edit(func(_ *liar.Request, body map[string]any) {
		body["device_keys"] = map[string]any{c.account.UserID: map[string]any{"ALICE": map[string]any{}}}
	}))
	c.SendText(c.room, "as its client wants it")
	if !c.hs.PlaintextSeen("as its client wants it") {
		t.Error("it did not arrive as it was sent")
	}
}

// Attack vector: the keys of a device are destroyed for an answer that says nothing of its
// session: one 401 M_UNKNOWN_TOKEN to any passed request while the token still works, hard or
// soft; a refresh with a bad refresh token, or a login with a wrong password, with the access
// token in the header; a password change after which the homeserver leaves the other session
// alive; a logout or a deletion that it confirms and does not do. The next request found the
// device's own old keys on the server, took them for its client's, and sent in clear.
//
// Expected: keys are destroyed only when /whoami with the device's own token confirms the
// end. The device goes on with the same keys.
func TestKeysStayWhileTheTokenWorks(t *testing.T) {
	t.Parallel()
	unknown := func(soft bool) liar.Hook {
		return func(*liar.Request, func() liar.Reply) liar.Reply {
			return liar.Reply{Status: http.StatusUnauthorized, Body: map[string]any{"errcode": "M_UNKNOWN_TOKEN", "error": "a lie", "soft_logout": soft}}
		}
	}
	fine := func(*liar.Request, func() liar.Reply) liar.Reply { return liar.OK(map[string]any{}) }
	const v3 = "/_matrix/client/v3/"
	for name, test := range map[string]struct {
		match        liar.Match
		lie          liar.Hook
		method, path string
		body         any
		status       int
		other        bool // another device of the account asks
	}{
		"a passed request": {liar.Is("GET", "/joined_rooms$"), unknown(false), "GET", "joined_rooms", nil, 401, false},
		"a soft logout":    {liar.Is("GET", "/joined_rooms$"), unknown(true), "GET", "joined_rooms", nil, 401, false},
		"a read":           {liar.Is("GET", "/messages$"), unknown(false), "GET", "rooms/!r:liar.test/messages", nil, 401, false},
		"a refresh":        {nil, nil, "POST", "refresh", map[string]any{"refresh_token": "bad"}, 401, false},
		"a login": {liar.Is("POST", "/login$"), unknown(false), "POST", "login", map[string]any{
			"type": "m.login.password", "user": "alice", "password": "wrong"}, 401, false},
		"a password change": {liar.Is("POST", "/account/password$"), fine, "POST", "account/password", map[string]any{"new_password": "x"}, 200, true},
		"a logout":          {liar.Is("POST", "/logout$"), fine, "POST", "logout", map[string]any{}, 200, false},
		"a logout of all":   {liar.Is("POST", "/logout/all$"), fine, "POST", "logout/all", map[string]any{}, 200, true},
		"a deletion":        {liar.Is("DELETE", "/devices/"), fine, "DELETE", "devices/ALICE", map[string]any{}, 200, true},
		"deletions":         {liar.Is("POST", "/delete_devices$"), fine, "POST", "delete_devices", map[string]any{"devices": []string{"ALICE"}}, 200, true},
		"a closed account":  {liar.Is("POST", "/account/deactivate$"), fine, "POST", "account/deactivate", map[string]any{}, 200, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newPlainClient(t, "")
			c.wantEncrypted("before")
			before := c.key()
			who := c.curl
			if test.other {
				who = c.login(t, "OTHER")
			}
			done := func() {}
			if test.lie != nil {
				done = c.hs.Intercept(test.match, test.lie)
			}
			resp, err := who.http.Do(t.Context(), test.method, v3+test.path, test.body)
			if err != nil || resp.Status != test.status {
				t.Fatalf("%s answers %d %s %v, want %d", test.path, resp.Status, resp.Body, err, test.status)
			}
			done()
			c.wantEncrypted("after")
			if got := c.key(); got != before {
				t.Errorf("the device has another key: %s, before %s", got, before)
			}
			c.awaitInOrder()
		})
	}
}

// Attack vector: a session has really ended, its keys are destroyed, and the homeserver shows
// them for the device's name all the same when the client logs in again under it, as Synapse
// does after a soft logout. They look like keys of a client.
//
// Expected: they are known to have been ours: sends are refused with words for that, also
// after a restart and when another token comes; never "its client's". A new device works, and
// so does the old name once the homeserver has forgotten the keys.
func TestForgottenKeysComeBack(t *testing.T) {
	t.Parallel()
	c := newPlainClient(t, "")
	c.wantEncrypted("before")
	old := c.key()
	c.hs.Revoke(c.account.AccessToken) // the device stays, with its keys
	if resp := c.get("/_matrix/client/v3/joined_rooms"); resp.Status != http.StatusUnauthorized {
		t.Fatalf("a dead token gets %d", resp.Status)
	}
	for _, when := range []string{"at once", "with another token", "after a restart"} {
		if when == "after a restart" {
			if err := c.proxy.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			c.curl = c.login(t, "ALICE")
		}
		c.wantRefused("DEV.E2EE_PROXY.KEYS_LOST", "Log in again", when)
		c.wantMode("lost", "keys_lost")
		if got := c.key(); got != old {
			t.Errorf("%s something was uploaded over the old keys", when)
		}
		resp, err := c.http.Do(t.Context(), http.MethodPost, "/_matrix/client/v3/keys/upload", map[string]any{"device_keys": map[string]any{"device_id": "ALICE"}})
		if err != nil || resp.Status != http.StatusForbidden || !strings.Contains(string(resp.Body), "KEYS_LOST") {
			t.Errorf("%s keys of the client are answered %d %s %v", when, resp.Status, resp.Body, err)
		}
	}
	dead := c.curl
	c.curl = c.login(t, "NEW")
	c.wantEncrypted("of a new device")
	dead.call(http.MethodPost, "/_matrix/client/v3/logout", map[string]any{}, nil)
	c.curl = c.login(t, "ALICE")
	c.wantEncrypted("under the old name")
	if got := c.key(); got == old {
		t.Error("the new device has the old key")
	}
}

// Attack vector: an encrypted room is upgraded through the proxy, by a homeserver that does
// not copy m.room.encryption into the new room.
//
// Expected: the new room is encrypted, as the old one is, before anything is sent there, or
// nothing is sent there; for every member, also one who was not told of it.
func TestUpgradeOfAnEncryptedRoom(t *testing.T) {
	t.Parallel()
	upgrade := func(t *testing.T, c *plainClient) (next string) {
		t.Helper()
		var made struct {
			Replacement string `json:"replacement_room"`
		}
		c.call(http.MethodPost, roomPath(c.room, "upgrade"), map[string]any{"new_version": "11"}, &made)
		return made.Replacement
	}
	for name, leaves := range map[string][]string{"copied": nil, "not copied": {"m.room.encryption"}} {
		t.Run(name, func(t *testing.T) {
			c := newPlainClient(t, "")
			c.hs.LeaveOutOnUpgrade(leaves...)
			c.call(http.MethodPut, roomPath(c.room, "state/m.room.encryption"), map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 7}, nil)
			c.room = upgrade(t, c)
			c.wantEncrypted("in the new room")
			var settings json.RawMessage
			past := tesths.Client{URL: c.hs.URL, Token: c.account.AccessToken}
			if err := past.Call(t.Context(), http.MethodGet, roomPath(c.room, "state/m.room.encryption"), nil, &settings); err != nil {
				t.Fatal(err)
			}
			wantJSON(t, "the new room is encrypted with", map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 7}, settings)
		})
	}
	t.Run("not allowed", func(t *testing.T) {
		c := newPlainClient(t, "")
		c.hs.LeaveOutOnUpgrade("m.room.encryption")
		c.wantEncrypted("in the old room")
		done := c.hs.Intercept(liar.Is("PUT", "/state/m.room.encryption"), liar.Fail(http.StatusForbidden, "M_FORBIDDEN"))
		c.room = upgrade(t, c)
		done()
		c.wantRefused("DEV.E2EE_PROXY.CLEAR_TEXT", "replaces an encrypted room", "in the new room")
		c.call(http.MethodPut, roomPath(c.room, "state/m.room.encryption"), map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}, nil)
		c.wantEncrypted("once it is encrypted")
	})
	t.Run("of a plain room", func(t *testing.T) {
		c := newPlainClient(t, "")
		c.room = c.hs.CreateRoom(false, c.account.UserID)
		next := upgrade(t, c)
		c.SendText(next, "for all to see")
		if !c.hs.PlaintextSeen("for all to see") {
			t.Error("it did not arrive as it was sent")
		}
	})
}

// The same at homeservers as they are, each of which copies what it likes.
func TestUpgradeAtHomeservers(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		c := loginCurl(t, proxy.URL, newAccount(t, hs, "alice"), "ALICE")
		room := c.createRoom()
		wantStoredEncrypted(t, hs, c.account, room, c.SendText(room, "in the old room"))
		var made struct {
			Replacement string `json:"replacement_room"`
		}
		c.call(http.MethodPost, roomPath(room, "upgrade"), map[string]any{"new_version": "11"}, &made)
		wantStoredEncrypted(t, hs, c.account, made.Replacement, c.SendText(made.Replacement, "in the new room"))
	})
}
