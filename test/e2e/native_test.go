package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// isolations are what clients with encryption do about unsigned devices by themselves: leave
// them out, as the newest do, or include them.
func isolations(t *testing.T, test func(t *testing.T, include bool)) {
	t.Helper()
	for name, include := range map[string]bool{"leaves unsigned devices out": false, "includes unsigned devices": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, include)
		})
	}
}

// native opens a client with keys of its own behind the proxy, whose user is new.
func native(t *testing.T, hs *tesths.Homeserver, proxy *testproxy.Proxy, name string, include bool) (*testpeer.Client, tesths.Account) {
	t.Helper()
	a := newAccount(t, hs, name)
	return testpeer.NodeHost(t).Element(t, testpeer.Options{
		URL: proxy.URL, User: a.UserID, Password: a.Password, Setup: testpeer.Bootstrap, IncludeInsecure: include,
	}), a
}

// A client with keys of its own behind the proxy, whatever it does by itself. An unsigned
// device of a peer's is not shown to it, gets no key and is told so. It is signed: the client
// hears of it by itself, shows it, and gives it the next key. The same with an unsigned device
// of the client's own user, which is shown all the time.
func TestNativeClientAndUnsignedDevices(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		isolations(t, func(t *testing.T, include bool) {
			proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
			alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
			bob, b := native(t, hs, proxy, "bob", include)
			room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{bob.UserID}})
			bob.AwaitRoom(room, "invite")
			bob.Join(room)
			alice.AwaitMember(room, bob.UserID, "join")
			wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "hello alice")), "hello alice")
			wantClean(t, bob.AwaitDecrypted(room, alice.SendText(room, "hello bob")), "hello bob")

			device := unsignedDevice(hs, alice, a)
			alice.AwaitDevice(a.UserID, unsigned, false)
			kept := bob.SendText(room, "not for unsigned devices")
			wantClean(t, alice.AwaitDecrypted(room, kept), "not for unsigned devices")
			device.AwaitToDevice("m.room_key.withheld", map[string]any{"code": "m.unverified", "room_id": room})
			device.AwaitFailure(room, bob.SendText(room, "once more"), "MEGOLM_KEY_WITHHELD_FOR_UNVERIFIED_DEVICE")
			for _, d := range bob.Devices(a.UserID) {
				if d.DeviceID == unsigned {
					t.Error("an unsigned device of alice's is shown to bob")
				}
			}
			alice.SignDevice(unsigned)
			bob.AwaitDevice(a.UserID, unsigned, true)
			wantRead(t, device, room, bob.SendText(room, "for all of alice's"), "for all of alice's")

			const own = "OWNUNSIGNED"
			mine := bob.SecondDevice(testpeer.Options{URL: proxy.URL, User: b.UserID, Password: b.Password, Device: own, IncludeInsecure: true})
			bob.AwaitDevice(b.UserID, own, false)
			mine.AwaitRoom(room, "join")
			kept = bob.SendText(room, "not for bob's either")
			wantClean(t, alice.AwaitDecrypted(room, kept), "not for bob's either")
			mine.Await(room, testpeer.Where{"event_id": kept, "decrypted": false})
			for _, m := range mine.ToDevice("m.room.encrypted") {
				if m.Sender == b.UserID {
					t.Errorf("it was sent %s", m.Content)
				}
			}
			mine.Recover(bob.RecoveryKey)
			bob.AwaitDevice(b.UserID, own, true)
			if include { // the client believes that the device has the key of its session (docs/gateway.md)
				bob.DiscardSession(room)
			}
			wantRead(t, mine, room, bob.SendText(room, "for all of bob's"), "for all of bob's")
		})
	})
}

