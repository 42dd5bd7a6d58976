package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// ownStatus is of the answer to GET status what these tests look at.
type ownStatus struct {
	Identity struct {
		MasterKey    string `json:"master_key"`
		Ours         bool   `json:"ours"`
		DeviceSigned bool   `json:"device_signed"`
	} `json:"identity"`
	Backup struct {
		Version string `json:"version"`
		Trusted bool   `json:"trusted"`
		Restore *struct {
			State    string `json:"state"`
			Restored int    `json:"restored"`
			Refused  int    `json:"refused"`
		} `json:"restore"`
	} `json:"backup"`
	Problems []struct {
		Code string `json:"code"`
	} `json:"problems"`
}

func (c *curl) status() ownStatus {
	c.t.Helper()
	var s ownStatus
	c.call(http.MethodGet, control+"status", nil, &s)
	return s
}

// awaitSigned waits until the identity and the backup are the device's own. Other devices
// of the user may not be signed, which is a problem that the status names.
func (c *curl) awaitSigned() ownStatus {
	c.t.Helper()
	var s ownStatus
	c.until("a signed device", func() bool {
		s = c.status()
		return s.Identity.Ours && s.Identity.DeviceSigned && s.Backup.Trusted && !s.has("backup_unreadable") && !s.has("secret_storage_incomplete")
	})
	return s
}

func (s ownStatus) has(problem string) bool {
	for _, p := range s.Problems {
		if p.Code == problem {
			return true
		}
	}
	return false
}

// control makes a call of the control API that must be answered so.
func (c *curl) control(status int, method, call string, body any) (answer struct {
	RecoveryKey string `json:"recovery_key"`
	ErrCode     string `json:"errcode"`
	Error       string `json:"error"`
	Session     string `json:"session"`
	Flows       []any  `json:"flows"`
},
) {
	c.t.Helper()
	resp, err := c.http.Do(c.t.Context(), method, control+call, body)
	if err != nil {
		c.t.Fatal(err)
	}
	if resp.Status != status {
		c.t.Fatalf("%s %s answers %d %s, want %d", method, call, resp.Status, resp.Body, status)
	}
	if err := json.Unmarshal(resp.Body, &answer); err != nil {
		c.t.Fatal(err)
	}
	return answer
}

