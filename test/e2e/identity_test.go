package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

const (
	identityChanged = "DEV.E2EE_PROXY.IDENTITY_CHANGED"
	deviceNotSigned = "DEV.E2EE_PROXY.DEVICE_NOT_SIGNED"
)

// peerOf opens an Element peer with an identity of its own and the account that it has.
func peerOf(t *testing.T, hs *tesths.Homeserver, host *testpeer.Host, name string) (*testpeer.Client, tesths.Account) {
	t.Helper()
	a := newAccount(t, hs, name)
	return host.Element(t, testpeer.Options{URL: hs.URL, User: a.UserID, Password: a.Password, Setup: testpeer.Bootstrap}), a
}

// sentEvents returns the IDs of what the devices of a client's user have sent into a room,
// as the homeserver has it once it shows the last event that the client sent.
func sentEvents(t *testing.T, hs *tesths.Homeserver, c *curl, room string) []string {
	t.Helper()
	a := c.account
	if last := c.last[room]; last != "" {
		if _, err := hs.Client().As(a).Event(t.Context(), room, last); err != nil {
			t.Fatal(err)
		}
	}
	events, err := hs.Client().As(a).Messages(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, e := range events {
		if e.Sender == a.UserID && e.StateKey == nil {
			ids = append(ids, e.EventID)
		}
	}
	return ids
}

// wantBlocked fails unless sending is refused because of a peer's identity, in words for
// a person, and nothing of it reaches the homeserver.
func wantBlocked(t *testing.T, hs *tesths.Homeserver, bob *curl, room, txn, body string, peer string) refusal {
	t.Helper()
	before := sentEvents(t, hs, bob, room)
	r := bob.sendRefused(identityChanged, room, txn, body)
	if diff := cmp.Diff([]string{peer}, r.Users); diff != "" {
		t.Errorf("users (-want +got):\n%s", diff)
	}
	for _, part := range []string{"The digital identity of " + peer + " was reset", "not sent", "/acknowledge"} {
		if !strings.Contains(r.Text, part) {
			t.Errorf("the refusal does not say %q: %q", part, r.Text)
		}
	}
	if after := sentEvents(t, hs, bob, room); !slices.Equal(before, after) {
		t.Errorf("the homeserver has %v, had %v", after, before)
	}
	return r
}

// Attack A8 from the outside: a peer whom nobody verified resets its identity. The proxied
// sender is told, in every way there is, and blocked until they acknowledge that very
// identity; then the same request goes through, and the peer reads it without a shield.
// When the one whose identity is in question leaves, there is nothing to wait for.
func TestPeerResetsItsIdentity(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice, a := peerOf(t, hs, host, "alice")
		bob := newCurl(t, proxy.URL, newAccount(t, hs, "bob"))
		room := bring(t, hs, alice, bob.account)
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")
		stale := bob.user(a.UserID).CurrentMasterKey

		alice.Reset(a.Password)
		told := bob.awaitWarning("identity_changed", a.UserID, room)
		if !strings.HasPrefix(told.Message, a.UserID+"'s digital identity was reset.") {
			t.Errorf("the warning says %q", told.Message)
		}
		wantBlocked(t, hs, bob, room, "held", "held up", a.UserID)
		now := bob.user(a.UserID)
		if now.State != "changed" || now.PinnedMasterKey != stale || now.CurrentMasterKey == stale {
			t.Errorf("known of alice: %+v, before %s", now, stale)
		}
		// Acknowledging another identity than the current one changes nothing: there may have
		// been a second change.
		acknowledge := userPath(a.UserID, "acknowledge")
		bob.wantRefused(http.StatusConflict, "DEV.E2EE_PROXY.MASTER_KEY_NOT_CURRENT", http.MethodPost, acknowledge, map[string]any{"master_key": stale})
		bob.wantRefused(http.StatusConflict, "DEV.E2EE_PROXY.NOT_VERIFIED", http.MethodPost, userPath(a.UserID, "withdraw_verification"), nil)
		wantBlocked(t, hs, bob, room, "held", "held up", a.UserID)

		// Their messages are shown all the same, with a warning.
		meanwhile := alice.SendText(room, "it is me")
		m := bob.Await(room, testpeer.Where{"event_id": meanwhile, "body": "it is me"})
		wantTrust(t, m, trust{Decrypted: true, Color: "red", Code: "UnverifiedIdentity", UserID: a.UserID, DeviceID: alice.DeviceID, Source: "direct"})

		bob.acknowledge(a.UserID, now.CurrentMasterKey)
		wantClean(t, alice.AwaitDecrypted(room, bob.sendAgain(room, "held", "held up")), "held up")
		if w := bob.warnings(); len(w) > 0 {
			t.Errorf("warnings after acknowledging: %+v", w)
		}
		m = bob.Await(room, testpeer.Where{"event_id": alice.SendText(room, "thank you"), "body": "thank you"})
		wantTrust(t, m, trust{Decrypted: true, Color: "none", UserID: a.UserID, DeviceID: alice.DeviceID, Source: "direct"})

		carol, c := peerOf(t, hs, host, "carol")
		alice.Invite(room, c.UserID)
		carol.AwaitRoom(room, "invite")
		carol.Join(room)
		bob.awaitMember(room, c.UserID, "join")
		alice.Reset(a.Password)
		bob.awaitWarning("identity_changed", a.UserID, room)
		wantBlocked(t, hs, bob, room, "left", "without alice", a.UserID)
		alice.Leave(room)
		bob.awaitMember(room, a.UserID, "leave")
		wantClean(t, carol.AwaitDecrypted(room, bob.sendAgain(room, "left", "without alice")), "without alice")
		wantNoNotices(t, hs, bob.account, room, carol)
	})
}

