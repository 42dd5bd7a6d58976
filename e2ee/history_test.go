package e2ee_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// conversation makes a room in which alice and bob said something, and a second device of
// alice's that has recovered.
func conversation(t *testing.T, hs *liar.Server, texts int) (room string, alice, second *person) {
	t.Helper()
	alice = newPerson(t, hs, "alice", "FIRST")
	bob := newPerson(t, hs, "bob", "BOBS")
	room = alice.newRoom(bob)
	for i := range texts {
		bob.send(room, fmt.Sprintf("text %d", i))
		alice.send(room, fmt.Sprintf("answer %d", i))
	}
	alice.awaitRead(room, fmt.Sprintf("text %d", texts-1))
	await(t, "the room keys are not backed up", func() bool {
		count, _ := hs.BackedUp(alice.UserID)
		return count == 2
	})
	second = recovered(t, hs, alice, "SECOND", false)
	return room, alice, second
}

// recovered logs another device of alice in and recovers it with the first one's key.
func recovered(t *testing.T, hs *liar.Server, first *person, device string, restore bool) *person {
	t.Helper()
	p := &person{t: t, hs: hs, rig: newRig(t, hs, nil), Session: hs.Login("alice", device)}
	p.dev = p.rig.device(p.Session)
	settle(t, p.dev)
	key, err := first.dev.RecoveryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.dev.Recover(t.Context(), e2ee.Recovery{Key: key, Restore: restore}); err != nil {
		t.Fatal(err)
	}
	return p
}

// A new device that pages through history is given the text within the same call: the
// keys come from the backup when events need them. Because the backup is authenticated
// (MSC4048, requirement 16.9), who sent them is known as it was.
func TestHistoryIsRestoredLazily(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, _, second := conversation(t, hs, 2)
	events := second.history(room)
	if len(events) != 4 {
		t.Fatalf("%d events", len(events))
	}
	for _, ev := range events {
		if trust := ev.Unsigned.Trust; !ev.Decrypted || trust.Source != "backup" || trust.Color != "none" || trust.Code != "" {
			t.Errorf("%q is shown as %+v", ev.Content.Body, trust)
		}
	}
	asked := 0
	for _, r := range hs.Requests(liar.Of(second.UserID, liar.Is(http.MethodGet, "room_keys/keys/"))) {
		if r.DeviceID == second.DeviceID { // the first device may have looked for a key that was late
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("%d requests for the keys of one room", asked)
	}
}

// The same where another client wrote the authenticated backup (MSC4048): it says that the
// key belongs to its sender_key, and the devices of the event's sender say whose that is.
// A key that it says is not authentic, or whose sender has no such device, proves nothing.
func TestBackupAuthenticatedByOthers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(data map[string]any)
		color  string
	}{
		"as it is":       {func(map[string]any) {}, "none"},
		"not authentic":  {func(data map[string]any) { data["org.matrix.msc4048.unauthenticated"] = "m.undefined" }, "grey"},
		"another device": {func(data map[string]any) { data["sender_key"] = strings.Repeat("A", 43) }, "grey"},
		"another signing key": {func(data map[string]any) {
			data["sender_claimed_keys"] = map[string]any{"ed25519": strings.Repeat("A", 43)}
		}, "grey"},
		"no signing key": {func(data map[string]any) { delete(data, "sender_claimed_keys") }, "grey"},
	} {
		t.Run(name, func(t *testing.T) {
			hs := liar.New(t)
			room, alice, second := conversation(t, hs, 1)
			hs.Intercept(liar.Of(second.UserID, liar.Is(http.MethodGet, "room_keys/keys/")), editBackedKeys(func(_ *liar.Request, body map[string]any) {
				err := alice.dev.Reseal(context.WithoutCancel(t.Context()), body, func(data map[string]any) {
					delete(data, "dev.e2ee-proxy.owner")
					data["com.example"] = "kept"
					tt.change(data)
				})
				if err != nil {
					t.Error(err)
				}
			}))
			events := second.history(room)
			for _, ev := range events {
				if trust := ev.Unsigned.Trust; !ev.Decrypted || trust.Source != "backup" || trust.Color != tt.color {
					t.Errorf("%q is shown as %+v, want %s", ev.Content.Body, trust, tt.color)
				}
			}
			second.restart()
			for _, ev := range second.history(room) {
				if ev.Unsigned.Trust.Color != tt.color {
					t.Errorf("after a restart %q is shown as %+v", ev.Content.Body, ev.Unsigned.Trust)
				}
			}
			keys, err := second.dev.InboundSessions(t.Context())
			if err != nil || len(keys) != 2 || len(events) != 2 {
				t.Fatalf("%d keys, %d events, %v", len(keys), len(events), err)
			}
			for _, key := range keys { // requirement 16.9: unknown members are kept
				if !strings.Contains(string(key.Owner.Reveal()), `"com.example":"kept"`) {
					t.Errorf("what another client wrote is lost: %s", key.Owner.Reveal())
				}
			}
		})
	}
}

