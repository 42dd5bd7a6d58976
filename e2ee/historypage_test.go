package e2ee_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// manyKeys makes a room in which bob said a number of things, each under a key of its own,
// which alice's device has backed up.
func manyKeys(t *testing.T, hs *liar.Server, texts int) (room string, alice *person) {
	t.Helper()
	alice = newPerson(t, hs, "alice", "FIRST")
	bob := newPerson(t, hs, "bob", "BOBS")
	room = alice.newRoomWith(map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 1}, bob)
	for i := range texts {
		bob.send(room, fmt.Sprintf("text %d", i))
	}
	alice.awaitRead(room, fmt.Sprintf("text %d", texts-1))
	await(t, "the room keys are not backed up", func() bool {
		count, _ := hs.BackedUp(alice.UserID)
		return count == texts
	})
	return room, alice
}

// backupReads returns the requests of a user for keys of the backup.
func backupReads(hs *liar.Server, user string) int {
	return len(hs.Requests(liar.Of(user, liar.Is(http.MethodGet, "room_keys/keys"))))
}

// opened decrypts a room's events and counts those that could be.
func (p *person) opened(room string, like e2ee.Incoming) (decrypted, all int) {
	p.t.Helper()
	var in []e2ee.Incoming
	for _, raw := range p.encrypted(room) {
		like.RoomID, like.Event = id.RoomID(room), raw
		in = append(in, like)
	}
	out, err := p.dev.Open(p.t.Context(), in)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, o := range out {
		if o.Decrypted {
			decrypted++
		}
	}
	return decrypted, len(in)
}

// A page of history whose events need many keys of one room costs the homeserver one
// request, and not one for each event or key.
func TestPageOfHistoryCostsOneRequest(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, alice := manyKeys(t, hs, 6)
	second := recovered(t, hs, alice, "SECOND", false)
	before := backupReads(hs, alice.UserID)
	if got, all := second.opened(room, e2ee.Incoming{Wait: 5 * time.Second}); got != 6 || all != 6 {
		t.Errorf("%d of %d events were read", got, all)
	}
	if asked := backupReads(hs, alice.UserID) - before; asked != 1 {
		t.Errorf("%d requests for one page", asked)
	}
}

// Reported: the first sync of a new login of an account whose backup is readable shows every
// old event as undecryptable and mends it in the next, so a script that syncs once never
// sees it. The first sync waits for the keys, within its bound; later ones do not wait.
func TestFirstSyncOfANewLoginShowsHistory(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, alice := manyKeys(t, hs, 5)
	login := func(device string) *person {
		p := &person{t: t, hs: hs, rig: alice.rig, Session: hs.Login("alice", device)}
		p.dev = p.rig.device(p.Session)
		return p
	}
	first := login("NEW")
	if got, all := first.opened(room, e2ee.Incoming{Redeliver: true, Wait: 5 * time.Second}); got != all || all != 5 {
		t.Errorf("%d of %d events were read in the first sync", got, all)
	}

	// A homeserver that gives no keys holds up nobody for longer than that.
	gate := liar.NewGate()
	defer gate.Open()
	hs.Intercept(liar.Of(alice.UserID, liar.Is(http.MethodGet, "room_keys/keys")), gate.Before)
	slow := login("SLOW")
	began := time.Now()
	if got, _ := slow.opened(room, e2ee.Incoming{Redeliver: true, Wait: 100 * time.Millisecond}); got != 0 {
		t.Errorf("%d events were read without a key", got)
	}
	if took := time.Since(began); took < 100*time.Millisecond || took > 5*time.Second {
		t.Errorf("the first sync waited %v", took)
	}
	if got, _ := slow.opened(room, e2ee.Incoming{Redeliver: true}); got != 0 {
		t.Errorf("%d events were read without a key", got)
	}
	gate.Open()
	// What was left out comes with a later sync.
	since, late := "", map[string]bool{}
	await(t, "the events do not come", func() bool {
		extras, next := slow.sync(since)
		since = next
		for _, raw := range extras.Late[idRoom(room)] {
			late[readShown(t, raw).Content.Body] = true
		}
		return len(late) == 5
	})
}

