package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// awaitSigned waits until the identity and the backup are the device's own. Other devices
// of the user may not be signed, which is a problem that the status names.
func (c *curl) awaitSigned() standing {
	c.t.Helper()
	var s standing
	c.await("a signed device", func(ctx context.Context) error {
		if err := c.http.Call(ctx, http.MethodGet, control+"status", nil, &s); err != nil {
			return err
		}
		if !s.Identity.Ours || !s.Identity.DeviceSigned || !s.SecretStorage.Complete || !s.Backup.Trusted || !s.Backup.Readable {
			return fmt.Errorf("status is %+v", s)
		}
		return nil
	})
	return s
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

// Reset: with the homeserver's user-interactive authentication, done by the client in its
// own words, all of it is made anew. What is refused changes nothing. Others see a new
// identity and no shield; another device recovers with the new key only, and has the whole
// history restored.
func TestReset(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		bob := element(t, hs, testpeer.NodeHost(t), "bob")
		a := newAccount(t, hs, "alice")
		alice := loginCurl(t, proxy.URL, a, "PROXIED")
		alice.awaitInOrder()
		first := alice.recoveryKey()
		room := alice.createRoom(bob.UserID)
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		bob.AwaitMember(room, bob.UserID, "join")
		before := alice.status()
		wantClean(t, bob.AwaitDecrypted(room, alice.SendText(room, "before")), "before")

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
		if s := alice.status(); s.Identity != before.Identity || s.Backup != before.Backup || len(s.Problems) > 0 {
			t.Fatalf("after a refused reset: %+v", s)
		}
		wantClean(t, bob.AwaitDecrypted(room, alice.SendText(room, "still the old one")), "still the old one")

		second := alice.control(200, http.MethodPost, "reset", auth(a.Password)).RecoveryKey
		after := alice.awaitSigned()
		if second == "" || second == first || after.Identity.MasterKey == before.Identity.MasterKey || after.Backup.Version == before.Backup.Version {
			t.Fatalf("after the reset: %+v", after)
		}
		wantSetUp(t, hs, alice)
		bob.AwaitUserStatus(a.UserID, map[string]any{"master_key": after.Identity.MasterKey})
		wantClean(t, bob.AwaitDecrypted(room, alice.SendText(room, "after the reset")), "after the reset")

		elsewhere := testproxy.Start(t, hs.URL, testproxy.Options{})
		laptop := loginCurl(t, elsewhere.URL, a, "LAPTOP")
		laptop.wantRefused(403, "DEV.E2EE_PROXY.WRONG_RECOVERY_KEY", http.MethodPost, control+"recover", map[string]any{"recovery_key": first})
		laptop.wantRefused(409, "DEV.E2EE_PROXY.NO_BACKUP", http.MethodPost, control+"keys/restore", nil)
		laptop.control(200, http.MethodPost, "recover", map[string]any{"recovery_key": second})
		laptop.awaitSigned()
		laptop.control(200, http.MethodPost, "keys/restore", nil)
		laptop.await("the restored history", func(context.Context) error {
			if r := laptop.status().Backup.Restore; r == nil || r.State != "done" || r.Restored == 0 || r.Refused != 0 {
				return fmt.Errorf("the restore is %+v", r)
			}
			return nil
		})
		if page, err := elsewhere.Metrics(t.Context()); err != nil || !regexp.MustCompile(`(?m)^e2ee_proxy_backup_restored_keys_total [1-9]`).MatchString(page) {
			t.Errorf("the metrics do not tell of the restore, %v", err)
		}
	})
}

// Element opens the file that the proxy writes, and the proxy the one that Element writes.
// Each then reads what it could not.
func TestKeyFilesWithElement(t *testing.T) {
	t.Parallel()
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
		second.wantRefused(403, "DEV.E2EE_PROXY.WRONG_PASSPHRASE", http.MethodPost, control+"keys/import", map[string]any{"passphrase": "wrong", "keys": file})
		second.control(400, http.MethodPost, "keys/import", map[string]any{"passphrase": passphrase, "keys": "no file"})
		second.control(200, http.MethodPost, "keys/import", map[string]any{"passphrase": passphrase, "keys": file})
		got := second.Await(room, testpeer.Where{"event_id": answer, "body": "in the second file"})
		wantTrust(t, got, trust{Decrypted: true, Color: "grey", Code: "AuthenticityNotGuaranteed", Source: "import"})
	})
}

// A bot comes up signed with nobody present, by a recovery key in a file, and by one in the
// environment.
func TestBotComesUpSigned(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		a := newAccount(t, hs, "bot")
		first := loginCurl(t, proxy.URL, a, "FIRST")
		first.awaitInOrder()
		key := first.recoveryKey()
		first.control(200, http.MethodDelete, "recovery_key", nil)
		first.control(404, http.MethodGet, "recovery_key", nil)
		if printed, err := proxy.Run(t.Context(), "recovery-key", "--user", a.UserID); err != nil || printed != key+"\n" {
			t.Errorf("on the machine another key is printed, %v", err)
		}
		file := filepath.Join(t.TempDir(), "recovery-key")
		if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for name, options := range map[string]testproxy.Options{
			"a file in the configuration": {Config: fmt.Sprintf("accounts:\n  %q:\n    recovery_key_file: %q\n", a.UserID, file)},
			"the environment":             {Env: []string{fmt.Sprintf("E2EE_PROXY_ACCOUNTS={%q: {recovery_key: %q}}", a.UserID, key)}},
		} {
			machine := testproxy.Start(t, hs.URL, options)
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
