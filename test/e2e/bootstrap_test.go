package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// Two fresh accounts that only log in through the proxy reach "signed, backed up,
// recoverable" with no human step: the status says so, and the homeserver shows it. A
// second device of one of them, behind another proxy that shares nothing with the first,
// recovers with the key that the first one made, and reads what was sent before it existed;
// so does Element as that user. An Element peer sees all of them without a shield.
func TestFreshAccounts(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice := element(t, hs, host, "alice")
		b, c := newAccount(t, hs, "bob"), newAccount(t, hs, "carol")
		bob, carol := loginCurl(t, proxy.URL, b, "BOB1"), loginCurl(t, proxy.URL, c, "CAROL1")

		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID, c.UserID}})
		for _, plain := range []*curl{bob, carol} {
			plain.AwaitRoom(room, "invite")
			plain.Join(room)
			alice.AwaitMember(room, plain.account.UserID, "join")
			plain.awaitInOrder()
			wantSetUp(t, hs, plain)
			alice.AwaitDevice(plain.account.UserID, plain.account.DeviceID, true)
		}
		fromBob := bob.SendText(room, "from bob")
		fromCarol := carol.SendText(room, "from carol")
		fromAlice := alice.SendText(room, "from alice")
		wantClean(t, alice.AwaitDecrypted(room, fromBob), "from bob")
		wantClean(t, alice.AwaitDecrypted(room, fromCarol), "from carol")
		bob.Await(room, testpeer.Where{"event_id": fromCarol, "body": "from carol"})
		bob.Await(room, testpeer.Where{"event_id": fromAlice, "body": "from alice"})
		awaitBackedUp(t, hs, bob, room, fromBob, fromCarol, fromAlice)

		bob2 := recoverElsewhere(t, hs, bob, carol.recoveryKey(), room)
		for event, body := range map[string]string{fromBob: "from bob", fromCarol: "from carol", fromAlice: "from alice"} {
			m := bob2.Await(room, testpeer.Where{"event_id": event, "body": body})
			// The first device had these keys from their owners, and said so in the backup (requirement 16.9).
			wantTrust(t, m, trust{Decrypted: true, Color: "none", UserID: m.Sender, DeviceID: deviceOf(m.Sender, alice, bob, carol), Source: "backup"})
		}
		alice.AwaitDevice(b.UserID, "BOB2", true)
		wantClean(t, alice.AwaitDecrypted(room, bob2.SendText(room, "from the second device")), "from the second device")
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "from the first device")), "from the first device")

		phone := host.Element(t, testpeer.Options{
			URL: hs.URL, User: b.UserID, Password: b.Password, Setup: testpeer.Recover, RecoveryKey: bob.recoveryKey(),
		})
		alice.AwaitDevice(b.UserID, phone.DeviceID, true)
		phone.AwaitRoom(room, "join")
		if restored := phone.RestoreBackup(); restored < 3 {
			t.Errorf("Element restores %d room keys", restored)
		}
		for event, body := range map[string]string{fromBob: "from bob", fromAlice: "from alice"} {
			if m := phone.AwaitDecrypted(room, event); m.Body != body || m.Shield == nil || m.Shield.Colour == "RED" {
				t.Errorf("Element sees %+v, shield %+v; want %q", m, m.Shield, body)
			}
		}
		fromPhone := phone.SendText(room, "from the phone")
		wantClean(t, alice.AwaitDecrypted(room, fromPhone), "from the phone")
		m := bob.Await(room, testpeer.Where{"event_id": fromPhone, "body": "from the phone"})
		wantTrust(t, m, trust{Decrypted: true, Color: "none", UserID: b.UserID, DeviceID: phone.DeviceID, Source: "direct"})
	})
}

func deviceOf(user string, alice *testpeer.Client, plain ...*curl) string {
	for _, c := range plain {
		if c.account.UserID == user {
			return c.account.DeviceID
		}
	}
	return alice.DeviceID
}

// recoverElsewhere logs a user in as BOB2 through a proxy of its own. Nothing can be sent
// from there until it has recovered, which the recovery key of somebody else does not do.
func recoverElsewhere(t *testing.T, hs *tesths.Homeserver, bob *curl, notTheirs, room string) *curl {
	t.Helper()
	other := testproxy.Start(t, hs.URL, testproxy.Options{})
	account := bob.account
	second := loginCurl(t, other.URL, account, "BOB2")
	second.sendRefused(deviceNotSigned, room, "early", "not yet")
	second.awaitProblem("device_not_signed")
	second.wantRefused(http.StatusForbidden, "DEV.E2EE_PROXY.WRONG_RECOVERY_KEY", http.MethodPost, control+"recover",
		map[string]any{"recovery_key": notTheirs})
	if s := second.status(); s.Identity.Ours || s.Identity.DeviceSigned {
		t.Errorf("a wrong recovery key changed something: %+v", s)
	}
	second.call(http.MethodPost, control+"recover", map[string]any{"recovery_key": bob.recoveryKey()}, nil)
	second.awaitInOrder()
	if first, now := bob.status(), second.status(); first.Identity.MasterKey != now.Identity.MasterKey || first.Backup.Version != now.Backup.Version {
		t.Errorf("the second device has identity and backup of its own: %+v, %+v", first, now)
	}
	return second
}

