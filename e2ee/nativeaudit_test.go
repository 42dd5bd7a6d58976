package e2ee_test

import (
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
