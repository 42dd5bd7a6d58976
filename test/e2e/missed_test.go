package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// listed follows GET /notifications to its end, a few at a time, and returns the texts, with
// "(read)" behind those that were read.
func (c *curl) listed(query string) (texts []string) {
	c.t.Helper()
	from := ""
	for range 50 {
		var answer struct {
			Next          string `json:"next_token"`
			Notifications []struct {
				Read  bool   `json:"read"`
				Room  string `json:"room_id"`
				Event struct {
					Content struct {
						Body string `json:"body"`
					} `json:"content"`
				} `json:"event"`
			} `json:"notifications"`
		}
		c.call(http.MethodGet, "/_matrix/client/v3/notifications?"+query+from, nil, &answer)
		for _, n := range answer.Notifications {
			switch body := n.Event.Content.Body; {
			case body == "", strings.HasSuffix(n.Room, ownServer): // an invitation; the control room
			case n.Read:
				texts = append(texts, body+" (read)")
			default:
				texts = append(texts, body)
			}
		}
		if answer.Next == "" {
			return texts
		}
		from = "&from=" + url.QueryEscape(answer.Next)
	}
	c.t.Error("the list has no end")
	return texts
}

func (c *curl) wantListed(what, query string, texts ...string) {
	c.t.Helper()
	if diff := cmp.Diff(texts, c.listed(query)); diff != "" {
		c.t.Errorf("%s: notifications?%s (-want +got):\n%s", what, query, diff)
	}
}

// mentionsOnly makes a room one that notifies of mentions only, as Element does it.
func (c *curl) mentionsOnly(room string) {
	c.t.Helper()
	c.call(http.MethodPut, "/_matrix/client/v3/pushrules/global/room/"+url.PathEscape(room), map[string]any{"actions": []any{}}, nil)
}

// Issue 8, Part 3: in a room for mentions only the homeserver notifies of nothing that is
// encrypted. A mention there is counted as Element counts it, and GET /notifications lists it
// in its place among the homeserver's, once, page by page, until it is redacted.
func TestMentionInAQuietRoomIsListed(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice := element(t, hs, host, "alice")
		c := newAccount(t, hs, "carol")
		carol := host.Element(t, testpeer.Options{URL: hs.URL, User: c.UserID, Password: c.Password, Setup: testpeer.Bootstrap})
		b := newAccount(t, hs, "bob")
		bob := loginCurl(t, proxy.URL, b, "BOB")
		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID, c.UserID}})
		plain := alice.CreateRoom(testpeer.Room{Invite: []string{b.UserID}})
		for _, r := range []string{room, plain} {
			bob.AwaitRoom(r, "invite")
			bob.Join(r)
			alice.AwaitMember(r, b.UserID, "join")
		}
		carol.AwaitRoom(room, "invite")
		carol.Join(room)
		alice.AwaitMember(room, c.UserID, "join")
		bob.mentionsOnly(room)
		newCurl(t, hs.URL, c).mentionsOnly(room)
		bob.awaitInOrder()

		heard := func(in, event string) string {
			t.Helper()
			bob.Await(in, testpeer.Where{"event_id": event})
			if in == room {
				carol.Await(room, testpeer.Where{"event_id": event})
			}
			return event
		}
		clear := func(body string) string {
			t.Helper()
			event := heard(plain, alice.SendText(plain, body))
			// Dendrite lists an event some time after it has given it out.
			bob.until("the homeserver lists "+body, func() bool {
				bob.sync(time.Second)
				return slices.Contains(bob.listed("limit=50"), body)
			})
			return event
		}
		hello := heard(room, alice.SendText(room, "hello"))
		bob.until("no number after a receipt", func() bool { // Dendrite 0.15 counts invites, until something is read
			bob.call(http.MethodPost, roomPath(room, "receipt/m.read/%s", hello), map[string]any{}, nil)
			bob.sync(time.Second)
			got := bob.unread[room].All
			return got == nil || *got == testpeer.Unread{}
		})
		first := heard(room, alice.Send(room, "m.room.message", mention("you", b.UserID, c.UserID)))
		clear("in clear")
		second := heard(room, alice.Send(room, "m.room.message", mention("you again", b.UserID, c.UserID)))
		clear("more")
		last := heard(room, alice.SendText(room, "how are you"))

		bob.awaitUnread("two mentions", room, 2, 2)
		// Dendrite 0.15 has no rule for mentions. Element adds none; the proxy does. Where the
		// homeserver counts nothing, Element raises the number of highlights only.
		if got := carol.Unread(room).Highlights; got != 2 && hs.Kind == "synapse" {
			t.Errorf("Element counts %d highlights", got)
		}
		var direct json.RawMessage
		newCurl(t, hs.URL, bob.account).call(http.MethodGet, "/_matrix/client/v3/notifications", nil, &direct)
		if bytes.Contains(direct, []byte(first)) || bytes.Contains(direct, []byte(second)) {
			t.Error("the homeserver lists the mentions: this test shows nothing")
		}
		all := []string{"more", "you again", "in clear", "you"}
		if hs.Kind != "synapse" {
			// Dendrite 0.15 lists the oldest first, and its tokens skip one: so nothing of it is
			// expected to be whole but one page.
			all = []string{"you again", "you", "in clear", "more"}
		}
		for _, limit := range []string{"limit=1", "limit=2", "limit=50"} {
			if hs.Kind == "synapse" || limit == "limit=50" {
				bob.wantListed("in order", limit, all...)
			}
			bob.wantListed("highlights", limit+"&only=highlight", "you again", "you")
		}
		if err := proxy.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		bob.wantListed("after a restart", "limit=50", all...)

		alice.Redact(room, second)
		bob.until("the redaction", func() bool {
			bob.sync(time.Second)
			return !slices.Contains(bob.listed("limit=3"), "you again")
		})
		bob.wantListed("one is redacted", "limit=1&only=highlight", "you")
		bob.call(http.MethodPost, roomPath(room, "receipt/m.read/%s", last), map[string]any{}, nil)
		bob.awaitUnread("all is read", room, 0, 0)
		bob.wantListed("all is read", "only=highlight", "you (read)")
	})
}
