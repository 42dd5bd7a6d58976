package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproxy"
)

// stream is a client that syncs in the old way, by GET initialSync and GET events, and keeps what is
// said in its control room.
type stream struct {
	*curl
	room, from string
	said       []string
	others     int // events of other rooms
}

func (s *stream) begin() {
	s.t.Helper()
	var all struct {
		End   string `json:"end"`
		Rooms []struct {
			ID       string `json:"room_id"`
			Messages struct {
				Chunk []tesths.Event `json:"chunk"`
			} `json:"messages"`
		} `json:"rooms"`
	}
	s.call(http.MethodGet, "/_matrix/client/v3/initialSync?limit=5", nil, &all)
	s.from = all.End
	for _, room := range all.Rooms {
		if !strings.HasSuffix(room.ID, ownServer) {
			continue
		}
		s.room = room.ID
		for _, e := range room.Messages.Chunk {
			s.said = append(s.said, bodyOf(e))
		}
	}
}

// poll asks for events once, and waits for them.
func (s *stream) poll() {
	s.t.Helper()
	var page struct {
		Chunk []json.RawMessage `json:"chunk"`
		End   string            `json:"end"`
	}
	s.call(http.MethodGet, "/_matrix/client/v3/events?"+url.Values{"from": {s.from}, "timeout": {"10000"}}.Encode(), nil, &page)
	s.from = page.End
	for _, raw := range page.Chunk {
		var e struct {
			tesths.Event
			Room string `json:"room_id"`
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			s.t.Fatal(err)
		}
		switch {
		case e.Room == s.room && e.Type == "m.room.message" && !strings.Contains(string(e.Content), "m.replace"):
			s.said = append(s.said, bodyOf(e.Event))
		case e.Room != s.room:
			s.others++
		}
	}
}

// A client of the old kind, which syncs by initialSync and events, is shown the control room, and
// what is said there, each message once; also while it waits. Dendrite has nothing of that kind.
func TestControlRoomOfAnOldClient(t *testing.T) {
	t.Parallel()
	hs := shared.Synapse(t)
	proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
	c := loginCurl(t, proxy.URL, newAccount(t, hs, "bob"), "BOB1")
	c.controlRoom()
	c.awaitInOrder()
	s := &stream{curl: c}
	if s.begin(); s.room != c.controlRoom() || len(s.said) != 1 || !strings.Contains(s.said[0], "Write help") {
		t.Fatalf("the room is %q, and has %q", s.room, s.said)
	}
	room := c.createRoom()
	c.SendText(room, "elsewhere")
	for n, text := range []string{"help", "status", "devices"} {
		c.send(s.room, "m.room.message", map[string]any{"msgtype": "m.text", "body": text})
		for tries := 0; len(s.said) < 1+2*(n+1); tries++ {
			if s.poll(); tries > 20 {
				t.Fatalf("the room has %q", s.said)
			}
		}
	}
	if s.others == 0 {
		t.Error("the other room's events are not there")
	}
	asked := make(map[string]int)
	for _, text := range s.said {
		asked[text]++
	}
	for text, n := range asked {
		if n > 1 {
			t.Errorf("%q came %d times", text, n)
		}
	}
	if asked["help"] != 1 || asked["status"] != 1 || asked["devices"] != 1 {
		t.Errorf("the room has %q", s.said)
	}
	c.call(http.MethodPost, roomPath(s.room, "leave"), map[string]any{}, nil)
	said := len(s.said)
	s.poll()
	again := &stream{curl: c}
	if again.begin(); again.room != "" || len(s.said) != said {
		t.Errorf("after it was left: %q, %q", again.room, s.said[said:])
	}
}

// What the proxy says is among the notifications, unread until it was read, with those of the
// homeserver, page by page and each once.
func TestControlRoomNotifies(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		a := loginCurl(t, proxy.URL, newAccount(t, hs, "alice"), "ALICE1")
		bob := loginCurl(t, proxy.URL, newAccount(t, hs, "bob"), "BOB1")
		control := bob.controlRoom()
		a.awaitInOrder()
		bob.awaitInOrder()
		room := a.createRoom(bob.account.UserID)
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		a.awaitMember(room, bob.account.UserID, "join")
		last := a.SendText(room, "one")
		bob.until("no message", func() bool {
			return slices.ContainsFunc(bob.timeline[room], func(e tesths.Event) bool { return e.EventID == last })
		})
		bob.ask(control, "status", "All is well")
		type one struct {
			Read  bool   `json:"read"`
			Room  string `json:"room_id"`
			Event struct {
				ID     string `json:"event_id"`
				Sender string `json:"sender"`
			} `json:"event"`
		}
		list := func() (all []one) {
			from := ""
			for range 30 {
				var page struct {
					Next string `json:"next_token"`
					All  []one  `json:"notifications"`
				}
				bob.call(http.MethodGet, "/_matrix/client/v3/notifications?limit=1"+from, nil, &page)
				if all = append(all, page.All...); page.Next == "" {
					return all
				}
				from = "&from=" + url.QueryEscape(page.Next)
			}
			t.Fatal("the list has no end")
			return nil
		}
		all := list()
		var own, others int
		seen := map[string]bool{}
		for i, n := range all {
			if seen[n.Event.ID] {
				t.Errorf("at %d of %+v", i, all)
			}
			seen[n.Event.ID] = true
			if n.Room == control {
				own++
				if n.Event.Sender != "@control"+ownServer {
					t.Errorf("it notifies of %+v", n)
				}
			} else {
				others++
			}
		}
		if own != 2 || others == 0 || all[0].Room != control || all[0].Read {
			t.Errorf("%d of the room, %d others: %+v", own, others, all)
		}
		bob.call(http.MethodPost, roomPath(control, "receipt/m.read/%s", all[0].Event.ID), map[string]any{}, nil)
		for _, n := range list() {
			if n.Room == control && !n.Read {
				t.Errorf("after it was read: %+v", n)
			}
		}
	})
}