// Devices of one account live side by side, in either order: one with keys of its own, and one
// that the proxy encrypts for. Both read and write, and both keep to the policy.
func TestNativeAndProxiedDevicesOfOneAccount(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		for name, nativeFirst := range map[string]bool{"own keys first": true, "proxied first": false} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
				alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
				var element *testpeer.Client
				var plain *curl
				if nativeFirst {
					var b tesths.Account
					element, b = native(t, hs, proxy, "bob", false)
					plain = loginCurl(t, proxy.URL, b, "PLAIN")
					plain.sync(0)
					plain.control(http.StatusOK, http.MethodPost, "recover", map[string]any{"recovery_key": element.RecoveryKey})
					plain.awaitInOrder()
				} else {
					b := newAccount(t, hs, "bob")
					plain = loginCurl(t, proxy.URL, b, "PLAIN")
					plain.sync(0)
					plain.awaitInOrder()
					element = testpeer.NodeHost(t).Element(t, testpeer.Options{
						URL: proxy.URL, User: b.UserID, Password: b.Password, Setup: testpeer.Recover, RecoveryKey: plain.recoveryKey(),
					})
				}
				newCurl(t, proxy.URL, tesths.Account{AccessToken: element.AccessToken}).wantForeign()
				room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{element.UserID}})
				element.AwaitRoom(room, "invite")
				element.Join(room)
				alice.AwaitMember(room, element.UserID, "join")
				element.AwaitDevice(element.UserID, "PLAIN", true)
				alice.AwaitDevice(element.UserID, "PLAIN", true)
				alice.AwaitDevice(element.UserID, element.DeviceID, true)
				device := unsignedDevice(hs, alice, a)
				alice.AwaitDevice(a.UserID, unsigned, false)
				plain.AwaitRoom(room, "join")
				plain.awaitDevice(a.UserID, unsigned, false)

				texts := map[string]string{"element": "with keys of its own", "plain": "with the proxy's"}
				for sender, sent := range map[string]string{"element": element.SendText(room, texts["element"]), "plain": plain.SendText(room, texts["plain"])} {
					text := texts[sender]
					wantClean(t, alice.AwaitDecrypted(room, sent), text)
					wantClean(t, element.AwaitDecrypted(room, sent), text)
					if m := plain.Await(room, testpeer.Where{"event_id": sent, "body": text}); m.Type != "m.room.message" {
						t.Errorf("the plain client is shown %+v", m)
					}
				}
				// The notes may come after the events, which a client judges once.
				awaitNotes(t, device, element.UserID, 2)
				for _, sent := range []string{element.SendText(room, "again"), plain.SendText(room, "again")} {
					device.AwaitFailure(room, sent, "MEGOLM_KEY_WITHHELD_FOR_UNVERIFIED_DEVICE")
				}
			})
		}
	})
}

// With policy.native on warn the same client does as it likes, and what enforcing would have
// done is told; with policy.native_identity_changes on block, what it sends after somebody's
// reset is refused until the account has accepted it, with the client's own token.
func TestNativeWarnAndBlock(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{Config: "policy:\n  native:\n    mode: warn\n"})
		blocking := testproxy.Start(t, hs.URL, testproxy.Options{Config: "policy:\n  native_identity_changes: block\n"})
		alice, a := peerOf(t, hs, testpeer.NodeHost(t), "alice")
		bob, _ := native(t, hs, proxy, "bob", true)
		carol, _ := native(t, hs, blocking, "carol", true)
		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{bob.UserID, carol.UserID}})
		for _, c := range []*testpeer.Client{bob, carol} {
			c.AwaitRoom(room, "invite")
			c.Join(room)
			alice.AwaitMember(room, c.UserID, "join")
			wantClean(t, alice.AwaitDecrypted(room, c.SendText(room, "hello")), "hello")
		}
		device := unsignedDevice(hs, alice, a)
		bob.AwaitDevice(a.UserID, unsigned, false)
		wantRead(t, device, room, bob.SendText(room, "for unsigned devices too"), "for unsigned devices too")
		status := newCurl(t, proxy.URL, tesths.Account{AccessToken: bob.AccessToken}).status()
		if p := status.Policy; p.Native != "warn" || p.Would == nil || p.Would.Hidden < 1 {
			t.Errorf("status says %+v", p)
		}

		before := carol.UserStatus(a.UserID).MasterKey
		alice.Reset(a.Password)
		carol.AwaitUserStatus(a.UserID, map[string]any{"known": true})
		owner := newCurl(t, blocking.URL, tesths.Account{UserID: carol.UserID, AccessToken: carol.AccessToken})
		owner.await("no warning of alice's reset", func(context.Context) error { // not by syncs: they would take what is the client's
			if all := owner.warnings(); len(all) != 1 || all[0].Code != "identity_changed" || all[0].UserID != a.UserID {
				return fmt.Errorf("warnings: %+v", all)
			}
			return nil
		})
		err := carol.Try("sendText", map[string]any{"room": room, "body": "to whom?"}, nil)
		if err == nil {
			t.Error("after a reset it is sent")
		}
		now := owner.user(a.UserID)
		if now.State != "changed" || now.CurrentMasterKey == before || now.PinnedMasterKey != before {
			t.Errorf("known of alice: %+v, before %s", now, before)
		}
		owner.acknowledge(a.UserID, now.CurrentMasterKey)
		if m := alice.AwaitDecrypted(room, carol.SendText(room, "to whom I know again")); m.Body != "to whom I know again" {
			t.Errorf("alice sees %+v", m)
		}
	})
}

// awaitNotes waits until a device was told for this many sessions of a user that it gets no
// key.
func awaitNotes(t *testing.T, device *testpeer.Client, by string, sessions int) {
	t.Helper()
	of := make(map[string]bool)
	ctx, cancel := context.WithTimeout(t.Context(), testpeer.Deadline)
	defer cancel()
	for len(of) < sessions {
		if ctx.Err() != nil {
			t.Fatalf("%s was told for %d sessions of %s", device.DeviceID, len(of), by)
		}
		device.AwaitToDevice("m.room_key.withheld", map[string]any{"code": "m.unverified"})
		for _, told := range device.ToDevice("m.room_key.withheld") {
			var content struct {
				SessionID string `json:"session_id"`
			}
			if told.Sender == by && json.Unmarshal(told.Content, &content) == nil {
				of[content.SessionID] = true
			}
		}
	}
}
