package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"e2ee-proxy/internal/qrcode"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// verification is one as the control API tells of it.
type verification struct {
	ID       string `json:"id"`
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
	Incoming bool   `json:"incoming"`
	RoomID   string `json:"room_id"`
	State    string `json:"state"`
	Emoji    []struct {
		Symbol string `json:"symbol"`
		Name   string `json:"name"`
	} `json:"emoji"`
	Decimals []int  `json:"decimals"`
	QR       string `json:"qr"`
	CanScan  bool   `json:"can_scan"`
	Code     string `json:"cancel_code"`
	Message  string `json:"message"`
}

// verify makes a call about verifications.
func (c *curl) verify(path string, body any) verification {
	c.t.Helper()
	var v verification
	c.call(http.MethodPost, control+path, body, &v)
	return v
}

func (c *curl) step(v verification, what string, body any) verification {
	c.t.Helper()
	return c.verify("verifications/"+v.ID+"/"+what, body)
}

// awaitVerification waits until the newest verification has a state.
func (c *curl) awaitVerification(state string) verification {
	c.t.Helper()
	var v verification
	c.await("a verification that is "+state, func(ctx context.Context) error {
		var all struct {
			Verifications []verification `json:"verifications"`
		}
		if err := c.http.Call(ctx, http.MethodGet, control+"verifications", nil, &all); err != nil {
			return err
		}
		if len(all.Verifications) == 0 {
			return errors.New("there is none")
		}
		if v = all.Verifications[0]; v.State != state {
			return fmt.Errorf("it is %s (%s: %s)", v.State, v.Code, v.Message)
		}
		return nil
	})
	return v
}

// wantSameEmoji fails unless both sides see the same.
func wantSameEmoji(t *testing.T, element testpeer.Verification, ours verification) {
	t.Helper()
	if len(ours.Emoji) != 7 || len(element.Emoji) != 7 || len(ours.Decimals) != 3 {
		t.Fatalf("they see %v and %v", element.Emoji, ours.Emoji)
	}
	for i := range ours.Emoji {
		if ours.Emoji[i].Symbol != element.Emoji[i].Symbol {
			t.Errorf("they see %v and %v", element.Emoji, ours.Emoji)
		}
	}
	for i := range ours.Decimals {
		if ours.Decimals[i] != element.Decimals[i] {
			t.Errorf("they see %v and %v", element.Decimals, ours.Decimals)
		}
	}
}

// Element's SDK and a proxied user verify each other by emoji, from device to device, asked by
// either side; and each side shows the other as verified.
func TestVerifyEachOtherByEmoji(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		for _, elementAsks := range []bool{true, false} {
			alice, a := peerOf(t, hs, host, "alice")
			bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
			room := bring(t, hs, alice, bob.account)
			wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")
			alice.ListenVerifications()
			device := alice.Devices(bob.account.UserID)[0].DeviceID
			if elementAsks {
				alice.RequestVerification(bob.account.UserID, "", device)
				v := bob.awaitVerification("requested")
				bob.awaitWarning("verification_requested", a.UserID, room)
				bob.step(v, "accept", nil)
				alice.AwaitVerification(map[string]any{"phase": "ready"})
				alice.StartEmoji()
			} else {
				bob.verify("verifications", map[string]any{"user_id": a.UserID, "device_id": alice.DeviceID})
				alice.AwaitVerification(map[string]any{"phase": "requested"})
				alice.AcceptVerification()
				v := bob.awaitVerification("ready")
				bob.step(v, "emoji", nil)
			}
			seen := alice.AwaitVerification(map[string]any{"emoji": true})
			v := bob.awaitVerification("compare")
			wantSameEmoji(t, seen, v)
			alice.ConfirmEmoji()
			bob.step(v, "confirm", map[string]any{"match": true})
			bob.awaitVerification("done")
			alice.AwaitVerification(map[string]any{"phase": "done"})
			alice.AwaitUserStatus(bob.account.UserID, map[string]any{"verified": true})
			if now := bob.user(a.UserID); now.State != "verified" {
				t.Errorf("the proxy says that alice is %s", now.State)
			}
			wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "after")), "after")
		}
	})
}

