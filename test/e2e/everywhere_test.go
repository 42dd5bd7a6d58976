package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// said is an event of a conversation, by what a plain client must find of it.
type said struct {
	event string
	text  string // stands in the clear event
	// gone: the event was redacted, and its text is nowhere.
	gone bool
}

// place is an endpoint at which a plain client meets events, and which of them it must show.
type place struct {
	method, path string
	body         any
	// shows are events whose texts must be in the answer.
	shows []said
}

// ciphers are what a plain client never meets: an encrypted event, its parts (a Megolm message
// begins with the byte 3), and the state that says that a room is encrypted.
func ciphers() []string {
	return []string{`"type":"m.room.encrypted"`, `"ciphertext":"Aw`, `"m.megolm.v1.aes-sha2"`, `"type":"m.room.encryption"`}
}

// alive returns the events that were not redacted.
func alive(all []said) []said {
	var out []said
	for _, s := range all {
		if !s.gone {
			out = append(out, s)
		}
	}
	return out
}

// placesOf are the endpoints that return events, for a room and a conversation in it that has
// a thread.
func placesOf(room, root, edited string, all []said) []place {
	v1 := func(v3 string) string {
		return strings.Replace(v3, "/_matrix/client/v3/", "/_matrix/client/v1/", 1)
	}
	in := func(format string, args ...string) string { return roomPath(room, format, args...) }
	whole := alive(all)
	out := []place{
		{path: "/_matrix/client/v3/sync?timeout=0&filter=" + url.QueryEscape(`{"room":{"timeline":{"limit":100}}}`), shows: whole},
		{path: "/_matrix/client/v3/sync?timeout=0&full_state=true&filter=" + url.QueryEscape(`{"room":{"timeline":{"limit":2}}}`)},
		{path: in("messages") + "?dir=b&limit=100", shows: whole},
		{path: in("messages") + "?dir=f&limit=100", shows: whole},
		{path: in("initialSync") + "?limit=100"},
		{path: "/_matrix/client/v3/initialSync?limit=100"},
		{path: "/_matrix/client/v3/events?timeout=0"},
		{path: "/_matrix/client/v3/notifications?limit=100"},
		{path: "/_matrix/client/v3/notifications?limit=100&only=highlight"},
		{path: in("state")},
		{path: in("members")},
		{path: v1(in("threads"))},
		{path: v1(in("relations/%s", root))},
		{path: v1(in("relations/%s/m.thread", root))},
		{path: v1(in("relations/%s/m.thread/m.room.message", root))},
		{path: v1(in("relations/%s/m.replace", edited))},
		{
			method: http.MethodPost, path: "/_matrix/client/v3/search",
			body: map[string]any{"search_categories": map[string]any{"room_events": map[string]any{"search_term": "hello"}}},
		},
	}
	for _, s := range all {
		one := []said{s}
		if s.gone {
			one = nil
		}
		out = append(out, place{path: in("event/%s", s.event), shows: one}, place{path: in("context/%s", s.event) + "?limit=6", shows: one})
	}
	return out
}

// readsEverywhere asks every endpoint that returns events. What the homeserver does not have, it
// need not answer; everything else is 200, shows what it must, and nothing encrypted.
func (c *curl) readsEverywhere(when string, hs *tesths.Homeserver, places []place, gone []string) {
	c.t.Helper()
	direct := tesths.Client{URL: hs.URL, Token: c.http.Token}
	for _, p := range places {
		method := p.method
		if method == "" {
			method = http.MethodGet
		}
		got, err := c.http.Do(c.t.Context(), method, p.path, p.body)
		if err != nil {
			c.t.Fatal(err)
		}
		where := fmt.Sprintf("%s, %s %s", when, method, path.Base(p.path))
		if got.Status != http.StatusOK {
			itself, err := direct.Do(c.t.Context(), method, p.path, p.body)
			if err != nil {
				c.t.Fatal(err)
			}
			if itself.Status == http.StatusOK || itself.Status != got.Status {
				c.t.Errorf("%s: %d %s, and the homeserver itself says %d", where, got.Status, got.Body, itself.Status)
			}
			continue
		}
		for _, cipher := range ciphers() {
			if at := strings.Index(string(got.Body), cipher); at >= 0 {
				c.t.Errorf("%s shows %s: …%s…", where, cipher, got.Body[max(0, at-200):min(len(got.Body), at+50)])
			}
		}
		for _, s := range p.shows {
			if !contains(got.Body, s.text) {
				c.t.Errorf("%s does not show %q", where, s.text)
			}
		}
		for _, text := range gone {
			if contains(got.Body, text) {
				c.t.Errorf("%s shows %q, which was redacted", where, text)
			}
		}
	}
}

