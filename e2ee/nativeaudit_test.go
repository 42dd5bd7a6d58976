package e2ee_test

import (
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/trustcache"
)

// What a client with keys of its own was given for which device is written down as well: of whom
// it may claim one-time keys, what it sends to whom, and who is told that there is no key.
func TestAuditOfNativeClients(t *testing.T) {
	t.Parallel()
	st := newNativeStage(t, trustcache.Policy{})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy, mine := newPuppet(t, st.hs, "bob", "SPY"), newPuppet(t, st.hs, "alice", "NEW")
	ghost := &puppet{Session: bob.Session}
	ghost.DeviceID = "GHOST"
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.device(st.alice.Session)
	recipients := make([]e2ee.NativeRecipient, 0, 4)
	for _, p := range []*puppet{bob, spy, mine, ghost} {
		recipients = append(recipients, e2ee.NativeRecipient{UserID: id.UserID(p.UserID), DeviceID: id.DeviceID(p.DeviceID)})
	}
	client := st.client(st.alice.Session)
	if _, err := client.MayGet(t.Context(), recipients); err != nil {
		t.Fatal(err)
	}
	want := st.alice.UserID + " NEW given own_device\n" + bob.UserID + " BOB given signed\n" + bob.UserID + " GHOST refused unknown_device\n" + bob.UserID + " SPY refused unsigned"
	if got := outcomes(st.audited(audit.KindNativeClaim)); got != want {
		t.Errorf("claims:\n%s\nwant\n%s", got, want)
	}
	if _, err := client.MayGet(t.Context(), []e2ee.NativeRecipient{message(bob), message(spy), message(mine)}); err != nil {
		t.Fatal(err)
	}
	want = st.alice.UserID + " NEW refused unsigned\n" + bob.UserID + " BOB given signed\n" + bob.UserID + " SPY refused unsigned"
	sends := st.audited(audit.KindNativeSend)
	if got := outcomes(sends); got != want {
		t.Errorf("sends:\n%s\nwant\n%s", got, want)
	}
	if r := sends[0]; r.Account != st.alice.UserID || r.Device != st.alice.DeviceID || r.Policy == "" {
		t.Errorf("it is said of %s %s under policy %q", r.Account, r.Device, r.Policy)
	}

	client.SentEncrypted(id.RoomID(room), "S")
	var told []*audit.Record
	await(t, "it is not written down who was told", func() bool {
		told = st.audited(audit.KindNativeSend)[len(sends):]
		return len(told) > 0
	})
	want = st.alice.UserID + " NEW withheld unsigned m.unverified\n" + bob.UserID + " SPY withheld unsigned m.unverified"
	if got := outcomes(told); got != want {
		t.Errorf("told:\n%s\nwant\n%s", got, want)
	}
	if told[0].Room != room || told[0].Session != audit.HashSession("S") {
		t.Errorf("it is about %s", told[0].Room)
	}
}

// Attack: a client asks for keys of devices that it makes up, as many as a request takes and
// with names as long as they may be, so that the log fills the disk; then nobody could share any
// more. They are counted, and what was given is written down as ever.
func TestAuditOfDevicesThatAreMadeUp(t *testing.T) {
	t.Parallel()
	st := newNativeStage(t, trustcache.Policy{})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	st.device(st.alice.Session)
	var to []e2ee.NativeRecipient
	for i := range 5000 {
		to = append(to, e2ee.NativeRecipient{UserID: id.UserID(bob.UserID), DeviceID: id.DeviceID(fmt.Sprintf("%d%s", i, strings.Repeat("x", 3000)))})
	}
	to = append(to, e2ee.NativeRecipient{UserID: id.UserID(bob.UserID), DeviceID: id.DeviceID(bob.DeviceID)})
	if may, err := st.client(st.alice.Session).MayGet(t.Context(), to); err != nil || !may[5000] || may[0] {
		t.Fatalf("%v", err)
	}
	r := st.audited(audit.KindNativeClaim)[0]
	if size := len(r.Encode()); size > 100<<10 || r.Note != "and 4900 devices more that the homeserver does not show" {
		t.Errorf("the record has %d bytes, and says %q", size, r.Note)
	}
	if r.Recipients() != 101 || !strings.Contains(outcomes([]*audit.Record{r}), bob.UserID+" BOB given signed") {
		t.Errorf("it is about %d devices", r.Recipients())
	}
}
