package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// ownServer is in all names that only the proxy has.
const ownServer = ":e2ee-proxy.invalid"

// controlRoom returns the control room that the client was shown.
func (c *curl) controlRoom() string {
	c.t.Helper()
	var room string
	c.until("no control room", func() bool {
		for id, membership := range c.rooms {
			if strings.HasSuffix(id, ownServer) && membership == "join" {
				room = id
			}
		}
		return room != ""
	})
	return room
}

// ask writes in the control room, and returns what is answered once it has a text.
func (c *curl) ask(room, text, want string) string {
	c.t.Helper()
	before := len(c.timeline[room])
	c.send(room, "m.room.message", map[string]any{"msgtype": "m.text", "body": text})
	var got string
	c.until("no answer with "+want+" to what was written", func() bool {
		got = ""
		for _, e := range c.timeline[room][before:] {
			if body := bodyOf(e); e.Sender != c.account.UserID && strings.Contains(body, want) {
				got = body
			}
		}
		return got != ""
	})
	return got
}

func bodyOf(e tesths.Event) string {
	var content struct {
		Body string `json:"body"`
	}
	_ = json.Unmarshal(e.Content, &content)
	return content.Body
}

// A person at a plain client is shown a room that only the proxy knows, writes in it and is
// answered. Every endpoint about a room answers for it, and nothing of it is at the homeserver.
func TestControlRoom(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		bob := loginCurl(t, proxy.URL, newAccount(t, hs, "bob"), "BOB1")
		room := bob.controlRoom()
		bob.awaitInOrder()
		if n := bob.unread[room].All.Notifications; n != 1 {
			t.Errorf("%d unread messages, want the first one", n)
		}
		if got := bob.ask(room, "help", "You can write"); !strings.Contains(got, "recover") || strings.Contains(got, "_e2ee_proxy") {
			t.Errorf("help says %q", got)
		}
		bob.ask(room, "status", "All is well")
		bob.ask(room, "devices", "You have no other devices")
		bob.ask(room, "warnings", "There are no warnings")
		bob.ask(room, "backup", "Your messages are saved")
		bob.ask(room, "what is this?", "not understood")
		wantNotKept(t, bob, room, "what is this?")
		bob.recoversInRoom(room)
		bob.roomAnswers(room)

		var joined struct {
			Rooms []string `json:"joined_rooms"`
		}
		bob.call(http.MethodGet, "/_matrix/client/v3/joined_rooms", nil, &joined)
		if !slices.Contains(joined.Rooms, room) {
			t.Errorf("the joined rooms are %q", joined.Rooms)
		}
		bob.call(http.MethodPost, roomPath(room, "leave"), map[string]any{}, nil)
		bob.until("it is not left", func() bool { return bob.rooms[room] == "leave" })
		bob.call(http.MethodGet, "/_matrix/client/v3/joined_rooms", nil, &joined)
		if slices.Contains(joined.Rooms, room) {
			t.Errorf("after it was left the joined rooms are %q", joined.Rooms)
		}
		bob.wantRefused(http.StatusForbidden, "M_FORBIDDEN", http.MethodPut, roomPath(room, "send/m.room.message/%s", bob.nextTxn()), map[string]any{"msgtype": "m.text", "body": "help"})
		bob.call(http.MethodPost, roomPath(room, "join"), map[string]any{}, nil)
		bob.until("it is not joined again", func() bool { return bob.rooms[room] == "join" })

		carol := loginCurl(t, proxy.URL, newAccount(t, hs, "carol"), "CAROL1")
		if theirs := carol.controlRoom(); theirs == room {
			t.Error("two people have one room")
		}
		carol.wantRefused(http.StatusForbidden, "M_FORBIDDEN", http.MethodGet, roomPath(room, "messages?dir=b"), nil)
	})
}

// wantNotKept fails if anything that the proxy shows has a text.
func wantNotKept(t *testing.T, c *curl, room, text string) {
	t.Helper()
	for _, path := range []string{roomPath(room, "messages?dir=b&limit=100"), "/_matrix/client/v3/sync"} {
		if got := string(c.get(path).Body); strings.Contains(got, text) {
			t.Errorf("%s has what must not be kept", path)
		}
	}
}