// conversation is what Element says in it, of every kind of event that people send.
func conversation(alice *testpeer.Client, bob *curl, room string) (all []said, root, edited string) {
	add := func(event, text string) string {
		all = append(all, said{event: event, text: text})
		if m := bob.Await(room, testpeer.Where{"event_id": event, "decrypted": true}); !contains(m.Content, text) {
			bob.t.Errorf("the sync shows %s, want %q", m.Content, text)
		}
		return event
	}
	root = add(alice.SendText(room, "hello plain client"), "hello plain client")
	edited = add(alice.SendText(room, "first wording"), "first wording")
	add(alice.Edit(room, edited, "second wording"), "second wording")
	add(alice.Reply(room, root, "a reply to it"), "a reply to it")
	add(alice.Send(room, "m.room.message", inThread(root, bob.account.UserID, "said in the thread")), "said in the thread")
	alice.React(room, root, "👍")
	add(alice.Send(room, "org.matrix.msc3381.poll.start", map[string]any{
		"org.matrix.msc3381.poll.start": map[string]any{
			"question": map[string]any{"org.matrix.msc1767.text": "which colour"}, "kind": "org.matrix.msc3381.poll.disclosed", "max_selections": 1,
			"answers": []any{map[string]any{"id": "r", "org.matrix.msc1767.text": "red"}, map[string]any{"id": "b", "org.matrix.msc1767.text": "blue"}},
		},
		"org.matrix.msc1767.text": "which colour\n1. red\n2. blue",
	}), "which colour")
	poll := all[len(all)-1].event
	add(alice.Send(room, "org.matrix.msc3381.poll.response", map[string]any{
		"m.relates_to":                     map[string]any{"rel_type": "m.reference", "event_id": poll},
		"org.matrix.msc3381.poll.response": map[string]any{"answers": []string{"r"}},
	}), "org.matrix.msc3381.poll.response")
	add(alice.Send(room, "m.room.message", map[string]any{
		"msgtype": "m.location", "body": "at the harbour", "geo_uri": "geo:54.32,10.13",
	}), "at the harbour")
	add(alice.Send(room, "m.room.message", map[string]any{
		"msgtype": "m.emote", "body": "waves", "format": "org.matrix.custom.html", "formatted_body": "<b>waves</b>",
	}), "waves")
	add(alice.Send(room, "m.beacon", map[string]any{
		"m.relates_to": map[string]any{"rel_type": "m.reference", "event_id": root}, "m.ts": 1, "m.location": map[string]any{"uri": "geo:1,2", "description": "on the move"},
	}), "on the move")
	add(alice.Send(room, "m.call.invite", map[string]any{
		"call_id": "a call", "version": "1", "party_id": "x", "lifetime": 60000, "offer": map[string]any{"type": "offer", "sdp": "v=0 session"},
	}), "v=0 session")
	add(alice.Send(room, "m.room.message", map[string]any{
		"msgtype": "m.key.verification.request", "body": "asks to verify", "from_device": alice.DeviceID, "to": bob.account.UserID, "methods": []string{"m.sas.v1"},
	}), "asks to verify")
	add(alice.Send(room, "org.example.custom", map[string]any{"anything": "of another kind"}), "of another kind")
	picture := map[string]any{"mimetype": "image/png", "w": 640, "h": 480, "thumbnail_file": alice.UploadEncrypted("thumbnail", 4_000), "thumbnail_info": map[string]any{"mimetype": "image/png"}}
	add(alice.Send(room, "m.room.message", map[string]any{
		"msgtype": "m.image", "body": "holiday.png", "info": picture, "file": alice.UploadEncrypted("holiday.png", 50_000),
	}), "holiday.png")
	add(alice.Send(room, "m.room.message", map[string]any{
		"msgtype": "m.audio", "body": "voice.ogg", "info": map[string]any{"mimetype": "audio/ogg", "duration": 1000},
		"org.matrix.msc3245.voice": map[string]any{}, "file": alice.UploadEncrypted("voice.ogg", 30_000),
	}), "voice.ogg")
	add(alice.Send(room, "m.sticker", map[string]any{
		"body": "sticker.webp", "info": map[string]any{"mimetype": "image/webp"}, "file": alice.UploadEncrypted("sticker.webp", 20_000),
	}), "sticker.webp")
	add(alice.Send(room, "m.room.message", map[string]any{
		"msgtype": "m.file", "body": "report.pdf", "info": map[string]any{"mimetype": "application/pdf"}, "file": alice.UploadEncrypted("report.pdf", 60<<20),
	}), "report.pdf")
	gone := alice.SendText(room, "said by mistake")
	alice.Redact(room, gone)
	bob.Await(room, testpeer.Where{"event_id": gone, "redacted": true})
	all = append(all, said{event: gone, text: "said by mistake", gone: true})
	return all, root, edited
}

