package e2ee_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/testdb"
	"e2ee-proxy/store"
)

// lateDevice returns a room with a message whose key alice's first device has and her
// second, which came later, has not. It cannot be had from the backup.
func lateDevice(t *testing.T) (first, late *person, stray *puppet, room string) {
	t.Helper()
	hs := liar.New(t)
	bob := newPerson(t, hs, "bob", "BOBS")
	first = newPerson(t, hs, "alice", "FIRST")
	stray = newPuppet(t, hs, "alice", "STRAY")
	room = bob.newRoom(first)
	bob.send(room, "before the second device")
	first.awaitRead(room, "before the second device")
	hs.Intercept(liar.Of(first.UserID, liar.Is("GET", "room_keys/keys")), liar.Fail(http.StatusNotFound, "M_NOT_FOUND"))

	late = &person{t: t, hs: hs, rig: newRig(t, hs, nil), Session: hs.Login("alice", "LATE")}
	late.dev = late.rig.device(late.Session)
	settle(t, late.dev)
	key, err := first.dev.RecoveryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := late.dev.Recover(t.Context(), e2ee.Recovery{Key: key}); err != nil {
		t.Fatal(err)
	}
	late.dev.Maintain(t.Context()) // a device begins with asking for what is missing: nothing is yet
	if ev := late.open(room, true); len(ev) != 1 || ev[0].Unsigned.Trust.Code != "MissingRoomKey" {
		t.Fatalf("the late device is shown %+v", ev)
	}
	return first, late, stray, room
}

// requested returns the devices to which requests for room keys, or their cancellations,
// went.
func requested(t *testing.T, hs *liar.Server, action string) (devices []string) {
	t.Helper()
	for _, r := range hs.Requests(liar.Is("PUT", "sendToDevice/m.room_key_request/")) {
		var body struct {
			Messages map[string]map[string]struct {
				Action string `json:"action"`
			} `json:"messages"`
		}
		if err := r.JSON(&body); err != nil {
			t.Fatal(err)
		}
		for user, to := range body.Messages {
			for device, content := range to {
				if content.Action == action {
					devices = append(devices, user+" "+device)
				}
			}
		}
	}
	slices.Sort(devices)
	return devices
}

// A key that an event waits for is asked of the user's own devices that the identity has
// confirmed, and of no others. What such a device gives says nothing of who sent the event:
// it is shown grey, with its source (requirements 11.1 to 11.6).
func TestMissingKeyIsAskedOfOwnDevices(t *testing.T) {
	t.Parallel()
	first, late, stray, room := lateDevice(t)
	late.restart() // what still waits is asked for
	ev := late.awaitRead(room, "before the second device")
	if trust := ev.Unsigned.Trust; trust.Source != "forwarded" || trust.Color != "grey" || trust.Code != "AuthenticityNotGuaranteed" {
		t.Errorf("shown as %+v", trust)
	}
	if got := requested(t, first.hs, "request"); !slices.Equal(got, []string{first.UserID + " FIRST"}) {
		t.Errorf("asked %v", got)
	}
	if got := requested(t, first.hs, "request_cancellation"); len(got) != 0 {
		t.Errorf("nobody else was asked, and told that it is over: %v", got)
	}
	for _, r := range first.hs.Requests(liar.Is("PUT", "sendToDevice/m.room_key_request/")) {
		if strings.Contains(string(r.Body), "sender_key") {
			t.Errorf("a request names a sender key: %s", r.Body)
		}
	}
	if stray.listen(); len(stray.opened) != 0 {
		t.Errorf("a device that is not confirmed was sent %v", stray.opened)
	}
}

// Attack: somebody else, or a device of the user that is not confirmed, asks for a room key
// in the name of anybody, a confirmed device among them. What is given goes over Olm to the
// device that is named, if that is confirmed, and not twice within an hour.
func TestKeyRequestsOfOthers(t *testing.T) {
	t.Parallel()
	first, late, stray, room := lateDevice(t)
	late.dev.AskNoKeys()
	sessions, err := first.dev.InboundSessions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ref := slices.IndexFunc(sessions, func(s store.InboundSession) bool { return s.RoomID == id.RoomID(room) })
	ask := func(sender, device, request string) {
		first.hs.SendToDevice(first.UserID, "FIRST", sender, "m.room_key_request", map[string]any{
			"action": "request", "request_id": request, "requesting_device_id": device,
			"body": map[string]any{"algorithm": megolmAlgorithm, "room_id": room, "session_id": sessions[ref].SessionID},
		})
		if err := first.dev.SyncNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		first.dev.Maintain(t.Context())
	}
	olm := func() (n int) {
		for _, r := range first.hs.Requests(liar.Is("PUT", "sendToDevice/m.room.encrypted/")) {
			if strings.Contains(string(r.Body), `"LATE"`) || strings.Contains(string(r.Body), `"STRAY"`) {
				n++
			}
		}
		return n
	}
	before := olm()
	for i, sender := range []string{"@bob:liar.test", "@mallory:elsewhere.test", first.UserID} {
		for _, device := range []string{"STRAY", "FIRST", "NONE"} {
			ask(sender, device, sender+device)
		}
		if i < 2 {
			ask(sender, "LATE", sender+"LATE")
		}
	}
	if stray.listen(); olm() != before || len(stray.opened) != 0 {
		t.Errorf("%d keys were given, the stray device has %v", olm()-before, stray.opened)
	}
	for range 3 { // as if it had asked: whoever says so, the key goes to LATE alone
		ask(first.UserID, "LATE", "in its name")
	}
	if n := olm() - before; n != 1 {
		t.Errorf("the key was given %d times", n)
	}
	if err := late.dev.SyncNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ev := late.history(room); ev[0].Decrypted {
		t.Error("a key that was not asked for was taken")
	}
}

// A database that does not take the requests for room keys once had them forgotten: nothing
// asked for the keys again. They are asked for as soon as it does.
func TestKeyRequestsThatCouldNotBeStored(t *testing.T) {
	t.Parallel()
	first, late, _, _ := lateDevice(t)
	var failed atomic.Int32
	hook := &testdb.Hook{}
	hook.Watch(func(statement string) error {
		if strings.Contains(statement, "INTO outbox") && failed.CompareAndSwap(0, 1) {
			return errDisturbed
		}
		return nil
	})
	late.rig.data = func(o *store.Options) { o.Wrap = hook.Wrap }
	late.restart() // what still waits is asked for
	await(t, "the key is not asked for", func() bool {
		late.dev.Maintain(t.Context())
		return slices.Equal(requested(t, first.hs, "request"), []string{first.UserID + " FIRST"})
	})
	if failed.Load() != 1 {
		t.Error("nothing failed: the test tests nothing")
	}
}
