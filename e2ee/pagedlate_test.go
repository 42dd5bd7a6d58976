package e2ee_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// waiting returns how many events of a device wait.
func (p *person) waiting() int {
	p.t.Helper()
	return waitingIn(p.t, p.rig, p.Session)
}

func waitingIn(t *testing.T, r *rig, who liar.Session) int {
	t.Helper()
	acct, err := r.db.Account(t.Context(), id.UserID(who.UserID))
	if err != nil {
		t.Fatal(err)
	}
	dev, err := r.db.Device(t.Context(), acct, id.DeviceID(who.DeviceID))
	if err != nil {
		t.Fatal(err)
	}
	n, err := r.db.PendingCount(t.Context(), acct, dev.ID)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ofPage is like the events of a page of history.
var ofPage = e2ee.Incoming{Redeliver: true, Page: true, Wait: 100 * time.Millisecond}

// A page of history is shown while the homeserver gives no keys of the backup: its events are
// marked, and come with a sync when the keys are here. Each comes once, however often the page
// was read meanwhile, and says that its key is from the backup.
func TestWhatAPageCouldNotShowComesWithASync(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	room, alice := manyKeys(t, hs, 5)
	gate := liar.NewGate()
	defer gate.Open()
	hs.Intercept(liar.Of(alice.UserID, liar.Is(http.MethodGet, "room_keys/keys")), gate.Before)
	// Nor does the other device of alice's hear that it is asked for them.
	hs.Intercept(liar.Of(alice.UserID, liar.Is(http.MethodPut, "sendToDevice/m.room_key_request")), func(*liar.Request, func() liar.Reply) liar.Reply {
		return liar.OK(map[string]any{})
	})
	second := &person{t: t, hs: hs, rig: alice.rig, Session: hs.Login("alice", "SECOND")}
	second.dev = second.rig.device(second.Session)
	for range 3 {
		if got, all := second.opened(room, ofPage); got != 0 || all != 5 {
			t.Fatalf("%d of %d events were read without a key", got, all)
		}
	}
	if n := second.waiting(); n != 5 {
		t.Errorf("%d events wait", n)
	}
	since, late := "", map[string]int{}
	sync := func() {
		extras, next := second.sync(since)
		since = next
		for _, raw := range extras.Late[idRoom(room)] {
			ev := readShown(t, raw)
			if !ev.Decrypted || ev.Unsigned.Trust.Source != "backup" {
				t.Errorf("%s", raw)
			}
			late[ev.Content.Body]++
		}
	}
	sync()
	if len(late) > 0 {
		t.Errorf("%v came without a key", late)
	}
	gate.Open()
	await(t, "the events do not come", func() bool { sync(); return len(late) == 5 })
	for range 3 {
		hs.Inject(room, liar.Event{Type: "m.reaction", Sender: alice.UserID, Content: json.RawMessage(`{}`)}) // the position moves
		sync()
	}
	for text, n := range late {
		if n != 1 {
			t.Errorf("%s came %d times", text, n)
		}
	}
	if n := second.waiting(); n != 0 {
		t.Errorf("%d events wait still", n)
	}
}

// strangers makes encrypted events whose keys nobody has.
func strangers(room, sender string, n int) []e2ee.Incoming {
	var in []e2ee.Incoming
	for i := range n {
		like := ofPage
		like.RoomID, like.Wait = id.RoomID(room), 0
		like.Event = fmt.Appendf(nil, `{"type":"m.room.encrypted","event_id":"$%s%d","sender":%q,"origin_server_ts":1,`+
			`"content":{"algorithm":"m.megolm.v1.aes-sha2","session_id":"s%d","ciphertext":"AwgA"}}`, room[1:5], i, sender, i)
		in = append(in, like)
	}
	return in
}

// Anybody can fill a history with events that nobody can read, and a client that pages through
// it makes few of them wait. Those of syncs are not pushed out, and still come; events of a
// room that the user has left do not wait, because a sync with one would put the room among
// those that the user is in.
func TestFewEventsOfPagesWait(t *testing.T) {
	t.Parallel()
	const most = 2000
	st := newStage(t, nil)
	room, bob, _ := hear(t, st)
	left := st.hs.CreateRoom(true, bob.UserID)
	if _, err := st.dev.Open(t.Context(), strangers(left, bob.UserID, 3)); err != nil {
		t.Fatal(err)
	}
	if n := waitingIn(t, st.rig, st.alice); n != 0 {
		t.Errorf("%d events of a room wait that alice is not in", n)
	}
	said, give := keyed(st, bob, room)
	event := said.say("in a sync")
	st.sync()
	for range 2 {
		if _, err := st.dev.Open(t.Context(), strangers(room, bob.UserID, most+100)); err != nil {
			t.Fatal(err)
		}
		if n := waitingIn(t, st.rig, st.alice); n != most {
			t.Errorf("%d events wait", n)
		}
	}
	more := said.say("in another sync")
	st.sync()
	give()
	st.awaitText(event, "in a sync")
	st.awaitText(more, "in another sync")
}

// A page shows the placeholder of an event that is held back from syncs: it is not held longer
// or shorter for that, and the client of the sync gets its clear text when the key comes.
func TestPageDoesNotEndAHold(t *testing.T) {
	t.Parallel()
	st := holdingStage(t)
	room, bob, _ := hear(t, st)
	said, give := keyed(st, bob, room)
	event := said.say("held")
	st.sync()
	reader := &person{Session: st.alice, t: t, hs: st.hs, rig: st.rig, dev: st.dev}
	if got, _ := reader.opened(room, ofPage); got != 1 { // the one that was heard before
		t.Errorf("%d events were read", got)
	}
	st.sync()
	if got := st.shown[event]; got != nil {
		t.Errorf("the client is shown %v", got)
	}
	st.later(5*time.Minute + time.Second)
	st.sync()
	if !isPlaceholder(st.shown[event]) {
		t.Errorf("the client is shown %v", st.shown[event])
	}
	give()
	st.awaitText(event, "held")
}

// The database fails while a page is opened. The client gets an error, and asks again: never a
// page with events undecrypted that could be read, because nothing of a page comes again.
func TestDisturbedPage(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 2, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		room, bob, _ := hear(t, st)
		want := make(map[string]bool)
		for i := range 3 {
			said, text := bob.newMegolm(room), fmt.Sprint("text ", i)
			said.share(st.target())
			said.say(text)
			want[text] = true
		}
		st.told()
		st.again() // so that all has to be read
		reader := &person{Session: st.alice, t: t, hs: st.hs}
		var page []e2ee.Incoming
		for _, raw := range reader.encrypted(room) {
			page = append(page, e2ee.Incoming{RoomID: id.RoomID(room), Event: raw, Redeliver: true, Page: true, Order: e2ee.OrderAfter})
		}
		var texts []string
		if err := st.use(t.Context()); err != nil {
			t.Fatal(err)
		}
		open := func(ctx context.Context) error {
			opened, err := st.dev.Open(ctx, page)
			if err != nil {
				return err
			}
			texts = nil
			left := maps.Clone(want)
			for _, o := range opened {
				body := readShown(t, o.Event).Content.Body
				delete(left, body)
				texts = append(texts, body)
			}
			if len(left) > 0 {
				t.Errorf("the client is shown a page without %v", left)
			}
			return nil
		}
		return scene{
			work: open, // the first point is the first that it reads
			again: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				return open(ctx)
			},
			outcome: func() string {
				if err := open(t.Context()); err != nil {
					t.Fatal(err)
				}
				slices.Sort(texts)
				return strings.Join(texts, "\n")
			},
		}
	})
}
