package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// byCode has one side show a code and the other scan it, and both say that it worked.
func byCode(t *testing.T, element *testpeer.Client, c *curl, elementShows bool) {
	t.Helper()
	v := c.awaitVerification("ready")
	if elementShows {
		code := element.ShowQR()
		if code == "" {
			t.Fatal("Element shows no code")
		}
		c.step(v, "scan", map[string]any{"qr": code})
		element.AwaitVerification(map[string]any{"scanned": true})
		element.ConfirmScanned()
	} else {
		if v.QR == "" {
			t.Fatal("the proxy shows no code")
		}
		element.ScanQR(v.QR)
		c.step(c.awaitVerification("scanned"), "scanned", map[string]any{"yes": true})
	}
	c.awaitVerification("done")
	element.AwaitVerification(map[string]any{"phase": "done"})
}

// By QR code in a room, shown by either side, asked for by either side.
func TestVerifyByQRCodeInARoom(t *testing.T) {
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
			if elementShows {
				alice.RequestVerification(bob.account.UserID, room, "")
				bob.step(bob.awaitVerification("requested"), "accept", nil)
				alice.AwaitVerification(map[string]any{"phase": "ready"})
			} else {
				direct := "/_matrix/client/v3/user/" + url.PathEscape(bob.account.UserID) + "/account_data/m.direct"
				bob.call(http.MethodPut, direct, map[string]any{a.UserID: []string{room}}, nil)
				if v := bob.verify("verifications", map[string]any{"user_id": a.UserID}); v.RoomID != room {
					t.Errorf("asked in %q", v.RoomID)
				}
				alice.AwaitVerification(map[string]any{"phase": "requested"})
				alice.AcceptVerification()
			}
			byCode(t, alice, bob, elementShows)
			alice.AwaitUserStatus(bob.account.UserID, map[string]any{"verified": true})
			if now := bob.user(a.UserID); now.State != "verified" {
				t.Errorf("the proxy says that alice is %s", now.State)
			}
			wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "after")), "after")
		}
	})
}

// By QR code between devices of one user, shown by either side: the proxy's device, which does
// not have the identity, is verified by Element's; then Element's new one by the proxy's.
func TestVerifyOwnDevicesByQRCode(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		for _, elementShows := range []bool{true, false} {
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
			old.RequestVerification(a.UserID, "", "BOT")
			bot.step(bot.awaitVerification("requested"), "accept", nil)
			old.AwaitVerification(map[string]any{"phase": "ready"})
			byCode(t, old, bot, elementShows)
			old.AwaitDevice(a.UserID, "BOT", true)
			bot.awaitSigned() // the secrets came

			fresh := old.SecondDevice(testpeer.Options{URL: hs.URL, User: a.UserID, Password: a.Password, Device: "FRESH"})
			fresh.ListenVerifications()
			bot.awaitDevice(a.UserID, "FRESH", false)
			fresh.AwaitDevice(a.UserID, "BOT", true)
			bot.verify("verifications", map[string]any{"user_id": a.UserID, "device_id": "FRESH"})
			fresh.AwaitVerification(map[string]any{"phase": "requested"})
			fresh.AcceptVerification()
			byCode(t, fresh, bot, elementShows)
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