// A backup that answers for a whole room with nonsense is no backup: nothing is read, and
// nothing is lost.
func TestBackedUpRoomThatCannotBeRead(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, alice := manyKeys(t, hs, 5)
	second := recovered(t, hs, alice, "SECOND", false)
	// Whoever asks at any time gets one of them: what is asked for in the background, too.
	var answer atomic.Value
	answer.Store("")
	remove := hs.Intercept(liar.Of(alice.UserID, liar.Is(http.MethodGet, "room_keys/keys/[^/]*$")), func(*liar.Request, func() liar.Reply) liar.Reply {
		text, _ := answer.Load().(string)
		return liar.OK(json.RawMessage(text))
	})
	for _, text := range []string{`{"sessions":{"a":`, `[]`, `{"sessions":[]}`, `{"sessions":{}}`, `{}`} {
		answer.Store(text)
		if got, _ := second.opened(room, e2ee.Incoming{Wait: 5 * time.Second}); got != 0 {
			t.Errorf("%s: %d events were read", text, got)
		}
		second.restart()
		settle(t, second.dev)
	}
	remove()
	second.restart()
	settle(t, second.dev)
	if got, all := second.opened(room, e2ee.Incoming{Wait: 5 * time.Second}); got != all {
		t.Errorf("%d of %d events were read", got, all)
	}
}

// What comes with a room's keys is kept: a client that pages through a room costs one request,
// and not one for each page.
func TestPagesBehindTheFirstCostNoRequest(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, alice := manyKeys(t, hs, 6)
	second := recovered(t, hs, alice, "SECOND", false)
	before := backupReads(hs, alice.UserID)
	all := second.encrypted(room)
	for from := 0; from < len(all); from += 2 {
		var page []e2ee.Incoming
		for _, raw := range all[from : from+2] {
			page = append(page, e2ee.Incoming{RoomID: id.RoomID(room), Event: raw, Page: true, Redeliver: true, Wait: 5 * time.Second})
		}
		opened, err := second.dev.Open(t.Context(), page)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range opened {
			if !o.Decrypted {
				t.Errorf("page at %d: %s", from, o.Event)
			}
		}
		if from == 0 {
			await(t, "the other keys are not kept", func() bool {
				keys, err := second.dev.InboundSessions(t.Context())
				return err == nil && len(keys) == len(all)
			})
		}
	}
	if asked := backupReads(hs, alice.UserID) - before; asked != 1 {
		t.Errorf("%d requests for three pages", asked)
	}
}

// A homeserver that fills the backup of a room with keys, or a room that has very many: what is
// read of it is bounded, and the page's keys are then asked for one by one, the next time at
// once.
func TestBackedUpRoomWithVeryManyKeys(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, alice := manyKeys(t, hs, 4)
	second := recovered(t, hs, alice, "SECOND", false)
	var streamed atomic.Int64
	hs.Intercept(liar.Of(alice.UserID, liar.Is(http.MethodGet, "room_keys/keys/[^/]*$")), liar.Edit(func(_ *liar.Request, body map[string]any) {
		streamed.Add(1)
		sessions := make(map[string]any)
		for i := range 3000 {
			sessions[fmt.Sprint("!", i)] = map[string]any{"session_data": "nothing"} // they come before the others
		}
		body["sessions"] = sessions
	}))
	before := backupReads(hs, alice.UserID)
	all := second.encrypted(room)
	for i, want := range []int{1 + 2, 2} {
		var page []e2ee.Incoming
		for _, raw := range all[2*i : 2*i+2] {
			page = append(page, e2ee.Incoming{RoomID: id.RoomID(room), Event: raw, Page: true, Redeliver: true, Wait: 20 * time.Second})
		}
		opened, err := second.dev.Open(t.Context(), page)
		if err != nil || !opened[0].Decrypted || !opened[1].Decrypted {
			t.Errorf("page %d was not read: %v", i, err)
		}
		if asked := backupReads(hs, alice.UserID) - before; asked != want {
			t.Errorf("page %d: %d requests, want %d", i, asked, want)
		}
		before = backupReads(hs, alice.UserID)
	}
	if streamed.Load() != 1 {
		t.Errorf("the room's keys were read %d times", streamed.Load())
	}
	if keys, err := second.dev.InboundSessions(t.Context()); err != nil || len(keys) != 4 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}
