package interceptors

import (
	"net/http"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// messagesAsState returns types of messages, and types of state that look like a message.
func messagesAsState() (messages, state []string) {
	return []string{
			"m.room.message", "m.sticker", "m.reaction", "m.room.redaction", "m.room.encrypted", "m.poll.start", "org.matrix.msc3381.poll.response",
			"m.call.invite", "m.call.candidates", "m.call.notify", "org.matrix.call.asserted_identity", "m.beacon", "org.matrix.msc3672.beacon",
			"m.location", "org.matrix.msc3488.location", "m.message", "m.image", "m.voice", "org.matrix.msc1767.message", "m.key.verification.request",
		}, []string{
			"m.room.topic", "m.call.member", "org.matrix.msc3401.call.member", "m.beacon_info", "org.matrix.msc3672.beacon_info", "m.call", "org.example.message",
		}
}

// Attack vector: clear text goes into an encrypted room as a state event, which is not
// encrypted, under a type that clients show as a message: a call's offer, a place on the
// map, a poll, an event of MSC1767. Whoever sends it need not know that it is no state.
//
// Expected: refused, with words that say how it can be sent, wherever the room is not known
// to be plain, whatever the state key; what is state passes.
func TestMessagesDoNotPassAsState(t *testing.T) {
	t.Parallel()
	messages, state := messagesAsState()
	for _, eventType := range messages {
		for _, room := range []id.RoomID{encryptedRoom, unsupportedRoom, unknownRoom} {
			for _, key := range []string{"", alice.String()} {
				for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeNone, e2ee.ModeForeign, e2ee.ModeLost, e2ee.ModeUnknown} {
					if mode == e2ee.ModeForeign && eventType == typeEncrypted {
						continue // its client made it
					}
					w := newWorld(t, mode)
					_, err := w.do(stateCall(room, eventType, key, message))
					if room == unknownRoom && mode == e2ee.ModeNone {
						wantError(t, err, http.StatusServiceUnavailable, apierr.CodeCannotEncrypt)
					} else if e := shown(t, err, http.StatusBadRequest, apierr.CodeBadJSON); e.Hint == "" {
						t.Errorf("%s: the refusal does not say what to do", eventType)
					}
					w.wantNothingUpstream()
				}
			}
		}
		w := newWorld(t, e2ee.ModeProxied)
		if _, err := w.do(stateCall(plainRoom, eventType, "", `{}`)); err != nil {
			t.Errorf("%s in a plain room: %v", eventType, err)
		}
	}
	for _, eventType := range state {
		w := newWorld(t, e2ee.ModeProxied)
		if _, err := w.do(stateCall(encryptedRoom, eventType, "", `{"x":1}`)); err != nil {
			t.Errorf("%s: %v", eventType, err)
		}
	}
}

// Attack vector: the same, among the state that a new room begins with.
//
// Expected: refused, whether or not the body says that the room is encrypted: homeservers
// encrypt rooms by themselves too.
func TestMessagesDoNotPassInInitialState(t *testing.T) {
	t.Parallel()
	messages, state := messagesAsState()
	create := func(mode e2ee.Mode, eventType, more string) (*world, error) {
		w := newWorld(t, mode)
		w.up.respond = func(seen) (int, string) { return 200, `{"room_id":"!new:hs.example"}` }
		_, err := w.do(call{handler: CreateRoom, method: http.MethodPost, pattern: "/createRoom",
			body: `{"initial_state":[{"type":"` + eventType + `","state_key":"k","content":` + message + `}` + more + `]}`})
		return w, err
	}
	for _, eventType := range messages {
		for _, more := range []string{"", `,{"type":"m.room.encryption","content":` + encryptionContent + `}`} {
			for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeNone, e2ee.ModeForeign, e2ee.ModeLost} {
				w, err := create(mode, eventType, more)
				wantError(t, err, http.StatusBadRequest, apierr.CodeBadJSON)
				w.wantNothingUpstream()
			}
		}
	}
	for _, eventType := range state {
		if _, err := create(e2ee.ModeProxied, eventType, ""); err != nil {
			t.Errorf("%s: %v", eventType, err)
		}
	}
}

// Attack vector: what somebody says on leaving an encrypted room, or on coming into it, goes
// in clear as the reason of the membership. People of IRC say something there.
//
// Expected: the homeserver gets the membership without it, by the endpoint and as state,
// where the room is not known to be plain. What is said to somebody who has no key (who is
// invited, removed, or knocks) passes.
func TestReasonsOfMembership(t *testing.T) {
	t.Parallel()
	const said, none = `{"reason":"` + canary + `"}`, `{}`
	membership := func(handler, path string, room id.RoomID) call {
		c := call{handler: handler, method: http.MethodPost, pattern: "/rooms/{roomId}/" + path, body: said, params: map[string]string{"roomId": room.String()}}
		if path == "" {
			c.pattern, c.params = "/"+handler+"/{roomIdOrAlias}", map[string]string{"roomIdOrAlias": room.String()}
			if handler == JoinByAlias {
				c.pattern = "/join/{roomIdOrAlias}"
			}
		}
		return c
	}
	member := func(room id.RoomID, user id.UserID, membership string) call {
		return stateCall(room, typeMember, user.String(), `{"membership":"`+membership+`","reason":"`+canary+`"}`)
	}
	for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeNone, e2ee.ModeForeign, e2ee.ModeLost} {
		for _, tt := range []struct {
			c    call
			want string
		}{
			{membership(Leave, "leave", encryptedRoom), none},
			{membership(Leave, "leave", unsupportedRoom), none},
			{membership(Leave, "leave", unknownRoom), none},
			{membership(Leave, "leave", plainRoom), said},
			{membership(Join, "join", encryptedRoom), none},
			{membership(JoinByAlias, "", encryptedRoom), none},
			{membership(JoinByAlias, "", plainRoom), said},
			{membership(JoinByAlias, "", "#alias:hs.example"), none},
			{membership(Knock, "", encryptedRoom), said},
			{member(encryptedRoom, alice, "leave"), `{"membership":"leave"}`},
			{member(encryptedRoom, alice, "join"), `{"membership":"join"}`},
			{member(plainRoom, alice, "leave"), `{"membership":"leave","reason":"` + canary + `"}`},
			{member(encryptedRoom, alice, "knock"), `{"membership":"knock","reason":"` + canary + `"}`},
			{member(encryptedRoom, bob, "ban"), `{"membership":"ban","reason":"` + canary + `"}`},
		} {
			w := newWorld(t, mode)
			if _, err := w.do(tt.c); err != nil {
				t.Errorf("%s %v: %v", tt.c.handler, tt.c.params, err)
			}
			if got := w.up.requests(); len(got) != 1 || got[0].body != tt.want {
				t.Errorf("%s %v: the homeserver got %+v, want %s", tt.c.handler, tt.c.params, got, tt.want)
			}
		}
		for handler, path := range map[string]string{Kick: "kick", Ban: "ban", Unban: "unban", Invite: "invite"} {
			w := newWorld(t, mode)
			c := membership(handler, path, encryptedRoom)
			c.body = `{"user_id":"` + bob.String() + `","reason":"` + canary + `"}`
			if _, err := w.do(c); err != nil {
				t.Errorf("%s: %v", handler, err)
			}
			if got := w.up.requests(); len(got) != 1 || got[0].body != c.body {
				t.Errorf("%s: the homeserver got %+v", handler, got)
			}
		}
	}
}