// recoversInRoom enters a recovery key, a wrong one first. Neither is kept.
func (c *curl) recoversInRoom(room string) {
	c.t.Helper()
	key := c.recoveryKey()
	c.ask(room, "recover", "Write your recovery key")
	c.ask(room, "EsTc 5rr1 wrong key", "neither your recovery key")
	c.ask(room, key, "looks like a recovery key")
	c.ask(room, "recover", "Write your recovery key")
	c.ask(room, key, "This device is confirmed")
	c.ask(room, "recover "+key, "This device is confirmed")
	wantNotKept(c.t, c, room, key)
	wantNotKept(c.t, c, room, key[:12])
	if c.saw(key[:14]) {
		c.t.Log("the tape has the key that was fetched through the API, as it should")
	}
	c.ask(room, "backup restore", "All that was saved has been fetched")
}

// roomAnswers asks all that clients ask about a room.
func (c *curl) roomAnswers(room string) {
	c.t.Helper()
	var page struct {
		Chunk []tesths.Event `json:"chunk"`
		End   string         `json:"end"`
	}
	var texts []string
	for from := ""; ; from = page.End {
		page.End, page.Chunk = "", nil
		c.call(http.MethodGet, roomPath(room, "messages?")+url.Values{"dir": {"b"}, "limit": {"4"}, "from": {from}}.Encode(), nil, &page)
		for _, e := range page.Chunk {
			texts = append(texts, e.EventID)
		}
		if page.End == "" {
			break
		}
	}
	var all []string
	for _, e := range c.timeline[room] {
		if !strings.Contains(string(e.Content), "m.replace") {
			all = append(all, e.EventID)
		}
	}
	slices.Reverse(texts)
	if !slices.Equal(texts, all) {
		c.t.Errorf("read back: %d events, in the syncs: %d", len(texts), len(all))
	}
	last := all[len(all)-1]
	user := url.PathEscape(c.account.UserID)
	for _, ask := range []struct{ method, path, body, want string }{
		{"GET", roomPath(room, "state"), "", `"type":"m.room.create"`},
		{"GET", roomPath(room, "state/m.room.name"), "", `{"name":"Encryption proxy"}`},
		{"GET", roomPath(room, "state/m.room.member/%s", c.account.UserID), "", `{"membership":"join"}`},
		{"GET", roomPath(room, "members"), "", `@control:e2ee-proxy.invalid`},
		{"GET", roomPath(room, "members?not_membership=join"), "", `{"chunk":[]}`},
		{"GET", roomPath(room, "joined_members"), "", c.account.UserID},
		{"GET", roomPath(room, "event/%s", last), "", last},
		{"GET", roomPath(room, "context/%s", last), "", `"events_before":[{`},
		{"GET", "/_matrix/client/v1/rooms/" + url.PathEscape(room) + "/relations/" + url.PathEscape(last), "", `{"chunk":[]}`},
		{"GET", "/_matrix/client/v1/rooms/" + url.PathEscape(room) + "/threads", "", `{"chunk":[]}`},
		{"GET", "/_matrix/client/v1/rooms/" + url.PathEscape(room) + "/hierarchy", "", `"num_joined_members":2`},
		{"GET", roomPath(room, "initialSync"), "", `"membership":"join"`},
		{"GET", roomPath(room, "aliases"), "", `{"aliases":[]}`},
		{"GET", "/_matrix/client/v1/room_summary/" + url.PathEscape(room), "", `"membership":"join"`},
		{"GET", "/_matrix/client/v3/profile/" + url.PathEscape("@control"+ownServer), "", `"displayname":"Encryption proxy"`},
		{"POST", roomPath(room, "receipt/m.read/%s", last), `{}`, `{}`},
		{"POST", roomPath(room, "read_markers"), `{"m.fully_read":"` + last + `"}`, `{}`},
		{"PUT", roomPath(room, "typing/%s", c.account.UserID), `{"typing":true,"timeout":1000}`, `{}`},
		{"PUT", "/_matrix/client/v3/user/" + user + "/rooms/" + url.PathEscape(room) + "/tags/m.favourite", `{"order":0.5}`, `{}`},
		{"GET", "/_matrix/client/v3/user/" + user + "/rooms/" + url.PathEscape(room) + "/tags", "", `{"tags":{"m.favourite":{"order":0.5}}}`},
		{"PUT", "/_matrix/client/v3/user/" + user + "/rooms/" + url.PathEscape(room) + "/account_data/org.example.x", `{"a":1}`, `{}`},
		{"GET", "/_matrix/client/v3/user/" + user + "/rooms/" + url.PathEscape(room) + "/account_data/org.example.x", "", `{"a":1}`},
		{"POST", roomPath(room, "join"), `{}`, room},
		{"POST", "/_matrix/client/v3/join/" + url.PathEscape(room), `{}`, room},
		{"GET", "/_matrix/client/v3/sync?filter=" + url.QueryEscape(`{"room":{"rooms":["`+room+`"]}}`), "", `"` + room + `":{"state"`},
		{"GET", "/_matrix/client/v3/directory/list/room/" + url.PathEscape(room), "", `"visibility":"private"`},
	} {
		var body any
		if ask.body != "" {
			body = json.RawMessage(ask.body)
		}
		got, err := c.http.Do(c.t.Context(), ask.method, ask.path, body)
		if err != nil || got.Status != http.StatusOK || !strings.Contains(string(got.Body), ask.want) {
			c.t.Errorf("%s %s: %d %s %v, want %s", ask.method, ask.path, got.Status, got.Body, err, ask.want)
		}
	}
	for _, what := range []string{"state/m.room.name", "state/m.room.encryption"} {
		c.wantRefused(http.StatusForbidden, "M_FORBIDDEN", http.MethodPut, roomPath(room, what), map[string]any{"name": "x"})
	}
	for _, what := range []string{"invite", "kick", "ban", "upgrade"} {
		c.wantRefused(http.StatusForbidden, "M_FORBIDDEN", http.MethodPost, roomPath(room, what), map[string]any{"user_id": "@x:y"})
	}
	c.wantRefused(http.StatusNotFound, "M_NOT_FOUND", http.MethodGet, roomPath(room, "state/m.room.encryption"), nil)
}

