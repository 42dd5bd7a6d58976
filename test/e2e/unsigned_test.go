package e2e

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

const (
	// heldBack is what a person reads in place of a message that is not shown.
	heldBack = "A message from a device that its owner has not confirmed was held back."
	unsigned = "UNSIGNED"
)

// unsignedDevice opens a device of a peer's that the peer's identity does not sign. It
// reads and writes as clients did before MSC4153.
func unsignedDevice(hs *tesths.Homeserver, alice *testpeer.Client, a tesths.Account) *testpeer.Client {
	return alice.SecondDevice(testpeer.Options{
		URL: hs.URL, User: a.UserID, Password: a.Password, Device: unsigned, IncludeInsecure: true,
	})
}

// wantNeverSeen fails when a text was in anything that the proxy has answered to a client,
// asked in every way there is, or in what it has written anywhere.
func wantNeverSeen(t *testing.T, proxy *testproxy.Proxy, c *curl, room, event, text string) {
	t.Helper()
	for _, path := range []string{
		roomPath(room, "event/%s", event), roomPath(room, "context/%s", event), roomPath(room, "messages?dir=b&limit=50"),
		roomPath(room, "relations/%s", event), "/_matrix/client/v1" + strings.TrimPrefix(roomPath(room, "threads"), "/_matrix/client/v3"),
		"/_matrix/client/v3/sync", "/_matrix/client/v3/notifications", control + "status", control + "warnings",
	} {
		c.get(path)
	}
	// Not the whole text: an answer may repeat what was searched for.
	search := map[string]any{"search_categories": map[string]any{"room_events": map[string]any{"search_term": text[:6]}}}
	if _, err := c.http.Do(t.Context(), http.MethodPost, "/_matrix/client/v3/search", search); err != nil {
		t.Fatal(err)
	}
	if c.saw(text) {
		t.Errorf("the proxy answered %q to %s", text, c.account.UserID)
	}
	metrics, err := proxy.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(metrics, text) || strings.Contains(proxy.Log(), text) {
		t.Errorf("%q is in the proxy's metrics or log", text)
	}
	err = filepath.WalkDir(proxy.Data, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(name)
		if err == nil && contains(raw, text) {
			t.Errorf("%q is in %s", text, entry.Name())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Attacks A5, N4: a device that the peer has not signed sends. The plain client never sees
// the text, in nothing that the proxy ever answers; it is told that something was held
// back, or, if it is set so, nothing at all. In the other direction the device is told
// m.unverified. It is signed: the text arrives, and the device reads what comes next.
func TestUnsignedDeviceOfAPeer(t *testing.T) {
	t.Parallel()
	const shady = "CANARY-of-an-unsigned-device"
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		hiding := testproxy.Start(t, hs.URL, testproxy.Options{Config: "policy:\n  withheld: hide\n"})
		alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		bob, carol := newCurl(t, proxy.URL, newAccount(t, hs, "bob")), newCurl(t, hiding.URL, newAccount(t, hs, "carol"))
		room := bring(t, hs, alice, bob.account)
		alice.Invite(room, carol.account.UserID)
		join(t, hs, carol.account, room)
		alice.AwaitMember(room, carol.account.UserID, "join")
		for _, plain := range []*curl{bob, carol} {
			wantClean(t, alice.AwaitDecrypted(room, plain.SendText(room, "hello")), "hello")
		}

		device := unsignedDevice(hs, alice, a)
		bob.awaitDevice(a.UserID, unsigned, false)
		sent := device.SendText(room, shady)
		after := alice.SendText(room, "after it")
		m := bob.Await(room, testpeer.Where{"event_id": sent, "body": heldBack})
		held := trust{Color: "red", Code: "UnsignedDevice", UserID: a.UserID, DeviceID: unsigned, Source: "direct"}
		wantTrust(t, m, held)
		if m.Type != "m.room.message" || m.Sender != a.UserID || !contains(m.Content, `"m.notice"`) {
			t.Errorf("the placeholder is %+v", m)
		}
		bob.Await(room, testpeer.Where{"event_id": after, "body": "after it"})
		carol.Await(room, testpeer.Where{"event_id": after, "body": "after it"})
		if m, shown := carol.find(room, testpeer.Where{"event_id": sent}); shown {
			t.Errorf("a hidden event is shown as %+v", m)
		}
		wantNeverSeen(t, proxy, bob, room, sent, shady)
		wantNeverSeen(t, hiding, carol, room, sent, shady)

		kept := bob.SendText(room, "not for unsigned devices")
		wantClean(t, alice.AwaitDecrypted(room, kept), "not for unsigned devices")
		device.AwaitFailure(room, kept, "MEGOLM_KEY_WITHHELD_FOR_UNVERIFIED_DEVICE")
		wantToldBy(t, device, bob, room, "m.unverified")

		alice.AwaitDevice(a.UserID, unsigned, false)
		alice.SignDevice(unsigned)
		clear := trust{Decrypted: true, Color: "none", UserID: a.UserID, DeviceID: unsigned, Source: "direct"}
		wantTrust(t, bob.Await(room, testpeer.Where{"event_id": sent, "body": shady}), clear)
		wantTrust(t, carol.Await(room, testpeer.Where{"event_id": sent, "body": shady}), clear)
		wantClean(t, device.AwaitDecrypted(room, bob.SendText(room, "for all of you")), "for all of you")
		if strings.Contains(proxy.Log(), shady) || strings.Contains(hiding.Log(), shady) {
			t.Error("the text is in the proxy's log")
		}
	})
}

// wantToldBy fails unless a device was told by a user why it gets no key in a room.
func wantToldBy(t *testing.T, device *testpeer.Client, by *curl, room, code string) {
	t.Helper()
	for _, told := range device.ToDevice("m.room_key.withheld") {
		if told.Sender == by.account.UserID && contains(told.Content, `"`+code+`"`) && contains(told.Content, `"`+room+`"`) {
			return
		}
	}
	t.Errorf("%s was not told %s by %s: %+v", device.DeviceID, code, by.account.UserID, device.ToDevice("m.room_key.withheld"))
}

// The exception for one device works at once in both directions, also for what was held
// back before, and so does its end. Status lists it, the log has it.
func TestOverrideOfOneDevice(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
		room := bring(t, hs, alice, bob.account)
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "hello")), "hello")
		device := unsignedDevice(hs, alice, a)
		bob.awaitDevice(a.UserID, unsigned, false)
		yes, no := true, false
		says := func(from *testpeer.Client, body string) string {
			t.Helper()
			return from.SendText(room, body)
		}
		shows := func(event, body string, want trust) {
			t.Helper()
			want.UserID, want.Source = a.UserID, "direct"
			wantTrust(t, bob.Await(room, testpeer.Where{"event_id": event, "body": body}), want)
		}
		fromUnsigned := trust{Color: "red", Code: "UnsignedDevice", DeviceID: unsigned}
		trusted := fromUnsigned
		trusted.Decrypted = true

		early := says(device, "before the exception")
		shows(early, heldBack, fromUnsigned)
		bob.override(a.UserID, unsigned, &yes)
		shows(early, "before the exception", trusted)
		shows(says(device, "with the exception"), "with the exception", trusted)
		wantRead(t, device, room, bob.SendText(room, "for the exception"), "for the exception")
		if diff := cmp.Diff([]override{{a.UserID, unsigned, true}}, bob.status().Overrides); diff != "" {
			t.Errorf("status lists (-want +got):\n%s", diff)
		}

		bob.override(a.UserID, alice.DeviceID, &no)
		distrusted := says(alice, "from a device that bob distrusts")
		shows(distrusted, heldBack, trust{Color: "red", Code: "UnsignedDevice", DeviceID: alice.DeviceID})
		alone := bob.SendText(room, "for the exception alone")
		wantRead(t, device, room, alone, "for the exception alone")
		alice.AwaitToDevice("m.room_key.withheld", map[string]any{"code": "m.blacklisted", "room_id": room})
		alice.AwaitFailure(room, alone, "MEGOLM_KEY_WITHHELD")

		bob.override(a.UserID, alice.DeviceID, nil)
		bob.override(a.UserID, unsigned, nil)
		shows(distrusted, "from a device that bob distrusts", trust{Decrypted: true, Color: "none", DeviceID: alice.DeviceID})
		last := bob.SendText(room, "as if nothing had been")
		wantClean(t, alice.AwaitDecrypted(room, last), "as if nothing had been")
		device.AwaitFailure(room, last, "MEGOLM_KEY_WITHHELD_FOR_UNVERIFIED_DEVICE")
		shows(says(device, "after the exception"), heldBack, fromUnsigned)
		if left := bob.status().Overrides; len(left) > 0 {
			t.Errorf("status still lists %+v", left)
		}
		if n := strings.Count(proxy.Log(), "The exception for a device was changed"); n != 4 {
			t.Errorf("the log has %d changes of exceptions", n)
		}
	})
}