// Issue 3, the user's own side: what the proxy makes for an account is what Element can
// use; a reset with the homeserver's user-interactive authentication, done by the client,
// makes all of it anew; a reset by Element stops the proxied device until it is given the
// new recovery key.
func TestOwnSideWithElement(t *testing.T) {
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		bob := element(t, hs, host, "bob")
		a := newAccount(t, hs, "alice")
		alice := loginCurl(t, proxy.URL, a, "PROXIED")
		alice.awaitInOrder()
		first := alice.control(200, http.MethodGet, "recovery_key", nil).RecoveryKey

		// Element recovers with the key that the proxy made, and reads the backup.
		room := alice.createRoom(bob.UserID)
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		bob.AwaitMember(room, bob.UserID, "join")
		wantClean(t, bob.AwaitDecrypted(room, alice.SendText(room, "before")), "before")
		alice.until("the backup", func() bool { return alice.backedUp() > 0 })
		phone := host.Element(t, testpeer.Options{URL: hs.URL, User: a.UserID, Password: a.Password, Setup: testpeer.Recover, RecoveryKey: first})
		if n := phone.RestoreBackup(); n == 0 {
			t.Error("Element restores nothing from the backup")
		}
		if s := phone.CrossSigningStatus(); !s.PublicKeysOnDevice || !s.PrivateKeysInSecretStorage || !s.PrivateKeysCachedLocally.MasterKey {
			t.Errorf("Element finds %+v", s)
		}

		// The reset: the homeserver wants the password, the client gives it in its own words.
		before := alice.status()
		challenge := alice.control(401, http.MethodPost, "reset", map[string]any{"confirm": true})
		if challenge.Session == "" || len(challenge.Flows) == 0 {
			t.Fatalf("the challenge is %+v", challenge)
		}
		auth := func(password string) map[string]any {
			return map[string]any{"confirm": true, "auth": map[string]any{
				"type": "m.login.password", "session": challenge.Session, "password": password,
				"identifier": map[string]any{"type": "m.id.user", "user": a.UserID},
			}}
		}
		refused, err := alice.http.Do(t.Context(), http.MethodPost, control+"reset", auth("wrong"))
		if err != nil || (refused.Status != 401 && refused.Status != 403) { // Dendrite's word for it is 403
			t.Fatalf("a wrong password in the client's words: %d %s, %v", refused.Status, refused.Body, err)
		}
		if e := alice.control(403, http.MethodPost, "reset", map[string]any{"confirm": true, "password": "wrong"}); !strings.Contains(e.Error, "password") {
			t.Errorf("a wrong password: %+v", e)
		}
		if s := alice.status(); s.Identity != before.Identity || len(s.Problems) > 0 {
			t.Fatalf("after a refused reset: %+v", s)
		}
		second := alice.control(200, http.MethodPost, "reset", auth(a.Password)).RecoveryKey
		after := alice.status()
		if second == "" || second == first || after.Identity.MasterKey == before.Identity.MasterKey ||
			!after.Identity.DeviceSigned || after.Backup.Version == before.Backup.Version {
			t.Fatalf("after the reset: %+v", after)
		}
		alice.awaitSigned()
		bob.AwaitUserStatus(a.UserID, map[string]any{"master_key": after.Identity.MasterKey})
		wantClean(t, bob.AwaitDecrypted(room, alice.SendText(room, "after the reset")), "after the reset")

		// Another proxied device recovers with the new key only.
		laptop := loginCurl(t, proxy.URL, a, "LAPTOP")
		if e := laptop.control(403, http.MethodPost, "recover", map[string]any{"recovery_key": first}); e.ErrCode != "DEV.E2EE_PROXY.WRONG_RECOVERY_KEY" {
			t.Errorf("the old recovery key: %+v", e)
		}
		laptop.control(200, http.MethodPost, "recover", map[string]any{"recovery_key": second})
		laptop.awaitSigned()
		laptop.control(200, http.MethodPost, "keys/restore", nil)
		laptop.until("the restored history", func() bool {
			r := laptop.status().Backup.Restore
			return r != nil && r.State == "done" && r.Refused == 0
		})

		// A reset by Element: alert, refusal, recovery.
		phone.Reset(a.Password)
		alice.until("the alert", func() bool { return alice.status().has("own_identity_changed") })
		resp, err := alice.http.Do(t.Context(), http.MethodPut, roomPath(room, "send/m.room.message/%s", "refused"), text("refused"))
		if err != nil || resp.Status != http.StatusForbidden || !strings.Contains(string(resp.Body), "DEV.E2EE_PROXY.DEVICE_NOT_SIGNED") {
			t.Errorf("a send before the recovery: %d %s, %v", resp.Status, resp.Body, err)
		}
		alice.control(200, http.MethodPost, "recover", map[string]any{"recovery_key": phone.RecoveryKey})
		alice.awaitSigned()
		wantClean(t, bob.AwaitDecrypted(room, alice.SendText(room, "healed")), "healed")
	})
}

// backedUp gives how many keys the account's backup holds.
func (c *curl) backedUp() int {
	c.t.Helper()
	var version struct {
		Count int `json:"count"`
	}
	c.call(http.MethodGet, "/_matrix/client/v3/room_keys/version", nil, &version)
	return version.Count
}