// The same after the peer had been verified, which another device of the proxied user did.
// Acknowledging is refused; withdrawing the verification helps, and so does verifying
// again.
func TestVerifiedPeerResetsItsIdentity(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice, a := peerOf(t, hs, host, "alice")
		b := newAccount(t, hs, "bob")
		bob := newCurl(t, proxy.URL, b)
		room := bring(t, hs, alice, b)
		wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")
		phone := host.Element(t, testpeer.Options{
			URL: hs.URL, User: b.UserID, Password: b.Password, Setup: testpeer.Recover, RecoveryKey: bob.recoveryKey(),
		})
		phone.AwaitRoom(room, "join")
		verify := func() {
			t.Helper()
			phone.AwaitUserStatus(a.UserID, map[string]any{"known": true, "master_key": alice.UserStatus(a.UserID).MasterKey})
			phone.SignIdentity(a.UserID)
			bob.awaitUser(a.UserID, "verified")
		}
		lose := func(txn, body string) {
			t.Helper()
			alice.Reset(a.Password)
			told := bob.awaitWarning("verification_lost", a.UserID, room)
			if !strings.HasPrefix(told.Message, "WARNING: "+a.UserID+"'s digital identity was reset!") {
				t.Errorf("the warning says %q", told.Message)
			}
			r := wantBlocked(t, hs, bob, room, txn, body, a.UserID)
			if diff := cmp.Diff([]string{a.UserID}, r.VerificationLost); diff != "" || !strings.Contains(r.Text, "You had verified "+a.UserID) {
				t.Errorf("the refusal does not say that alice was verified: %+v", r)
			}
			now := bob.user(a.UserID)
			if now.State != "verification_lost" {
				t.Errorf("known of alice: %+v", now)
			}
			bob.wantRefused(http.StatusConflict, "DEV.E2EE_PROXY.VERIFICATION_LOST", http.MethodPost,
				userPath(a.UserID, "acknowledge"), map[string]any{"master_key": now.CurrentMasterKey})
			wantBlocked(t, hs, bob, room, txn, body, a.UserID)
		}

		verify()
		lose("withdrawn", "no longer verified")
		m := bob.Await(room, testpeer.Where{"event_id": alice.SendText(room, "it is me"), "body": "it is me"})
		wantTrust(t, m, trust{Decrypted: true, Color: "red", Code: "VerificationViolation", UserID: a.UserID, DeviceID: alice.DeviceID, Source: "direct"})
		bob.call(http.MethodPost, userPath(a.UserID, "withdraw_verification"), nil, nil)
		wantClean(t, alice.AwaitDecrypted(room, bob.sendAgain(room, "withdrawn", "no longer verified")), "no longer verified")
		if s := bob.user(a.UserID).State; s != "pinned" || len(bob.warnings()) > 0 {
			t.Errorf("after withdrawing alice is %s, warnings %+v", s, bob.warnings())
		}

		verify()
		lose("again", "verified again")
		verify()
		wantClean(t, alice.AwaitDecrypted(room, bob.sendAgain(room, "again", "verified again")), "verified again")
		if w := bob.warnings(); len(w) > 0 {
			t.Errorf("warnings after verifying again: %+v", w)
		}
	})
}

// For a bot that nobody watches the change of somebody who was never verified is
// acknowledged by the proxy, with a warning and a count; that of somebody who was verified
// never is.
func TestAutomaticAcknowledgement(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		host := testpeer.NodeHost(t)
		alice, a := peerOf(t, hs, host, "alice")
		b := newAccount(t, hs, "bot")
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{
			Config: fmt.Sprintf("accounts:\n  %q:\n    acknowledge_unverified_changes: automatic\n", b.UserID),
		})
		bot := newCurl(t, proxy.URL, b)
		room := bring(t, hs, alice, b)
		wantClean(t, alice.AwaitDecrypted(room, bot.SendText(room, "before")), "before")

		alice.Reset(a.Password)
		told := bot.awaitWarning("identity_changed", a.UserID, room)
		if !strings.Contains(told.Message, "accepted automatically") {
			t.Errorf("the warning says %q", told.Message)
		}
		wantClean(t, alice.AwaitDecrypted(room, bot.SendText(room, "after")), "after")
		wantMetric(t, proxy, `e2ee_proxy_identity_changes_total{whose="others_accepted"} 1`)

		phone := host.Element(t, testpeer.Options{
			URL: hs.URL, User: b.UserID, Password: b.Password, Setup: testpeer.Recover, RecoveryKey: bot.recoveryKey(),
		})
		phone.AwaitUserStatus(a.UserID, map[string]any{"known": true})
		phone.SignIdentity(a.UserID)
		bot.awaitUser(a.UserID, "verified")
		alice.Reset(a.Password)
		bot.awaitWarning("verification_lost", a.UserID, room)
		wantBlocked(t, hs, bot, room, "held", "held up", a.UserID)
	})
}

