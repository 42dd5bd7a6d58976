package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// A conversation with Element and a device of its user's that is not confirmed, and then is:
// beside the running proxy the audit log tells who was given the keys and who was not, and
// that nobody changed it.
func TestAuditOfAConversation(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		run := func(command string, args ...string) string {
			t.Helper()
			out, err := proxy.Run(t.Context(), "audit "+command, args...)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
		room := bring(t, hs, alice, bob.account)
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "hello")), "hello")
		kept := filepath.Join(t.TempDir(), "checkpoints")
		if err := os.WriteFile(kept, []byte(run("checkpoint")), 0o600); err != nil {
			t.Fatal(err)
		}
		device := unsignedDevice(hs, alice, a)
		bob.awaitDevice(a.UserID, unsigned, false)
		bob.SendText(room, "not for unsigned devices")
		who := run("who-has", "--room", room)
		if !strings.Contains(who, a.UserID+" "+alice.DeviceID+" since ") || !strings.Contains(who, bob.account.UserID+" "+bob.account.DeviceID+" since ") || strings.Contains(who, unsigned) {
			t.Errorf("who could read the room:\n%s", who)
		}
		alice.AwaitDevice(a.UserID, unsigned, false)
		alice.SignDevice(unsigned)
		bob.awaitDevice(a.UserID, unsigned, true)
		wantClean(t, device.AwaitDecrypted(room, bob.SendText(room, "for all of you")), "for all of you")
		if who = run("who-has", "--room", room); !strings.Contains(who, a.UserID+" "+unsigned+" since ") {
			t.Errorf("who could read the room:\n%s", who)
		}
		var told []string
		for line := range strings.Lines(run("export", "--user", a.UserID, "--room", room)) {
			if strings.Contains(line, `"recipient_device":"`+unsigned+`"`) {
				told = append(told, line)
			}
		}
		if len(told) != 2 || !strings.Contains(told[0], `"outcome":"withheld","code":"m.unverified","rule":"unsigned"`) || !strings.Contains(told[1], `"outcome":"given","rule":"signed"`) {
			t.Errorf("of the device that was confirmed later:\n%s", strings.Join(told, ""))
		}
		if out := run("verify", "--checkpoint", kept); !strings.Contains(out, " records are in order\n") || !strings.Contains(out, "is one of this log\n") {
			t.Error(out)
		}
		if strings.Contains(run("export"), "hello") {
			t.Error("a text is in the log")
		}
	})
}