// The same in a room, which is encrypted or not, asked by either side, with and without a client
// that syncs.
func TestVerifyEachOtherInARoom(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		for _, elementAsks := range []bool{true, false} {
			alice, a := peerOf(t, hs, host, "alice")
			bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
			room := bring(t, hs, alice, bob.account)
			wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")
			alice.ListenVerifications()
			if elementAsks {
				alice.RequestVerification(bob.account.UserID, room, "")
				v := bob.awaitVerification("requested")
				if v.RoomID != room || v.UserID != a.UserID {
					t.Errorf("%+v", v)
				}
				bob.step(v, "accept", nil)
				alice.AwaitVerification(map[string]any{"phase": "ready"})
				bob.step(v, "emoji", nil)
			} else {
				direct := "/_matrix/client/v3/user/" + url.PathEscape(bob.account.UserID) + "/account_data/m.direct"
				bob.call(http.MethodPut, direct, map[string]any{a.UserID: []string{room}}, nil)
				if v := bob.verify("verifications", map[string]any{"user_id": a.UserID}); v.RoomID != room {
					t.Errorf("asked in %q", v.RoomID)
				}
				alice.AwaitVerification(map[string]any{"phase": "requested"})
				alice.AcceptVerification()
				bob.awaitVerification("ready")
				alice.StartEmoji()
			}
			seen := alice.AwaitVerification(map[string]any{"emoji": true})
			v := bob.awaitVerification("compare")
			wantSameEmoji(t, seen, v)
			bob.step(v, "confirm", map[string]any{"match": true})
			alice.ConfirmEmoji()
			bob.awaitVerification("done")
			alice.AwaitVerification(map[string]any{"phase": "done"})
			alice.AwaitUserStatus(bob.account.UserID, map[string]any{"verified": true})
			if now := bob.user(a.UserID); now.State != "verified" {
				t.Errorf("the proxy says that alice is %s", now.State)
			}
		}
	})
}

// By QR code, shown by either side, from device to device.
func TestVerifyByQRCode(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		for _, elementShows := range []bool{true, false} {
			alice, a := peerOf(t, hs, host, "alice")
			bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
			room := bring(t, hs, alice, bob.account)
			wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")
			alice.ListenVerifications()
			bob.verify("verifications", map[string]any{"user_id": a.UserID, "device_id": alice.DeviceID})
			alice.AwaitVerification(map[string]any{"phase": "requested"})
			alice.AcceptVerification()
			v := bob.awaitVerification("ready")
			if elementShows {
				bob.step(v, "scan", map[string]any{"qr": alice.ShowQR()})
				alice.AwaitVerification(map[string]any{"scanned": true})
				alice.ConfirmScanned()
			} else {
				if picture := bob.raw(http.MethodGet, control+"verifications/"+v.ID+"/qr?format=png", nil); picture.StatusCode != http.StatusOK {
					t.Errorf("the picture: %d %s", picture.StatusCode, picture.body)
				} else if shown, err := qrcode.Read(picture.body); err != nil || base64.StdEncoding.EncodeToString(shown) != v.QR {
					t.Errorf("the picture shows %x, %v", shown, err)
				}
				alice.ScanQR(v.QR)
				v = bob.awaitVerification("scanned")
				bob.step(v, "scanned", map[string]any{"yes": true})
			}
			bob.awaitVerification("done")
			alice.AwaitVerification(map[string]any{"phase": "done"})
			alice.AwaitUserStatus(bob.account.UserID, map[string]any{"verified": true})
			if now := bob.user(a.UserID); now.State != "verified" {
				t.Errorf("the proxy says that alice is %s", now.State)
			}
		}
	})
}