// wantMetric fails unless a line is among the proxy's metrics.
func wantMetric(t *testing.T, proxy *testproxy.Proxy, line string) {
	t.Helper()
	page, err := proxy.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Split(page, "\n"), line) {
		t.Errorf("the metrics do not have %s", line)
	}
}

// The proxied user's identity is reset by another client of that user. The user is alerted,
// status says what to do, and nothing can be sent until the device is recovered with the
// new recovery key. A third party sees no shield on what was sent before and after. What
// was sent meanwhile, and not to this device, is read from the new backup.
func TestOwnIdentityIsReset(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice := element(t, hs, host, "alice")
		b := newAccount(t, hs, "bob")
		bob := newCurl(t, proxy.URL, b)
		room := bring(t, hs, alice, b)
		before := bob.SendText(room, "before")
		wantClean(t, alice.AwaitDecrypted(room, before), "before")
		oldKey := bob.recoveryKey()
		phone := host.Element(t, testpeer.Options{
			URL: hs.URL, User: b.UserID, Password: b.Password, Setup: testpeer.Recover, RecoveryKey: oldKey,
		})
		phone.AwaitRoom(room, "join")

		phone.Reset(b.Password)
		told := bob.awaitWarning("own_identity_changed", b.UserID, room)
		if !strings.Contains(told.Message, "confirm this device with your new recovery key") {
			t.Errorf("the warning says %q", told.Message)
		}
		p := bob.awaitProblem("own_identity_changed")
		wantPlainWords(t, p.Message)
		if !strings.Contains(p.Hint, "POST /_e2ee_proxy/v1/recover with your new recovery key") {
			t.Errorf("status says %+v", p)
		}
		if s := bob.status(); s.Identity.Ours || s.Identity.DeviceSigned {
			t.Errorf("status is %+v", s.Identity)
		}
		bob.wantRefused(http.StatusNotFound, "M_NOT_FOUND", http.MethodGet, control+"recovery_key", nil)
		sent := sentEvents(t, hs, bob, room)
		r := bob.sendRefused(deviceNotSigned, room, "held", "held up")
		if !strings.Contains(r.Text, "POST /_e2ee_proxy/v1/recover") {
			t.Errorf("the refusal does not say what to do: %q", r.Text)
		}
		if now := sentEvents(t, hs, bob, room); !slices.Equal(sent, now) {
			t.Errorf("the homeserver has %v, had %v", now, sent)
		}

		alice.AwaitUserStatus(b.UserID, map[string]any{"needs_approval": true})
		alice.AwaitDevice(b.UserID, b.DeviceID, false)
		alice.AwaitDevice(b.UserID, phone.DeviceID, true)
		wantClean(t, alice.AwaitDecrypted(room, before), "before")
		meanwhile := alice.SendText(room, "are you there?")
		phone.AwaitDecrypted(room, meanwhile)
		m := bob.Await(room, testpeer.Where{"event_id": meanwhile, "type": "m.room.message"})
		wantTrust(t, m, trust{Color: "none", Code: "Withheld", WithheldCode: "m.unverified"})

		recover := func(key string) map[string]any { return map[string]any{"recovery_key": key} }
		bob.wantRefused(http.StatusForbidden, "DEV.E2EE_PROXY.WRONG_RECOVERY_KEY", http.MethodPost, control+"recover", recover(oldKey))
		bob.call(http.MethodPost, control+"recover", recover(phone.RecoveryKey), nil)
		bob.awaitInOrder()
		if w := bob.warnings(); len(w) > 0 {
			t.Errorf("warnings after the recovery: %+v", w)
		}
		alice.AwaitDevice(b.UserID, b.DeviceID, true)
		wantClean(t, alice.AwaitDecrypted(room, bob.sendAgain(room, "held", "held up")), "held up")
		bob.Await(room, testpeer.Where{"event_id": meanwhile, "body": "are you there?"})
		after := alice.SendText(room, "welcome back")
		m = bob.Await(room, testpeer.Where{"event_id": after, "body": "welcome back"})
		wantTrust(t, m, trust{Decrypted: true, Color: "none", UserID: alice.UserID, DeviceID: alice.DeviceID, Source: "direct"})
	})
}