// Issue 3, key export and import: Element opens the file that the proxy writes, and the
// proxy the one that Element writes. Each then reads what it could not.
func TestKeyFilesWithElement(t *testing.T) {
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		const passphrase = "a pass phrase"
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		bob := element(t, hs, host, "bob")
		a := newAccount(t, hs, "alice")
		alice := loginCurl(t, proxy.URL, a, "PROXIED")
		alice.awaitInOrder()
		room := alice.createRoom(bob.UserID)
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		sent := alice.SendText(room, "in the first file")
		bob.AwaitDecrypted(room, sent)

		resp, err := alice.http.Do(t.Context(), http.MethodPost, control+"keys/export", map[string]any{"passphrase": passphrase})
		if err != nil || resp.Status != http.StatusOK {
			t.Fatalf("the export answers %d %s, %v", resp.Status, resp.Body, err)
		}
		old := host.Element(t, testpeer.Options{URL: hs.URL, User: a.UserID, Password: a.Password, Device: "OLD", IncludeInsecure: true})
		old.AwaitFailure(room, sent, "HISTORICAL_MESSAGE_BACKUP_UNCONFIGURED")
		old.ImportFile(passphrase, string(resp.Body))
		if got := old.AwaitDecrypted(room, sent); got.Body != "in the first file" {
			t.Errorf("Element reads %+v", got)
		}

		// The other way: bob's file, with a key that nobody gave to alice's new device.
		answer := bob.SendText(room, "in the second file")
		alice.Await(room, testpeer.Where{"body": "in the second file"})
		file := bob.ExportFile(passphrase)
		fresh := testproxy.Start(t, hs.URL, testproxy.Options{})
		second := loginCurl(t, fresh.URL, a, "SECOND")
		second.AwaitRoom(room, "join")
		for _, wrong := range []struct {
			body map[string]any
			code string
		}{
			{map[string]any{"passphrase": "wrong", "keys": file}, "DEV.E2EE_PROXY.WRONG_PASSPHRASE"},
			{map[string]any{"passphrase": passphrase, "keys": "no file"}, "M_BAD_JSON"},
		} {
			status := http.StatusBadRequest
			if wrong.code != "M_BAD_JSON" {
				status = http.StatusForbidden
			}
			if e := second.control(status, http.MethodPost, "keys/import", wrong.body); e.ErrCode != wrong.code {
				t.Errorf("%v: %+v", wrong.code, e)
			}
		}
		second.control(200, http.MethodPost, "keys/import", map[string]any{"passphrase": passphrase, "keys": file})
		got := second.Await(room, testpeer.Where{"event_id": answer, "body": "in the second file"})
		var unsigned struct {
			Trust struct {
				Color  string `json:"color"`
				Source string `json:"source"`
			} `json:"dev.e2ee-proxy.trust"`
		}
		if err := json.Unmarshal(got.Unsigned, &unsigned); err != nil || unsigned.Trust.Color != "grey" || unsigned.Trust.Source != "import" {
			t.Errorf("the imported key's message is shown as %+v, %v", unsigned, err)
		}
	})
}

// Issue 3, recover: a bot comes up signed with nobody present, by a recovery key in a
// file, and by one in the environment.
func TestBotComesUpSigned(t *testing.T) {
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		a := newAccount(t, hs, "bot")
		first := loginCurl(t, proxy.URL, a, "FIRST")
		first.awaitInOrder()
		key := first.control(200, http.MethodGet, "recovery_key", nil).RecoveryKey
		first.control(200, http.MethodDelete, "recovery_key", nil)
		first.control(404, http.MethodGet, "recovery_key", nil)
		if printed, err := proxy.Run(t.Context(), "recovery-key", "--user", a.UserID); err != nil || printed != key+"\n" {
			t.Errorf("on the machine another key is printed, %v", err)
		}
		file := filepath.Join(t.TempDir(), "recovery-key")
		if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, setting := range map[string]string{
			"a file in the configuration": fmt.Sprintf("accounts:\n  %q:\n    recovery_key_file: %q\n", a.UserID, file),
			"the environment":             "",
		} {
			if setting == "" {
				t.Setenv("E2EE_PROXY_ACCOUNTS", fmt.Sprintf("{%q: {recovery_key: %q}}", a.UserID, key))
			}
			machine := testproxy.Start(t, hs.URL, testproxy.Options{Config: setting})
			bot := loginCurl(t, machine.URL, a, "")
			bot.awaitInOrder()
			if s := bot.status(); !s.Identity.Ours || !s.Identity.DeviceSigned || s.Identity.MasterKey != first.status().Identity.MasterKey {
				t.Errorf("%s: %+v", name, s)
			}
			if strings.Contains(machine.Log(), strings.ReplaceAll(key, " ", "")) || strings.Contains(machine.Log(), key) {
				t.Errorf("%s: the log shows the recovery key", name)
			}
		}
	})
}