// A device of the own user: the proxy's, which does not have the identity, is verified by
// Element's, and gets what it needs; then Element's new device is verified by the proxy's,
// which signs it and gives it the secrets.
func TestVerifyOwnDevices(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		for _, elementAsks := range []bool{true, false} {
			old, a := peerOf(t, hs, host, "alice")
			old.ListenVerifications()
			bot := loginCurl(t, proxy.URL, a, "BOT")
			bot.await("an unsigned device", func(ctx context.Context) error {
				var s standing
				if err := bot.http.Call(ctx, http.MethodGet, control+"status", nil, &s); err != nil {
					return err
				}
				if s.Identity.MasterKey == "" || s.Identity.DeviceSigned {
					return fmt.Errorf("%+v", s.Identity)
				}
				return nil
			})
			old.AwaitDevice(a.UserID, "BOT", false)
			if elementAsks {
				old.RequestVerification(a.UserID, "", "BOT")
				bot.step(bot.awaitVerification("requested"), "accept", nil)
				old.AwaitVerification(map[string]any{"phase": "ready"})
				old.StartEmoji()
			} else {
				bot.verify("verifications", map[string]any{"user_id": a.UserID})
				old.AwaitVerification(map[string]any{"phase": "requested"})
				old.AcceptVerification()
				bot.step(bot.awaitVerification("ready"), "emoji", nil)
			}
			seen := old.AwaitVerification(map[string]any{"emoji": true})
			v := bot.awaitVerification("compare")
			wantSameEmoji(t, seen, v)
			old.ConfirmEmoji()
			bot.step(v, "confirm", map[string]any{"match": true})
			bot.awaitVerification("done")
			old.AwaitVerification(map[string]any{"phase": "done"})
			old.AwaitDevice(a.UserID, "BOT", true)
			bot.awaitSigned() // the secrets came

			fresh := old.SecondDevice(testpeer.Options{URL: hs.URL, User: a.UserID, Password: a.Password, Device: "FRESH"})
			fresh.ListenVerifications()
			bot.awaitDevice(a.UserID, "FRESH", false)
			fresh.AwaitDevice(a.UserID, "BOT", true)
			fresh.RequestVerification(a.UserID, "", "BOT")
			bot.step(bot.awaitVerification("requested"), "accept", nil)
			fresh.AwaitVerification(map[string]any{"phase": "ready"})
			fresh.StartEmoji()
			wantSameEmoji(t, fresh.AwaitVerification(map[string]any{"emoji": true}), bot.awaitVerification("compare"))
			fresh.ConfirmEmoji()
			bot.step(bot.awaitVerification("compare"), "confirm", map[string]any{"match": true})
			bot.awaitVerification("done")
			old.AwaitDevice(a.UserID, "FRESH", true)
			bot.await("the secrets at the new device", func(context.Context) error {
				if s := fresh.CrossSigningStatus().PrivateKeysCachedLocally; !s.MasterKey || !s.SelfSigningKey || !s.UserSigningKey {
					return fmt.Errorf("it has %+v", s)
				}
				return nil
			})
		}
	})
}

// What people do wrong, and what they are told: the emoji differ, the other side cancels, a
// code of something else. Nothing is verified by it.
func TestVerificationsThatFail(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
		room := bring(t, hs, alice, bob.account)
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")
		alice.ListenVerifications()
		ask := func() verification {
			bob.verify("verifications", map[string]any{"user_id": a.UserID, "device_id": alice.DeviceID})
			alice.AwaitVerification(map[string]any{"phase": "requested"})
			alice.AcceptVerification()
			return bob.awaitVerification("ready")
		}
		wantCode := func(code string) {
			t.Helper()
			if v := bob.awaitVerification("cancelled"); v.Code != code || v.Message == "" {
				t.Errorf("ended with %s: %s", v.Code, v.Message)
			}
			if now := bob.user(a.UserID); now.State != "pinned" {
				t.Errorf("alice is %s", now.State)
			}
		}
		v := ask()
		bob.wantRefused(http.StatusBadRequest, "M_INVALID_PARAM", http.MethodPost, control+"verifications/"+v.ID+"/scan", map[string]any{"qr": "aGVsbG8"})
		bob.wantRefused(http.StatusConflict, "DEV.E2EE_PROXY.VERIFICATION_STEP", http.MethodPost, control+"verifications/"+v.ID+"/confirm", map[string]any{"match": true})
		bob.step(v, "emoji", nil)
		alice.AwaitVerification(map[string]any{"emoji": true})
		bob.step(bob.awaitVerification("compare"), "confirm", map[string]any{"match": false})
		alice.AwaitVerification(map[string]any{"phase": "cancelled", "code": "m.mismatched_sas"})
		wantCode("m.mismatched_sas")

		v = ask()
		bob.step(v, "emoji", nil)
		alice.AwaitVerification(map[string]any{"emoji": true})
		alice.MismatchEmoji()
		wantCode("m.mismatched_sas")

		ask()
		alice.CancelVerification()
		wantCode("m.user")

		v = ask()
		bob.control(http.StatusOK, http.MethodPost, "verifications/"+v.ID+"/cancel", nil)
		alice.AwaitVerification(map[string]any{"phase": "cancelled", "code": "m.user"})
		wantCode("m.user")

		// By the fingerprint: the wrong one changes nothing, the right one verifies.
		verify := userPath(a.UserID, "verify")
		bob.wantRefused(http.StatusConflict, "DEV.E2EE_PROXY.MASTER_KEY_NOT_CURRENT", http.MethodPost, verify, map[string]any{"master_key": bob.status().Identity.MasterKey})
		key := alice.UserStatus(a.UserID).MasterKey
		bob.call(http.MethodPost, verify, map[string]any{"master_key": " " + key[:10] + " " + key[10:] + "\n"}, nil)
		if now := bob.user(a.UserID); now.State != "verified" {
			t.Errorf("alice is %s", now.State)
		}
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "after")), "after")
	})
}

