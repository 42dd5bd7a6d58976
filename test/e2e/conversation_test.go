package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

func contains(raw []byte, text string) bool { return bytes.Contains(raw, []byte(text)) }

// element opens an Element peer with an identity of its own, straight at the homeserver.
func element(t *testing.T, hs *tesths.Homeserver, host *testpeer.Host, name string) *testpeer.Client {
	t.Helper()
	a := newAccount(t, hs, name)
	return host.Element(t, testpeer.Options{URL: hs.URL, User: a.UserID, Password: a.Password, Setup: testpeer.Bootstrap})
}

// aliceAndBob returns an encrypted room, with alice, who has Element's crypto, and bob behind a
// proxy, whose first sync is seen.
func aliceAndBob(t *testing.T, hs *tesths.Homeserver) (alice *testpeer.Client, bob *curl, room string) {
	t.Helper()
	proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
	alice = element(t, hs, testpeer.NodeHost(t), "alice")
	b := newAccount(t, hs, "bob")
	bob = loginCurl(t, proxy.URL, b, "BOB")
	room = alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
	bob.AwaitRoom(room, "invite")
	bob.Join(room)
	alice.AwaitMember(room, b.UserID, "join")
	bob.awaitInOrder()
	return alice, bob, room
}

// bobAndCarol returns a room that is not encrypted yet, with two behind a proxy.
func bobAndCarol(t *testing.T, hs *tesths.Homeserver) (bob, carol *curl, room string) {
	t.Helper()
	proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
	b, c := newAccount(t, hs, "bob"), newAccount(t, hs, "carol")
	bob, carol = loginCurl(t, proxy.URL, b, "BOB"), loginCurl(t, proxy.URL, c, "CAROL")
	bob.awaitInOrder()
	carol.awaitInOrder()
	var made struct {
		RoomID string `json:"room_id"`
	}
	bob.call(http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{"invite": []string{c.UserID}, "preset": "private_chat"}, &made)
	carol.AwaitRoom(made.RoomID, "invite")
	carol.Join(made.RoomID)
	return bob, carol, made.RoomID
}

// wantClean fails unless the peer read the message with no shield.
func wantClean(t *testing.T, m testpeer.Message, body string) {
	t.Helper()
	if m.Body != body || !m.Decrypted || m.Shield == nil || m.Shield.Colour != "NONE" {
		t.Errorf("the peer sees %q, decrypted %v, failure %q, shield %+v; want %q with no shield", m.Body, m.Decrypted, m.Failure, m.Shield, body)
	}
}

// wantStoredEncrypted fails unless the homeserver has only ciphertext of these events.
func wantStoredEncrypted(t *testing.T, hs *tesths.Homeserver, as tesths.Account, room string, events ...string) {
	t.Helper()
	for _, id := range events {
		stored, err := hs.Client().As(as).Event(t.Context(), room, id)
		if err != nil {
			t.Fatal(err)
		}
		var content map[string]json.RawMessage
		if err := json.Unmarshal(stored.Content, &content); err != nil {
			t.Fatal(err)
		}
		if stored.Type != "m.room.encrypted" || content["ciphertext"] == nil || content["body"] != nil {
			t.Errorf("the homeserver stores %s", stored.Raw)
		}
	}
}

// A plain client logs in through the proxy with its password, and talks both ways with an
// Element peer that excludes insecure devices: text, reply, edit, reaction, redaction. The
// peer sees no shield; the homeserver has ciphertext only.
func TestConversation(t *testing.T) {
	t.Parallel()
	plain := map[string]func(t *testing.T, url string, a tesths.Account) talker{
		"curl": func(t *testing.T, url string, a tesths.Account) talker { return loginCurl(t, url, a, "") },
		"matrix-js-sdk": func(t *testing.T, url string, a tesths.Account) talker {
			return testpeer.PlainJS(t, testpeer.Options{URL: url, User: a.UserID, Password: a.Password})
		},
		"matrix-nio": func(t *testing.T, url string, a tesths.Account) talker {
			return testpeer.Nio(t, testpeer.Options{URL: url, User: a.UserID, Password: a.Password})
		},
	}
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		host := testpeer.NodeHost(t)
		for name, open := range plain {
			t.Run(name, func(t *testing.T) {
				bot := newAccount(t, hs, "bot")
				converse(t, hs, element(t, hs, host, "alice"), open(t, proxy.URL, bot), bot)
			})
		}
	})
}

func converse(t *testing.T, hs *tesths.Homeserver, alice *testpeer.Client, bob talker, bot tesths.Account) {
	room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{bot.UserID}})
	bob.AwaitRoom(room, "invite")
	bob.Join(room)
	alice.AwaitMember(room, bot.UserID, "join")

	hello := bob.SendText(room, "hello from a plain client")
	wantClean(t, alice.AwaitDecrypted(room, hello), "hello from a plain client")

	question := alice.SendText(room, "do you read me?")
	if got := bob.Await(room, testpeer.Where{"event_id": question, "body": "do you read me?"}); got.Type != "m.room.message" {
		t.Errorf("the plain client sees type %s", got.Type)
	}
	reply := bob.Reply(room, question, "loud and cleer")
	wantClean(t, alice.AwaitDecrypted(room, reply), "loud and cleer")
	edit := bob.Edit(room, reply, "loud and clear")
	got := alice.Await(room, testpeer.Where{"event_id": reply, "edited": edit})
	wantClean(t, got, "loud and clear")
	aliceReply := alice.Reply(room, hello, "good")
	bob.Await(room, testpeer.Where{"event_id": aliceReply, "relates_to": hello, "body": "good"})
	aliceEdit := alice.Edit(room, question, "did you read me?")
	bob.Await(room, testpeer.Where{"rel_type": "m.replace", "relates_to": question})

	bob.React(room, question, "👍")
	alice.Await(room, testpeer.Where{"rel_type": "m.annotation", "relates_to": question, "key": "👍"})
	alice.React(room, hello, "🎉")
	bob.Await(room, testpeer.Where{"rel_type": "m.annotation", "relates_to": hello, "key": "🎉"})

	gone := bob.SendText(room, "said too much")
	alice.AwaitDecrypted(room, gone)
	wantStoredEncrypted(t, hs, bot, room, hello, question, reply, edit, aliceReply, aliceEdit, gone)
	bob.Redact(room, gone)
	alice.Await(room, testpeer.Where{"event_id": gone, "redacted": true})
	alice.Redact(room, aliceReply)
	bob.Await(room, testpeer.Where{"event_id": aliceReply, "redacted": true})
}