// opensFiles reads the messages with files again, and opens each file byte for byte.
func (c *curl) opensFiles(when, room string, all []said) {
	c.t.Helper()
	size := map[string]int{"holiday.png": 50_000, "voice.ogg": 30_000, "sticker.webp": 20_000, "report.pdf": 60 << 20}
	opened := 0
	for _, s := range all {
		if size[s.text] == 0 {
			continue
		}
		var event struct {
			Content struct {
				URL  string `json:"url"`
				File any    `json:"file"`
				Info struct {
					Thumbnail string `json:"thumbnail_url"`
				} `json:"info"`
			} `json:"content"`
		}
		c.call(http.MethodGet, roomPath(room, "event/%s", s.event), nil, &event)
		files := map[string][]byte{event.Content.URL: testpeer.Pattern(s.text, size[s.text])}
		if s.text == "holiday.png" {
			files[event.Content.Info.Thumbnail] = testpeer.Pattern("thumbnail", 4_000)
		}
		for uri, want := range files {
			got := c.raw(http.MethodGet, "/_matrix/client/v1/media/download/"+strings.TrimPrefix(uri, "mxc://"), nil)
			if got.StatusCode != http.StatusOK || sumOf(got.body) != sumOf(want) || event.Content.File != nil {
				c.t.Errorf("%s: %s is %d with %d bytes, want %d: %+v", when, s.text, got.StatusCode, len(got.body), len(want), event.Content)
			}
			opened++
		}
	}
	if opened != len(size)+1 {
		c.t.Errorf("%s: %d files were opened", when, opened)
	}
}

// written is what a plain client writes, of every kind of event that people send.
func written(bob *curl, room, root string, alice *testpeer.Client) []said {
	var all []said
	for _, e := range []struct {
		eventType, text string
		content         map[string]any
	}{
		{"m.room.message", "and in the thread", inThread(root, alice.UserID, "and in the thread")},
		{"m.room.message", "bows", map[string]any{"msgtype": "m.emote", "body": "bows"}},
		{"m.room.message", "at the lighthouse", map[string]any{"msgtype": "m.location", "body": "at the lighthouse", "geo_uri": "geo:54.32,10.13"}},
		{"org.matrix.msc3381.poll.start", "tea or coffee", map[string]any{
			"org.matrix.msc1767.text": "tea or coffee",
			"org.matrix.msc3381.poll.start": map[string]any{
				"question": map[string]any{"org.matrix.msc1767.text": "tea or coffee"}, "kind": "org.matrix.msc3381.poll.disclosed", "max_selections": 1,
				"answers": []any{map[string]any{"id": "t", "org.matrix.msc1767.text": "tea"}, map[string]any{"id": "c", "org.matrix.msc1767.text": "coffee"}},
			},
		}},
		{"m.call.hangup", "user_hangup", map[string]any{"call_id": "a call", "version": "1", "party_id": "y", "reason": "user_hangup"}},
		{"org.example.custom", "of some kind", map[string]any{"anything": "of some kind"}},
	} {
		all = append(all, said{event: bob.send(room, e.eventType, e.content), text: e.text})
	}
	return all
}

// A plain client never meets ciphertext: it reads the same conversation in clear through every
// endpoint that returns events, from a first sync, after a restart, and from a new device behind
// an empty database once that has recovered.
func TestConversationEverywhere(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := element(t, hs, testpeer.NodeHost(t), "alice")
		b := newAccount(t, hs, "bob")
		bob := loginCurl(t, proxy.URL, b, "BOB1")
		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		alice.AwaitMember(room, b.UserID, "join")
		bob.awaitInOrder()

		all, root, edited := conversation(alice, bob, room)
		var events, gone []string
		for _, s := range all {
			if s.gone {
				gone = append(gone, s.text)
			} else {
				events = append(events, s.event)
			}
		}
		for _, s := range written(bob, room, root, alice) {
			m := alice.AwaitDecrypted(room, s.event)
			if !contains(m.Content, s.text) || m.Shield == nil || m.Shield.Colour != "NONE" {
				t.Errorf("Element sees %s, shield %+v, want %q with no shield", m.Content, m.Shield, s.text)
			}
			wantStoredEncrypted(t, hs, b, room, s.event)
			all, events = append(all, s), append(events, s.event)
		}
		places := placesOf(room, root, edited, all)
		bob.readsEverywhere("at first", hs, places, gone)
		bob.opensFiles("at first", room, all)

		if err := proxy.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := proxy.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		bob.readsEverywhere("after a restart", hs, places, gone)
		bob.opensFiles("after a restart", room, all)

		awaitBackedUp(t, hs, bob, room, events...)
		bob2 := recoverElsewhere(t, hs, bob, alice.RecoveryKey, room)
		bob2.readsEverywhere("from an empty database", hs, places, gone)
		bob2.opensFiles("from an empty database", room, all)
	})
}