// Element resets the backup of the messages, and pushes the new key to the user's other devices
// (MSC4385). The proxy goes on saving, to the new backup, without a recovery key.
func TestBackupResetElsewhere(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		old, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		bot := loginCurl(t, proxy.URL, a, "BOT")
		bot.control(http.StatusOK, http.MethodPost, "recover", map[string]any{"recovery_key": old.RecoveryKey})
		before := bot.awaitSigned().Backup.Version
		old.AwaitDevice(a.UserID, "BOT", true)
		old.ResetBackup()
		bot.await("the new backup", func(ctx context.Context) error {
			var s standing
			if err := bot.http.Call(ctx, http.MethodGet, control+"status", nil, &s); err != nil {
				return err
			}
			if s.Backup.Version == before || !s.Backup.Readable || !s.Backup.Trusted {
				return fmt.Errorf("it is %+v", s.Backup)
			}
			return nil
		})
	})
}

// A bot whose account is set so is verified from Element's other device alone, with nobody at the
// proxy: it may send, and takes no backup from a device that nobody here has looked at. A request of
// another user waits for a person all the same.
func TestOwnDevicesUnseen(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		host := testpeer.NodeHost(t)
		old, a := peerOf(t, hs, host, "alice")
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{Config: "accounts:\n  \"" + a.UserID + "\":\n    auto_verify: [own]\n"})
		old.ListenVerifications()
		bot := loginCurl(t, proxy.URL, a, "BOT")
		bot.status()
		old.AwaitDevice(a.UserID, "BOT", false)
		old.RequestVerification(a.UserID, "", "BOT")
		old.AwaitVerification(map[string]any{"phase": "ready"})
		old.StartEmoji()
		old.AwaitVerification(map[string]any{"emoji": true})
		old.ConfirmEmoji()
		old.AwaitVerification(map[string]any{"phase": "done"})
		old.AwaitDevice(a.UserID, "BOT", true)
		bot.await("the signature", func(ctx context.Context) error {
			var s standing
			if err := bot.http.Call(ctx, http.MethodGet, control+"status", nil, &s); err != nil {
				return err
			}
			if !s.Identity.DeviceSigned || s.Identity.Ours || s.Backup.Trusted {
				return fmt.Errorf("it is %+v", s)
			}
			return nil
		})

		bob, b := peerOf(t, hs, host, "bob")
		room := bring(t, hs, bob, bot.account)
		wantClean(t, bob.AwaitDecrypted(room, bot.SendText(room, "hello")), "hello")
		bob.ListenVerifications()
		bob.AwaitDevice(a.UserID, "BOT", true)
		bob.RequestVerification(a.UserID, "", "BOT")
		if v := bot.awaitVerification("requested"); v.UserID != b.UserID {
			t.Errorf("%s asks", v.UserID)
		}
	})
}

// After a reset of a peer who was verified, nothing is sent to them, in words, until they are
// verified again: that goes from device to device, and is all that is needed.
func TestVerifyAgainAfterAReset(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
		room := bring(t, hs, alice, bob.account)
		direct := "/_matrix/client/v3/user/" + url.PathEscape(bob.account.UserID) + "/account_data/m.direct"
		bob.call(http.MethodPut, direct, map[string]any{a.UserID: []string{room}}, nil)
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")
		alice.ListenVerifications()
		bob.call(http.MethodPost, userPath(a.UserID, "verify"), map[string]any{"master_key": alice.UserStatus(a.UserID).MasterKey}, nil)

		alice.Reset(a.Password)
		bob.awaitWarning("verification_lost", a.UserID, room)
		wantBlockedBy := bob.sendRefused(identityChanged, room, "held", "held up")
		if wantBlockedBy.Text == "" {
			t.Error("the refusal says nothing")
		}
		if v := bob.verify("verifications", map[string]any{"user_id": a.UserID}); v.RoomID != "" {
			t.Errorf("asked in %s", v.RoomID)
		}
		alice.AwaitVerification(map[string]any{"phase": "requested"})
		alice.AcceptVerification()
		bob.step(bob.awaitVerification("ready"), "emoji", nil)
		wantSameEmoji(t, alice.AwaitVerification(map[string]any{"emoji": true}), bob.awaitVerification("compare"))
		alice.ConfirmEmoji()
		bob.step(bob.awaitVerification("compare"), "confirm", map[string]any{"match": true})
		bob.awaitVerification("done")
		if now := bob.user(a.UserID); now.State != "verified" {
			t.Errorf("alice is %s", now.State)
		}
		wantClean(t, alice.AwaitDecrypted(room, bob.sendAgain(room, "held", "held up")), "held up")
	})
}
