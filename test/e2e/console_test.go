package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e2ee-proxy/internal/qrcode"
	"e2ee-proxy/internal/testbrowser"
	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

const consolePath = "/_e2ee_proxy/console"

// enter signs a person in to the console with their password.
func enter(t *testing.T, p *testbrowser.Page, proxy *testproxy.Proxy, a tesths.Account) {
	t.Helper()
	p.Goto(proxy.URL + consolePath)
	p.Fill("#user", a.UserID)
	p.Fill("#password", a.Password)
	p.Follow("Sign in")
	p.Wants("Signed in as " + a.UserID)
}

// A person signs in to the console in a browser and verifies somebody who uses Element by emoji, asked
// by either side: both see the same, both say so, and both then show the other as verified. The
// console leaves no device behind at the homeserver.
func TestVerifyInTheConsole(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host, browser := testpeer.NodeHost(t), testbrowser.Start(t)
		for name, consoleAsks := range map[string]bool{"console": true, "element": false} {
			alice, a := peerOf(t, hs, host, "alice")
			bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
			room := bring(t, hs, alice, bob.account)
			wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")
			alice.ListenVerifications()

			p := browser.Open(testbrowser.Look{})
			enter(t, p, proxy, bob.account)
			p.Await("All is well")
			if consoleAsks {
				p.Follow("People")
				p.Wants(a.UserID + " Not verified")
				p.Follow(a.UserID)
				p.Follow("Begin to verify")
				alice.AwaitVerification(map[string]any{"phase": "requested"})
				alice.AcceptVerification()
				p.Await("Compare emoji")
				p.Follow("Compare emoji")
			} else {
				alice.RequestVerification(bob.account.UserID, "", alice.Devices(bob.account.UserID)[0].DeviceID)
				p.Await("Go to the verification") // by itself
				p.Follow("Go to the verification")
				p.Follow("Accept")
				alice.AwaitVerification(map[string]any{"phase": "ready"})
				alice.StartEmoji()
			}
			seen := alice.AwaitVerification(map[string]any{"emoji": true})
			p.Await("Do you both see this?")
			for _, e := range seen.Emoji {
				p.Wants(e.Symbol + " " + e.Name)
			}
			p.Wants(fmt.Sprintf("%d %d %d", seen.Decimals[0], seen.Decimals[1], seen.Decimals[2]))
			p.Picture("real-compare-" + name + "-" + hs.Kind)
			alice.ConfirmEmoji()
			p.Follow("They match")
			p.Await("Back to all verifications")
			alice.AwaitVerification(map[string]any{"phase": "done"})
			alice.AwaitUserStatus(bob.account.UserID, map[string]any{"verified": true})
			p.Follow("People")
			p.Wants(a.UserID + " Verified")
			if now := bob.user(a.UserID); now.State != "verified" {
				t.Errorf("the proxy says that alice is %s", now.State)
			}
			wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "after")), "after")
			wantNoConsoleDevice(t, bob)
			p.Follow("Sign out")
			p.Wants("You are signed out")
		}
	})
}

// The same by QR codes: Element scans the one on the page, as a picture of the screen has it, and the
// person sends the console a picture of the one that Element shows.
func TestScanInTheConsole(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host, browser := testpeer.NodeHost(t), testbrowser.Start(t)
		for name, elementScans := range map[string]bool{"element scans": true, "console scans": false} {
			alice, a := peerOf(t, hs, host, "alice")
			bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
			room := bring(t, hs, alice, bob.account)
			wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")
			alice.ListenVerifications()
			p := browser.Open(testbrowser.Look{})
			enter(t, p, proxy, bob.account)
			p.Goto(proxy.URL + consolePath + "/people/" + a.UserID)
			p.Follow("Begin to verify")
			alice.AwaitVerification(map[string]any{"phase": "requested"})
			alice.AcceptVerification()
			p.Await("Let them scan this")
			if elementScans {
				picture := p.Picture("real-scan-" + hs.Kind)
				code, err := qrcode.Read(picture)
				if err != nil {
					t.Fatalf("%s: the code on the page: %v", name, err)
				}
				alice.ScanQR(base64.StdEncoding.EncodeToString(code))
				p.Await("Yes, it does")
				p.Follow("Yes, it does")
			} else {
				content, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(alice.ShowQR(), "="))
				if err != nil {
					t.Fatal(err)
				}
				picture, err := qrcode.PNG(content)
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(t.TempDir(), "photo.png")
				if err := os.WriteFile(file, picture, 0o600); err != nil {
					t.Fatal(err)
				}
				p.Upload("#picture", file)
				p.Follow("Read the code")
				alice.AwaitVerification(map[string]any{"scanned": true})
				alice.ConfirmScanned()
			}
			p.Await("Back to all verifications")
			alice.AwaitUserStatus(bob.account.UserID, map[string]any{"verified": true})
			p.Follow("People")
			p.Wants(a.UserID + " Verified")
		}
	})
}

// wantNoConsoleDevice fails if a sign-in has left a device behind.
func wantNoConsoleDevice(t *testing.T, c *curl) {
	t.Helper()
	var all struct {
		Devices []struct {
			ID   string `json:"device_id"`
			Name string `json:"display_name"`
		} `json:"devices"`
	}
	if err := c.http.Call(context.Background(), http.MethodGet, "/_matrix/client/v3/devices", nil, &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Devices) != 1 || strings.Contains(all.Devices[0].Name, "console") {
		t.Errorf("there are devices %+v", all.Devices)
	}
}