// Somebody's identity is reset: what is sent to them is refused, the room says so, and there
// it is accepted.
func TestControlRoomAcceptsAChange(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		alice, a := peerOf(t, hs, host, "alice")
		b := newAccount(t, hs, "bob")
		bob := loginCurl(t, proxy.URL, b, "BOB1")
		control := bob.controlRoom()
		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		bob.awaitInOrder()
		alice.AwaitMember(room, b.UserID, "join")
		alice.AwaitDecrypted(room, bob.SendText(room, "before"))
		bob.call(http.MethodPost, roomPath(control, "leave"), map[string]any{}, nil)
		bob.until("it is not left", func() bool { return bob.rooms[control] == "leave" })
		alice.Reset(a.Password)
		bob.until("the control room does not come back with the warning", func() bool {
			return bob.rooms[control] == "join" && slices.ContainsFunc(bob.timeline[control], func(e tesths.Event) bool {
				return strings.Contains(bodyOf(e), "write: acknowledge "+alice.UserID)
			})
		})
		bob.sendRefused("DEV.E2EE_PROXY.IDENTITY_CHANGED", room, bob.nextTxn(), "blocked")
		bob.ask(control, "devices "+alice.UserID, "was reset")
		bob.ask(control, "acknowledge "+alice.UserID, "fingerprint")
		bob.ask(control, "maybe", "yes or no")
		bob.ask(control, "cancel", "Nothing was changed")
		bob.send(control, "m.room.message", map[string]any{"msgtype": "m.text", "body": "acknowledge " + alice.UserID})
		bob.ask(control, "yes", "before you can have read the question")
		bob.ask(control, "yes", "You have accepted")
		alice.AwaitDecrypted(room, bob.SendText(room, "after"))
	})
}

