package interceptors

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

func TestCreateRoom(t *testing.T) {
	t.Parallel()
	const room = "!new:hs.example"
	self := "join " + alice.String() + " " + room
	for _, tt := range []struct {
		name, body, answer string
		mode               e2ee.Mode
		want               []string
	}{
		{name: "encrypted, with invites", mode: e2ee.ModeProxied,
			body: `{"invite":["@bob:hs.example","nobody",7],"initial_state":[{"type":"m.room.encryption","content":` + encryptionContent + `},
				{"type":"m.room.history_visibility","state_key":"","content":{"history_visibility":"invited"}}]}`,
			want: []string{"encryption " + room + " " + encryptionContent, "visibility invited " + room, self, "invite " + bob.String() + " " + room}},
		{name: "not said", mode: e2ee.ModeProxied, body: `{"preset":"private_chat","is_direct":true}`, want: []string{self}},
		{name: "another state key", mode: e2ee.ModeProxied, body: `{"initial_state":[{"type":"m.room.encryption","state_key":"x","content":{}}]}`, want: []string{self}},
		{name: "no room in the answer", mode: e2ee.ModeProxied, body: `{}`, answer: `{"room_id":"new"}`},
		{name: "foreign", mode: e2ee.ModeForeign, body: `{"initial_state":[{"type":"m.room.encryption","content":{"algorithm":"m.new"}}]}`},
		{name: "no device", mode: e2ee.ModeNone, body: `{"invite":["@bob:hs.example"]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.mode)
			w.up.respond = func(seen) (int, string) {
				if tt.answer != "" {
					return 200, tt.answer
				}
				return 200, `{"room_id":"` + room + `"}`
			}
			rec, err := w.do(call{handler: CreateRoom, method: http.MethodPost, pattern: "/createRoom", body: tt.body})
			if err != nil || rec.Code != http.StatusOK {
				t.Fatalf("got %d %v", rec.Code, err)
			}
			if got := w.up.requests(); len(got) != 1 || got[0].body != tt.body {
				t.Errorf("upstream got %+v", got)
			}
			if diff := cmp.Diff(tt.want, w.dev.noted()); diff != "" {
				t.Errorf("engine (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCreateRoomRefused(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		``:   apierr.CodeNotJSON,
		`{`:  apierr.CodeNotJSON,
		`[]`: apierr.CodeBadJSON,
		`{"initial_state":[],"initial_state":[{"type":"m.room.encryption"}]}`: apierr.CodeBadJSON,
		`{"initial_state":["x"]}`:                                                                                  apierr.CodeBadJSON,
		`{"initial_state":[{"type":"m.room.encryption"}]}`:                                                         apierr.CodeCannotEncrypt,
		`{"initial_state":[{"type":"m.room.encryption","content":{"algorithm":"m.new"}}]}`:                         apierr.CodeCannotEncrypt,
		`{"initial_state":[{"type":"m.room.encryption","content":{"algorithm":"m.megolm.v1.aes-sha2","a":{}}},{}]`: apierr.CodeNotJSON,
	} {
		w := newWorld(t, e2ee.ModeProxied)
		_, err := w.do(call{handler: CreateRoom, method: http.MethodPost, pattern: "/createRoom", body: body})
		if e, ok := errors.AsType[*apierr.Error](err); !ok || e.ErrCode != want {
			t.Errorf("%s: got %v, want %s", body, err, want)
		}
		w.wantNothingUpstream()
	}
}

// The first send into a room created encrypted is encrypted, before any sync.
func TestSendIntoCreatedRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	w.up.respond = func(seen) (int, string) { return 200, `{"room_id":"` + plainRoom.String() + `","event_id":"$e"}` }
	body := `{"initial_state":[{"type":"m.room.encryption","state_key":"","content":` + encryptionContent + `}]}`
	if _, err := w.do(call{handler: CreateRoom, method: http.MethodPost, pattern: "/createRoom", body: body}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.do(sendCall(plainRoom, "m.room.message", message)); err != nil {
		t.Fatal(err)
	}
	w.wantNoClearText()
}

func TestMemberships(t *testing.T) {
	t.Parallel()
	inRoom := map[string]string{"roomId": encryptedRoom.String()}
	self, other, room := alice.String(), `{"user_id":"@bob:hs.example","reason":"r"}`, " "+encryptedRoom.String()
	for _, tt := range []struct {
		handler, pattern string
		params           map[string]string
		body, answer     string
		want             []string
	}{
		// an invite's 200 is enough (requirement 7.6)
		{Invite, "/rooms/{roomId}/invite", inRoom, other, `{}`, []string{"invite " + bob.String() + room}},
		{Invite, "/rooms/{roomId}/invite", inRoom, `{"medium":"email","address":"b@x","id_server":"x"}`, `{}`, nil},
		{Kick, "/rooms/{roomId}/kick", inRoom, other, `{}`, []string{"leave " + bob.String() + room}},
		{Ban, "/rooms/{roomId}/ban", inRoom, other, `{}`, []string{"ban " + bob.String() + room}},
		{Unban, "/rooms/{roomId}/unban", inRoom, other, `{}`, []string{"leave " + bob.String() + room}},
		{Join, "/rooms/{roomId}/join", inRoom, ``, `{"room_id":"!encrypted:hs.example"}`, []string{"join " + self + room}},
		{Join, "/rooms/{roomId}/join", inRoom, ` `, `{}`, []string{"join " + self + room}},
		{JoinByAlias, "/join/{roomIdOrAlias}", map[string]string{"roomIdOrAlias": "#a:x"}, `{}`, `{"room_id":"!encrypted:hs.example"}`, []string{"join " + self + room}},
		{JoinByAlias, "/join/{roomIdOrAlias}", map[string]string{"roomIdOrAlias": encryptedRoom.String()}, `{}`, `{}`, []string{"join " + self + room}},
		{JoinByAlias, "/join/{roomIdOrAlias}", map[string]string{"roomIdOrAlias": "#a:x"}, `{}`, `{}`, nil},
		{Knock, "/knock/{roomIdOrAlias}", map[string]string{"roomIdOrAlias": "#a:x"}, `{}`, `{"room_id":"!encrypted:hs.example"}`, []string{"knock " + self + room}},
		{Leave, "/rooms/{roomId}/leave", inRoom, ``, `{}`, []string{"leave " + self + room}},
		{Forget, "/rooms/{roomId}/forget", inRoom, ``, `{}`, []string{"leave " + self + room}},
	} {
		c := call{handler: tt.handler, method: http.MethodPost, pattern: tt.pattern, params: tt.params, body: tt.body}
		for _, status := range []int{200, 403} {
			for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeForeign, e2ee.ModeNone} {
				w := newWorld(t, mode)
				w.up.respond = func(seen) (int, string) { return status, tt.answer }
				rec, err := w.do(c)
				if err != nil || rec.Code != status || rec.Body.String() != tt.answer {
					t.Errorf("%s: got %d %s %v", tt.handler, rec.Code, rec.Body, err)
				}
				if got := w.up.requests(); len(got) != 1 || got[0].body != tt.body || got[0].contentType != "application/x-of-the-client" {
					t.Errorf("%s: upstream got %+v", tt.handler, got)
				}
				want := tt.want
				if status != 200 || mode != e2ee.ModeProxied {
					want = nil
				}
				if diff := cmp.Diff(want, w.dev.noted()); diff != "" {
					t.Errorf("%s: engine (-want +got):\n%s", tt.handler, diff)
				}
			}
		}
	}
}

// shoutrrr joins with null for a body. Dendrite fails at that; Synapse takes it for nothing.
// Expected: the homeserver is sent an object that says nothing, wherever a body may be left out.
func TestNullForABody(t *testing.T) {
	t.Parallel()
	inRoom := map[string]string{"roomId": encryptedRoom.String(), "eventId": "$e", "txnId": "1"}
	for _, c := range []call{
		{handler: Join, method: http.MethodPost, pattern: "/rooms/{roomId}/join", params: inRoom, body: `null`},
		{handler: Leave, method: http.MethodPost, pattern: "/rooms/{roomId}/leave", params: inRoom, body: ` null `},
		{handler: Redact, method: http.MethodPut, pattern: "/rooms/{roomId}/redact/{eventId}/{txnId}", params: inRoom, body: `null`},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		if _, err := w.do(c); err != nil {
			t.Errorf("%s: %v", c.handler, err)
		}
		if got := w.up.requests(); len(got) != 1 || got[0].body != `{}` {
			t.Errorf("%s: upstream got %+v", c.handler, got)
		}
	}
	for _, c := range []call{
		sendCall(encryptedRoom, "m.room.message", `null`),
		{handler: Kick, method: http.MethodPost, pattern: "/rooms/{roomId}/kick", params: inRoom, body: `null`},
	} {
		w := newWorld(t, e2ee.ModeProxied)
		if _, err := w.do(c); err == nil || len(w.up.requests()) != 0 {
			t.Errorf("%s: where a body is needed: %v, %+v", c.handler, err, w.up.requests())
		}
	}
}

// What the homeserver accepted is recorded although the client has gone, and not being
// able to record it is no success.
func TestMembershipIsRecorded(t *testing.T) {
	t.Parallel()
	c := call{
		handler: Kick, method: http.MethodPost, pattern: "/rooms/{roomId}/kick",
		params: map[string]string{"roomId": encryptedRoom.String()}, body: `{"user_id":"@bob:hs.example"}`,
	}
	w := newWorld(t, e2ee.ModeProxied)
	ctx, cancel := context.WithCancel(t.Context())
	w.up.respond = func(seen) (int, string) { cancel(); return 200, `{}` }
	gone := c
	gone.ctx = ctx
	if _, err := w.do(gone); err != nil {
		t.Errorf("client gone: %v", err)
	}
	w.dev.noteErr = errors.New("disk full")
	if _, err := w.do(c); err == nil {
		t.Error("a departure that was not recorded is reported as done")
	}
	for _, body := range []string{``, `[]`, `{"user_id":"@a:x","user_id":"@b:x"}`} {
		w := newWorld(t, e2ee.ModeProxied)
		bad := c
		bad.body = body
		if _, err := w.do(bad); err == nil {
			t.Errorf("%q passed", body)
		}
		w.wantNothingUpstream()
	}
}