// wantRead waits until a device that does not look at shields reads a message.
func wantRead(t *testing.T, device *testpeer.Client, room, event, body string) {
	t.Helper()
	if m := device.AwaitDecrypted(room, event); m.Body != body {
		t.Errorf("%s reads %q, want %q", device.DeviceID, m.Body, body)
	}
}

// On "warn" all goes on as without the rules, and whoever is to switch them on sees what
// they would have done: in metrics for everybody, in status by room.
func TestWarnStage(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{
			Config: "policy:\n  send:\n    mode: warn\n  receive:\n    mode: warn\n",
		})
		alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
		room := bring(t, hs, alice, bob.account)
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "hello")), "hello")
		if s := bob.status().Policy; s.Send != "warn" || s.Receive != "warn" || s.Would == nil || len(s.Would.Rooms) > 0 {
			t.Errorf("before anything would have been done, status says %+v", s)
		}

		device := unsignedDevice(hs, alice, a)
		bob.awaitDevice(a.UserID, unsigned, false)
		m := bob.Await(room, testpeer.Where{"event_id": device.SendText(room, "from the unsigned device"), "body": "from the unsigned device"})
		wantTrust(t, m, trust{Decrypted: true, Color: "red", Code: "UnsignedDevice", UserID: a.UserID, DeviceID: unsigned, Source: "direct"})
		wantRead(t, device, room, bob.SendText(room, "for the unsigned device too"), "for the unsigned device too")
		want := wouldHave{RoomID: room, BlockedBy: []string{}, WithoutKey: 1, Messages: 1, Devices: 1}
		bob.wantWouldHave(want)

		alice.Reset(a.Password)
		bob.awaitWarning("identity_changed", a.UserID, room)
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "not blocked")), "not blocked")
		// An identity that nobody acknowledged gets nothing for any device.
		want.BlockedBy, want.WithoutKey = []string{a.UserID}, 2
		bob.wantWouldHave(want)
		wantMetric(t, proxy, `e2ee_proxy_policy_sends_total{outcome="would_block"} 1`)
		wantMetric(t, proxy, `e2ee_proxy_policy_shares_total{outcome="would_withhold"} 1`)
		wantMetric(t, proxy, `e2ee_proxy_policy_received_events_total{outcome="would_withhold"} 1`)
		page, err := proxy.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if done := regexp.MustCompile(`e2ee_proxy_policy_\w+\{outcome="(blocked|withheld)"\}.*`).FindString(page); done != "" {
			t.Errorf("something was enforced: %s", done)
		}
	})
}

// wantWouldHave fails unless status says this, and of no other room, of what enforcing
// would have done.
func (c *curl) wantWouldHave(want wouldHave) {
	c.t.Helper()
	s := c.status().Policy
	if s.Would == nil {
		c.t.Fatalf("status says %+v", s)
	}
	if diff := cmp.Diff([]wouldHave{want}, s.Would.Rooms); diff != "" {
		c.t.Errorf("what enforcing would have done (-want +got):\n%s", diff)
	}
}
