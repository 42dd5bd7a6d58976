package e2ee_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/liar"
	"e2ee-proxy/trustcache"
)

// A client with keys of its own does not know of the devices that it is not shown. They are
// told for it that they get no key, once for each session, when an event shows which session is
// in use; also after a restart and where telling failed at first. Nobody else is told, and
// nothing else is sent in the client's name.
func TestDevicesHiddenFromNativeClientsAreTold(t *testing.T) {
	t.Parallel()
	st := newNativeStage(t, trustcache.Policy{})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy, mine := newPuppet(t, st.hs, "bob", "SPY"), newPuppet(t, st.hs, "alice", "NEW")
	invited, outside := newPuppet(t, st.hs, "dave", "DAVE"), newPuppet(t, st.hs, "eve", "EVE")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	if code := call(t, st.hs, st.alice.Session, http.MethodPost, "rooms/"+room+"/invite", map[string]any{"user_id": invited.UserID}, nil); code != http.StatusOK {
		t.Fatalf("invite answers %d", code)
	}
	st.device(st.alice.Session) // the client has synced
	sent := func(session string) {
		t.Helper()
		for range 3 {
			st.client(st.alice.Session).SentEncrypted(id.RoomID(room), id.SessionID(session))
		}
	}
	told := func(session string) {
		t.Helper()
		await(t, "nobody is told of "+session, func() bool { return len(spy.withheld()[session]) > 0 })
	}
	sent("S1")
	told("S1")
	for _, p := range []*puppet{spy, mine, invited} {
		wantTold(t, p, "S1", "m.unverified")
	}
	note := spy.plain[0]
	want := map[string]any{
		"algorithm": megolmAlgorithm, "code": "m.unverified", "reason": "The device has not been confirmed by its owner.",
		"room_id": room, "sender_key": st.alice.curve25519.String(), "session_id": "S1",
	}
	if diff := cmp.Diff(want, note.Content); diff != "" || note.Sender != st.alice.UserID {
		t.Errorf("%s says (-want +got):\n%s", note.Sender, diff)
	}
	st.restart()
	st.device(st.alice.Session)
	sent("S1")
	failing := st.hs.Intercept(liar.Is("PUT", "sendToDevice/m.room_key.withheld"), liar.First(1, liar.Fail(http.StatusBadGateway, "M_UNKNOWN")))
	sent("S2")
	await(t, "the second session is not told of at all", func() bool {
		return len(st.hs.Requests(liar.Is("PUT", "sendToDevice/m.room_key.withheld"))) >= 2
	})
	await(t, "it is not tried again", func() bool { sent("S2"); return len(spy.withheld()["S2"]) > 0 })
	failing()
	// A list of members that misses the sender is older than the event, so others may be missing.
	lags := st.hs.Intercept(liar.Is("GET", "/members$"), liar.Edit(func(_ *liar.Request, body map[string]any) { body["chunk"] = []any{} }))
	sent("S3")
	await(t, "the list is not read", func() bool { return len(st.hs.Requests(liar.Is("GET", "/members$"))) > 3 })
	lags()
	await(t, "it is not read again", func() bool { sent("S3"); return len(spy.withheld()["S3"]) > 0 })
	late := newPuppet(t, st.hs, "bob", "LATE")
	st.query(st.alice.UserID, bob.UserID) // the client heard of it
	await(t, "a device that came later is not told", func() bool { return len(late.withheld()["S3"]) > 0 })
	sent("S3")
	wantTold(t, late, "S3", "m.unverified")
	for _, p := range []*puppet{spy, mine, invited} {
		wantTold(t, p, "S1", "m.unverified")
		wantTold(t, p, "S2", "m.unverified")
	}
	for _, p := range []*puppet{bob, outside, st.alice} {
		if got := p.withheld(); len(got) > 0 {
			t.Errorf("%s was told %v", p.DeviceID, got)
		}
	}
	for _, r := range st.hs.Requests(liar.Is("PUT", "sendToDevice")) {
		if !liar.Is("", "sendToDevice/m.room_key.withheld/e2ee-proxy-withheld-")(r) {
			t.Errorf("something else was sent: %s", r.Path)
		}
	}
}

// Where the policy is on warn, or the history is not for those who are invited, they are not
// told: they could have been given the key, or are no members.
func TestWhoIsNotToldForNativeClients(t *testing.T) {
	t.Parallel()
	warn := newNativeStage(t, trustcache.Policy{Native: trustcache.ModeWarn})
	spy := newPuppet(t, warn.hs, "bob", "SPY")
	room := warn.hs.CreateRoom(true, warn.alice.UserID, spy.UserID)
	warn.device(warn.alice.Session)
	warn.client(warn.alice.Session).SentEncrypted(id.RoomID(room), "S")
	if n := len(warn.hs.Requests(liar.Is("GET", "/members$"))); n > 0 {
		t.Errorf("on warn the members were read %d times", n)
	}

	st := newNativeStage(t, trustcache.Policy{})
	bob, invited := newPuppet(t, st.hs, "bob", "BOB"), newPuppet(t, st.hs, "dave", "DAVE")
	room = st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.hs.Inject(room, liar.Event{Type: "m.room.history_visibility", Sender: st.alice.UserID, StateKey: new(""), Content: []byte(`{"history_visibility":"joined"}`)})
	if code := call(t, st.hs, st.alice.Session, http.MethodPost, "rooms/"+room+"/invite", map[string]any{"user_id": invited.UserID}, nil); code != http.StatusOK {
		t.Fatalf("invite answers %d", code)
	}
	st.device(st.alice.Session)
	st.client(st.alice.Session).SentEncrypted(id.RoomID(room), "S")
	await(t, "bob is not told", func() bool { return len(bob.withheld()["S"]) > 0 })
	if got := invited.withheld(); len(got) > 0 {
		t.Errorf("who is invited and will not read it was told %v", got)
	}
}