// wantSetUp fails unless a device is signed, backed up and recoverable, as its status says
// and as the homeserver shows it: the device's signature and the whole chain up to the
// master key, the secrets under the default key, the backup's signature.
func wantSetUp(t *testing.T, hs *tesths.Homeserver, c *curl) {
	t.Helper()
	s := c.status()
	if !s.Identity.Ours || !s.Identity.DeviceSigned || !s.SecretStorage.Complete || !s.Backup.Enabled || !s.Backup.Trusted || !s.Backup.Readable {
		t.Errorf("status is %+v", s)
	}
	if len(s.Problems)+len(s.Warnings) > 0 {
		t.Errorf("problems %+v, warnings %+v", s.Problems, s.Warnings)
	}
	direct, user := hs.Client().As(c.account), c.account.UserID
	get := func(method, path string, body, result any) {
		t.Helper()
		if err := direct.Call(t.Context(), method, "/_matrix/client/v3/"+path, body, result); err != nil {
			t.Fatal(err)
		}
	}

	var keys struct {
		Devices     map[string]map[string]json.RawMessage `json:"device_keys"`
		Master      map[string]json.RawMessage            `json:"master_keys"`
		SelfSigning map[string]json.RawMessage            `json:"self_signing_keys"`
		UserSigning map[string]json.RawMessage            `json:"user_signing_keys"`
	}
	get(http.MethodPost, "keys/query", map[string]any{"device_keys": map[string]any{user: []string{}}}, &keys)
	master, selfSigning := publicKey(t, keys.Master[user]), publicKey(t, keys.SelfSigning[user])
	if master != s.Identity.MasterKey {
		t.Errorf("status names the master key %q, the homeserver shows %q", s.Identity.MasterKey, master)
	}
	wantSignature(t, keys.SelfSigning[user], user, master)
	wantSignature(t, keys.UserSigning[user], user, master)
	wantSignature(t, keys.Devices[user][c.account.DeviceID], user, selfSigning)

	data := "user/" + url.PathEscape(user) + "/account_data/"
	var storage struct {
		Key string `json:"key"`
	}
	get(http.MethodGet, data+"m.secret_storage.default_key", nil, &storage)
	if storage.Key == "" || storage.Key != s.SecretStorage.DefaultKey {
		t.Errorf("the default key is %q, status says %q", storage.Key, s.SecretStorage.DefaultKey)
	}
	for _, name := range []string{"m.cross_signing.master", "m.cross_signing.self_signing", "m.cross_signing.user_signing", "m.megolm_backup.v1"} {
		var secret struct {
			Encrypted map[string]struct {
				Ciphertext string `json:"ciphertext"`
			} `json:"encrypted"`
		}
		get(http.MethodGet, data+name, nil, &secret)
		if secret.Encrypted[storage.Key].Ciphertext == "" {
			t.Errorf("%s is not in secret storage under the default key: %+v", name, secret)
		}
	}

	var backup struct {
		Version  string          `json:"version"`
		AuthData json.RawMessage `json:"auth_data"`
	}
	get(http.MethodGet, "room_keys/version", nil, &backup)
	if backup.Version != s.Backup.Version {
		t.Errorf("the backup is %q, status says %q", backup.Version, s.Backup.Version)
	}
	wantSignature(t, backup.AuthData, user, master)
}

// publicKey returns the one public key of an identity's key object.
func publicKey(t *testing.T, object json.RawMessage) string {
	t.Helper()
	var key struct {
		Keys map[string]string `json:"keys"`
	}
	if err := json.Unmarshal(object, &key); err != nil || len(key.Keys) != 1 {
		t.Fatalf("not a key: %s, %v", object, err)
	}
	for _, public := range key.Keys {
		return public
	}
	return ""
}

// wantSignature fails unless an object carries a valid signature by a user's key.
func wantSignature(t *testing.T, object json.RawMessage, user, key string) {
	t.Helper()
	if ok, err := signatures.VerifySignatureJSON(object, id.UserID(user), key, id.Ed25519(key)); err != nil || !ok {
		t.Errorf("not signed by %s: %v: %s", key, err, object)
	}
}

// awaitBackedUp waits until the homeserver's backup holds the keys of these events.
func awaitBackedUp(t *testing.T, hs *tesths.Homeserver, c *curl, room string, events ...string) {
	t.Helper()
	direct := hs.Client().As(c.account)
	path := fmt.Sprintf("/_matrix/client/v3/room_keys/keys/%s?version=%s", url.PathEscape(room), url.QueryEscape(c.status().Backup.Version))
	for _, event := range events {
		stored, err := direct.Event(t.Context(), room, event)
		if err != nil {
			t.Fatal(err)
		}
		var content struct {
			SessionID string `json:"session_id"`
		}
		if err := json.Unmarshal(stored.Content, &content); err != nil {
			t.Fatal(err)
		}
		c.await("the room key of "+event+" in the backup", func(ctx context.Context) error {
			var backup struct {
				Sessions map[string]json.RawMessage `json:"sessions"`
			}
			if err := direct.Call(ctx, http.MethodGet, path, nil, &backup); err != nil {
				return err
			}
			if backup.Sessions[content.SessionID] == nil {
				return fmt.Errorf("%d others are", len(backup.Sessions))
			}
			return nil
		})
	}
}