// An event of a sync does not wait for its key: it is delivered undecrypted, and again
// when the key has come from the backup.
func TestSyncedEventIsDeliveredAgain(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, _, second := conversation(t, hs, 1)
	gate := liar.NewGate()
	hs.Intercept(liar.Of(second.UserID, liar.Is(http.MethodGet, "room_keys/keys/")), gate.Before)
	_, since := second.sync("")
	began := time.Now()
	for _, ev := range second.open(room, true) {
		if ev.Decrypted || ev.Unsigned.Trust.Code != "MissingRoomKey" {
			t.Errorf("%s came as %+v", ev.EventID, ev.Unsigned.Trust)
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the events waited %v", took)
	}
	gate.Open()
	late := map[string]bool{}
	await(t, "the events do not come again", func() bool {
		extras, next := second.sync(since)
		since = next
		for _, raw := range extras.Late[idRoom(room)] {
			late[readShown(t, raw).Content.Body] = true
		}
		return late["text 0"] && late["answer 0"]
	})
}

// Events that were delivered before the device was recovered come again after it.
func TestEarlierEventsComeAfterRecovery(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, alice, _ := conversation(t, hs, 1)
	p := &person{t: t, hs: hs, rig: newRig(t, hs, nil), Session: hs.Login("alice", "THIRD")}
	p.dev = p.rig.device(p.Session)
	settle(t, p.dev)
	_, since := p.sync("")
	p.open(room, true)
	p.restart() // what waits is stored
	key, err := alice.dev.RecoveryKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.dev.Recover(t.Context(), e2ee.Recovery{Key: key}); err != nil {
		t.Fatal(err)
	}
	late := map[string]bool{}
	await(t, "the events do not come again", func() bool {
		extras, next := p.sync(since)
		since = next
		for _, raw := range extras.Late[idRoom(room)] {
			late[readShown(t, raw).Content.Body] = true
		}
		return len(late) == 2
	})
}

// On request the whole history is restored, with progress in the status; a restart in the
// middle does not end it.
func TestBulkRestore(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	_, alice, _ := conversation(t, hs, 1)
	// The first download breaks off in the middle.
	broken := hs.Intercept(liar.Of(alice.UserID, liar.Is(http.MethodGet, "room_keys/keys$")), func(_ *liar.Request, next func() liar.Reply) liar.Reply {
		reply := next()
		reply.Body = []byte(`{"rooms":{"!x:y":{"sessions":{`)
		return reply
	})
	second := recovered(t, hs, alice, "THIRD", true)
	await(t, "the restore does not fail", func() bool {
		r := status(t, second.dev).Backup.Restore
		return r != nil && r.State == "failed"
	})
	broken()
	second.restart()
	await(t, "the restore does not go on", func() bool {
		r := status(t, second.dev).Backup.Restore
		return r != nil && r.State == "done"
	})
	r := status(t, second.dev).Backup.Restore
	if r.Total != 2 || r.Done != 2 || r.Restored != 2 || r.Refused != 0 {
		t.Errorf("the restore: %+v", r)
	}
	keys, err := second.dev.InboundSessions(t.Context())
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	for _, k := range keys {
		if k.Source != "backup" || k.BackupVersion == "" {
			t.Errorf("a key of source %s in version %q", k.Source, k.BackupVersion)
		}
	}
	second.restart()
	settle(t, second.dev)
	if r := status(t, second.dev).Backup.Restore; r != nil {
		t.Errorf("it begins again after the next restart: %+v", r)
	}
}
