package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// unread is what a sync says of unread messages of a room.
type unread struct {
	All     *testpeer.Unread           `json:"unread_notifications"`
	Threads map[string]testpeer.Unread `json:"unread_thread_notifications"`
}

// after returns what a client knows once it got more.
func (u unread) after(more unread) unread {
	if more.All == nil {
		return u
	}
	return more
}

// awaitUnread waits until the numbers of a room are so.
func (c *curl) awaitUnread(what, room string, notifications, highlights int) {
	c.t.Helper()
	want := testpeer.Unread{Notifications: notifications, Highlights: highlights}
	c.until(fmt.Sprintf("%s: %+v", what, want), func() bool {
		got := c.unread[room].All
		return got != nil && *got == want
	})
}

// mention returns a text that mentions users.
func mention(body string, users ...string) map[string]any {
	content := text(body)
	content["m.mentions"] = map[string]any{"user_ids": users}
	return content
}

// Issue 8, Part 3: the numbers of unread messages in an encrypted room are those of Element,
// which a mention inside the ciphertext raises; a receipt resets them, and a restart does not
// change them.
func TestUnreadNumbersAreThoseOfElement(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice, carol := element(t, hs, host, "alice"), element(t, hs, host, "carol")
		b := newAccount(t, hs, "bob")
		bob := loginCurl(t, proxy.URL, b, "BOB")
		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID, carol.UserID}})
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		carol.AwaitRoom(room, "invite")
		carol.Join(room)
		alice.AwaitMember(room, b.UserID, "join")
		alice.AwaitMember(room, carol.UserID, "join")
		bob.awaitInOrder()

		// Dendrite 0.15 has no rule for mentions. Element adds none; the proxy does.
		elementHighlights := hs.Kind == "synapse"
		last := ""
		// both waits until the two have an event, and compares what they count.
		both := func(what, event string, notifications, highlights int) {
			t.Helper()
			last = event
			carol.Await(room, testpeer.Where{"event_id": event})
			bob.Await(room, testpeer.Where{"event_id": event})
			bob.awaitUnread(what, room, notifications, highlights)
			want := testpeer.Unread{Notifications: notifications, Highlights: highlights}
			if !elementHighlights {
				want.Highlights = 0
			}
			if diff := cmp.Diff(want, carol.Unread(room)); diff != "" {
				t.Errorf("%s: Element counts (-want +got):\n%s", what, diff)
			}
		}
		read := func() {
			t.Helper()
			carol.MarkRead(room, last)
			bob.until("no number after a receipt", func() bool {
				// Dendrite counts an event some time after it has given it out, even if it was read.
				bob.call(http.MethodPost, roomPath(room, "receipt/m.read/%s", last), map[string]any{}, nil)
				bob.sync(time.Second)
				got := bob.unread[room].All
				return got != nil && *got == testpeer.Unread{}
			})
		}
		hello := alice.SendText(room, "hello")
		carol.Await(room, testpeer.Where{"event_id": hello})
		bob.Await(room, testpeer.Where{"event_id": hello})
		last = hello
		read() // Dendrite 0.15 counts invites, until something is read
		both("a message", alice.SendText(room, "how are you"), 1, 0)
		both("a mention", alice.Send(room, "m.room.message", mention("you", b.UserID, carol.UserID)), 2, 1)
		both("a mention of nobody here", alice.Send(room, "m.room.message", mention("them", "@nobody:elsewhere")), 3, 1)
		both("a notice", alice.Send(room, "m.room.message", map[string]any{"msgtype": "m.notice", "body": "note"}), 3, 1)
		both("a reaction", alice.React(room, hello, "👍"), 3, 1)
		both("a sticker", alice.Send(room, "m.sticker", map[string]any{"body": "s", "url": "mxc://x/y", "info": map[string]any{}}), 3, 1)

		bob.wantNotifications("", room, "you", "how are you", "them")
		bob.wantNotifications("?only=highlight&limit=3", room, "you")

		if err := proxy.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		both("after a restart", alice.SendText(room, "again"), 4, 1)
		read()
		both("after a receipt", alice.SendText(room, "new"), 1, 0)
	})
}

// Issue 8, Part 3: a client that asks for the numbers by thread gets them, and a receipt for
// a thread, or a private one, resets those of its thread.
func TestUnreadNumbersByThread(t *testing.T) {
	t.Parallel()
	hs := shared.Synapse(t)
	proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
	alice := element(t, hs, testpeer.NodeHost(t), "alice")
	b := newAccount(t, hs, "bob")
	bob := loginCurl(t, proxy.URL, b, "BOB")
	bob.filter = `{"room":{"timeline":{"unread_thread_notifications":true}}}`
	room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
	bob.AwaitRoom(room, "invite")
	bob.Join(room)
	alice.AwaitMember(room, b.UserID, "join")
	bob.awaitInOrder()

	root := alice.SendText(room, "the root")
	inIt := alice.Send(room, "m.room.message", inThread(root, b.UserID, "in the thread"))
	want := func(what string, main, thread testpeer.Unread) {
		t.Helper()
		bob.until(fmt.Sprintf("%s: %+v and %+v", what, main, thread), func() bool {
			got := bob.unread[room]
			return got.All != nil && *got.All == main && got.Threads[root] == thread
		})
	}
	bob.Await(room, testpeer.Where{"event_id": inIt})
	want("a mention in a thread", testpeer.Unread{Notifications: 1}, testpeer.Unread{Notifications: 1, Highlights: 1})
	mentioned := alice.Send(room, "m.room.message", mention("you", b.UserID))
	bob.Await(room, testpeer.Where{"event_id": mentioned})
	want("one outside", testpeer.Unread{Notifications: 2, Highlights: 1}, testpeer.Unread{Notifications: 1, Highlights: 1})
	bob.call(http.MethodPost, roomPath(room, "receipt/m.read.private/%s", inIt), map[string]any{"thread_id": root}, nil)
	want("the thread is read in private", testpeer.Unread{Notifications: 2, Highlights: 1}, testpeer.Unread{})
	bob.call(http.MethodPost, roomPath(room, "receipt/m.read/%s", mentioned), map[string]any{"thread_id": "main"}, nil)
	want("the rest is read", testpeer.Unread{}, testpeer.Unread{})
}

// wantNotifications compares the texts that GET /notifications lists of a room, in any order.
func (c *curl) wantNotifications(query, room string, texts ...string) {
	c.t.Helper()
	var answer struct {
		Notifications []struct {
			RoomID string `json:"room_id"`
			Read   bool   `json:"read"`
			Event  struct {
				Content struct {
					Body string `json:"body"`
				} `json:"content"`
			} `json:"event"`
		} `json:"notifications"`
	}
	c.call(http.MethodGet, "/_matrix/client/v3/notifications"+query, nil, &answer)
	var got []string
	for _, n := range answer.Notifications {
		if n.RoomID == room && !n.Read && n.Event.Content.Body != "" {
			got = append(got, n.Event.Content.Body)
		}
	}
	slices.Sort(got)
	slices.Sort(texts)
	if diff := cmp.Diff(texts, got); diff != "" {
		c.t.Errorf("notifications%s (-want +got):\n%s", query, diff)
	}
}
