package e2e

import (
	"net/http"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// sentEvent is an event of some type.
type sentEvent struct {
	eventType string
	content   map[string]any
}

// allTypes are events of every sort that clients encrypt, about another event.
func allTypes(about string) []sentEvent {
	call := func(more map[string]any) map[string]any {
		more["call_id"], more["party_id"], more["version"] = "c1", "p1", "1"
		return more
	}
	reference := func(more map[string]any) map[string]any {
		more["m.relates_to"] = map[string]any{"rel_type": "m.reference", "event_id": about}
		return more
	}
	words := []any{map[string]any{"body": "which?"}}
	poll := map[string]any{"question": map[string]any{"m.text": words}, "max_selections": 1, "answers": []any{map[string]any{"m.id": "a", "m.text": words}}}
	return []sentEvent{
		{"m.call.invite", call(map[string]any{"lifetime": 1, "offer": map[string]any{"type": "offer", "sdp": "v=0"}})},
		{"m.call.candidates", call(map[string]any{"candidates": []any{}})},
		{"m.call.answer", call(map[string]any{"answer": map[string]any{"type": "answer", "sdp": "v=0"}})},
		{"m.call.select_answer", call(map[string]any{"selected_party_id": "p2"})},
		{"m.call.negotiate", call(map[string]any{"lifetime": 1, "description": map[string]any{"type": "offer", "sdp": "v=0"}})},
		{"m.call.sdp_stream_metadata_changed", call(map[string]any{"sdp_stream_metadata": map[string]any{}})},
		{"m.call.reject", call(map[string]any{})},
		{"m.call.hangup", call(map[string]any{"reason": "user_hangup"})},
		{"org.matrix.msc4075.rtc.notification", reference(map[string]any{"notification_type": "ring", "sender_ts": 1, "lifetime": 1})},
		{"m.poll.start", map[string]any{"m.poll": poll, "m.text": words}},
		{"m.poll.response", reference(map[string]any{"m.selections": []any{"a"}})},
		{"m.poll.end", reference(map[string]any{"m.text": words, "m.poll.results": map[string]any{"a": 1}})},
		{"org.matrix.msc3381.poll.start", map[string]any{"org.matrix.msc3381.poll.start": map[string]any{"question": map[string]any{"body": "which?"}}}},
		{"org.matrix.msc3381.poll.response", reference(map[string]any{"org.matrix.msc3381.poll.response": map[string]any{"answers": []any{"a"}}})},
		{"org.matrix.msc3381.poll.end", reference(map[string]any{"org.matrix.msc3381.poll.end": map[string]any{}})},
		{"m.beacon", reference(map[string]any{"m.location": map[string]any{"uri": "geo:1,2"}, "m.ts": 1})},
		{"org.matrix.msc3672.beacon", reference(map[string]any{"org.matrix.msc3488.location": map[string]any{"uri": "geo:1,2"}})},
		{"m.sticker", map[string]any{"body": "a sticker", "url": "mxc://x/y", "info": map[string]any{"w": 1, "h": 1}}},
		{"m.room.message", map[string]any{"msgtype": "m.location", "body": "here", "geo_uri": "geo:1,2"}},
		{"m.room.message", map[string]any{"msgtype": "m.emote", "body": "waves"}},
		{"m.room.message", map[string]any{"msgtype": "org.example.kind", "body": "who knows"}},
		{"m.room.message", map[string]any{"msgtype": "m.key.verification.request", "body": "asks", "from_device": "NONE", "methods": []any{"m.sas.v1"}, "to": "@nobody:hs.test"}},
		{"m.key.verification.cancel", reference(map[string]any{"code": "m.user", "reason": "no"})},
		{"m.key.verification.ready", reference(map[string]any{"from_device": "NONE", "methods": []any{"m.sas.v1"}})},
		{"m.key.verification.done", reference(map[string]any{})},
		{"org.example.custom", map[string]any{"nested": map[string]any{"list": []any{1, "two", nil, true}}}},
		{"com.example.with.dots and blanks", map[string]any{"x": "ü\u2028"}},
	}
}

// Issue 8, Part 3: events of all types come through, in both directions: calls, polls,
// beacons, stickers, verification in rooms, and types that nobody has heard of.
func TestAllTypesOfEventsComeThrough(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		alice, bob, room := aliceAndBob(t, hs)
		about := alice.SendText(room, "something")
		bob.Await(room, testpeer.Where{"event_id": about})

		for _, ev := range allTypes(about) {
			id := alice.Send(room, ev.eventType, ev.content)
			got := bob.Await(room, testpeer.Where{"event_id": id, "decrypted": true})
			if got.Type != ev.eventType {
				t.Errorf("bob is shown %s as %s: %s", ev.eventType, got.Type, got.Content)
			}
			wantJSON(t, "bob is shown "+ev.eventType, ev.content, got.Content)
		}
		for _, ev := range allTypes(about) {
			if ev.content["url"] != nil {
				continue // its file is not encrypted: see clear-text.md
			}
			id := bob.send(room, ev.eventType, ev.content)
			got := alice.AwaitDecrypted(room, id)
			if got.Type != ev.eventType || got.WireType != "m.room.encrypted" {
				t.Errorf("alice is shown %s as %s in %s", ev.eventType, got.Type, got.WireType)
			}
			wantJSON(t, "alice is shown "+ev.eventType, ev.content, got.Content)
		}
		// State is never encrypted: what tells of live locations and calls comes as it is.
		beacon := map[string]any{"live": true, "timeout": 1, "m.ts": 1, "m.asset": map[string]any{"type": "m.self"}}
		alice.SetState(room, "m.beacon_info", alice.UserID, beacon)
		wantJSON(t, "bob is shown the state", beacon, bob.Await(room, testpeer.Where{"type": "m.beacon_info"}).Content)
	})
}

// Issue 8, Part 3: a device that is not cross-signed says with m.room_key.withheld why it gives
// no key, and a client is told; the to-device message itself is none of its business.
func TestWithheldKeysAreSaid(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{Config: "clients:\n  undecryptable: placeholder\n"})
		host := testpeer.NodeHost(t)
		alice := element(t, hs, host, "alice")
		b := newAccount(t, hs, "bob")
		// Bob has an identity elsewhere, so his device behind the proxy is not signed.
		host.Element(t, testpeer.Options{URL: hs.URL, User: b.UserID, Password: b.Password, Setup: testpeer.Bootstrap})
		bob := loginCurl(t, proxy.URL, b, "BOB")
		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{b.UserID}})
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		alice.AwaitMember(room, b.UserID, "join")
		alice.AwaitDevice(b.UserID, "BOB", false)
		secret := alice.SendText(room, "not for devices that are not signed")
		bob.Await(room, testpeer.Where{"event_id": secret})
		// The reason may come after the message: then it stands where the message is read again.
		bob.until("why there is no key", func() bool {
			bob.call(http.MethodGet, roomPath(room, "event/%s", secret), nil, nil)
			return bob.saw(`"code":"Withheld"`)
		})
		if got := bob.Await(room, testpeer.Where{"event_id": secret}); got.Type != "m.room.message" || got.Body == "" {
			t.Errorf("bob is shown %+v", got)
		}
		if bob.saw("not for devices") || bob.saw("m.room_key.withheld") {
			t.Error("bob saw what he must not")
		}
	})
}