// Keys go out as a file and come back with it; a wrong passphrase is said to be one.
func TestControlRoomKeyFiles(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		b := newAccount(t, hs, "bob")
		bob := loginCurl(t, proxy.URL, b, "BOB1")
		control := bob.controlRoom()
		bob.awaitInOrder()
		room := bob.createRoom()
		bob.SendText(room, "a message")
		const passphrase = "correct horse battery"
		bob.ask(control, "export", "Choose a passphrase")
		bob.ask(control, "short", "too short")
		bob.ask(control, "export", "Choose a passphrase")
		bob.ask(control, passphrase, "room-keys.txt")
		var content struct {
			URL string `json:"url"`
		}
		last := bob.timeline[control][len(bob.timeline[control])-1]
		if err := json.Unmarshal(last.Content, &content); err != nil || content.URL == "" {
			t.Fatalf("the file is %s, %v", last.Content, err)
		}
		path := "/_matrix/client/v1/media/download/" + strings.TrimPrefix(content.URL, "mxc://")
		file := bob.raw(http.MethodGet, path, nil)
		if file.StatusCode != http.StatusOK || !strings.HasPrefix(string(file.body), "-----BEGIN MEGOLM SESSION DATA-----") {
			t.Fatalf("the file: %d %.60s", file.StatusCode, file.body)
		}
		bob.until("it is not said that the file was fetched", func() bool {
			said := bob.timeline[control][len(bob.timeline[control])-1]
			return strings.Contains(bodyOf(said), "The file was fetched") && strings.Contains(string(said.Content), "m.replace")
		})
		wantNotKept(t, bob, control, passphrase)
		second := loginCurl(t, proxy.URL, b, "BOB2")
		if got := second.get(path); got.Status != http.StatusNotFound {
			t.Errorf("another device gets the file: %d", got.Status)
		}
		uri := bob.upload("room-keys.txt", "text/plain", file.body)
		for _, try := range []struct{ passphrase, want string }{{"another one", "does not open the file"}, {passphrase, "Done. Of 1 keys"}} {
			bob.send(control, "m.room.message", map[string]any{"msgtype": "m.file", "body": "room-keys.txt", "url": uri})
			bob.until("no question", func() bool {
				all := bob.timeline[control]
				return strings.Contains(bodyOf(all[len(all)-1]), "Write the passphrase of this file")
			})
			bob.ask(control, try.passphrase, try.want)
		}
		wantNotKept(t, bob, control, passphrase)
	})
}

// A program that answers every message is not answered for ever; and a bot whose notices are
// off has no such room.
func TestControlRoomAndBots(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		quiet := newAccount(t, hs, "quiet")
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{Config: fmt.Sprintf("accounts:\n  %q:\n    notices: off\n", quiet.UserID)})
		echo := loginCurl(t, proxy.URL, newAccount(t, hs, "echo"), "ECHO1")
		room := echo.controlRoom()
		for range 6 {
			echo.SendText(room, "you said something")
		}
		answers := 0
		echo.sync(time.Second)
		for _, e := range echo.timeline[room] {
			if strings.Contains(bodyOf(e), "not understood, so it is not kept") {
				answers++
			}
		}
		if answers != 3 {
			t.Errorf("%d answers to what is not understood", answers)
		}
		echo.ask(room, "help", "You can write")

		bot := loginCurl(t, proxy.URL, quiet, "BOT1")
		bot.awaitInOrder()
		bot.sync(0)
		for id := range bot.rooms {
			if strings.HasSuffix(id, ownServer) {
				t.Errorf("a bot whose notices are off has the room %s", id)
			}
		}

		off := testproxy.Start(t, hs.URL, testproxy.Options{Config: "policy:\n  control_room: off\n"})
		person := loginCurl(t, off.URL, newAccount(t, hs, "person"), "PERSON1")
		person.awaitInOrder()
		person.sync(0)
		for id := range person.rooms {
			if strings.HasSuffix(id, ownServer) {
				t.Errorf("with policy.control_room: off there is the room %s", id)
			}
		}
	})
}
