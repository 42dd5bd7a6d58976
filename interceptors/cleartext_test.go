package interceptors

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// withNativeClearText makes a world in which policy.native_clear_text is pass.
func withNativeClearText(t *testing.T, mode e2ee.Mode) *world {
	t.Helper()
	w := newWorld(t, mode)
	handlers, err := Handlers(Options{NativeClearText: true})
	if err != nil {
		t.Fatal(err)
	}
	w.handlers = handlers
	return w
}

// policy.native_clear_text: pass is for devices with keys of their own, and for no other.
func TestNativeClearText(t *testing.T) {
	t.Parallel()
	in := func(handler, path, body string) call {
		return call{
			handler: handler, method: http.MethodPost, pattern: "/rooms/{roomId}/" + path, body: body,
			params: map[string]string{"roomId": encryptedRoom.String(), "eventId": "$e"},
		}
	}
	const reason, leaves = `{"reason":"` + canary + `"}`, `{"membership":"leave","reason":"` + canary + `"}`
	for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeForeign, e2ee.ModeLost, e2ee.ModeNone, e2ee.ModeUnknown, e2ee.Mode(99)} {
		for name, c := range map[string]call{
			"a message": sendCall(encryptedRoom, "m.room.message", message), "one of which nothing is known": sendCall(unknownRoom, "m.room.message", message),
			"as state": stateCall(encryptedRoom, "m.room.message", "", message), "in a redaction": in(Redact, "redact/{eventId}", message),
			"as the reason of a redaction": in(Redact, "redact/{eventId}", reason), "on leaving": in(Leave, "leave", reason),
			"on coming in": in(Join, "join", reason), "on leaving, as state": stateCall(encryptedRoom, typeMember, alice.String(), leaves),
			"as what is looked for": searchCall(`,"filter":{"rooms":["` + encryptedRoom.String() + `"]}`),
		} {
			w := withNativeClearText(t, mode)
			_, err := w.do(c)
			if mode == e2ee.ModeForeign {
				if got := w.up.requests(); err != nil || len(got) != 1 || got[0].body != c.body {
					t.Errorf("%s: %v, upstream %+v", name, err, got)
				}
				continue
			}
			w.wantNoClearText()
		}
	}
}

// What a device with keys of its own encrypts passes without a question: its client loses
// nothing by the rule.
func TestNativeCiphertextAsksNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeForeign)
	w.dev.lookupErr = errors.New("nobody answers")
	body := ` {"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"theirs"} `
	for _, c := range []call{sendCall(encryptedRoom, "m.room.encrypted", body), postCall(unknownRoom, "m.room.encrypted", body)} {
		if _, err := w.do(c); err != nil {
			t.Error(err)
		}
	}
	for _, s := range w.up.requests() {
		if s.body != body || s.contentType != "application/x-of-the-client" {
			t.Errorf("upstream got %+v", s)
		}
	}
}

// The words a person reads.
func TestClearTextWords(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		mode   e2ee.Mode
		lookup error
		code   string
		says   []string
	}{
		{e2ee.ModeForeign, nil, apierr.CodeClearText, []string{"not sent", "is encrypted", "log in again"}},
		{e2ee.ModeLost, nil, apierr.CodeKeysLost, []string{"nothing was sent", "destroyed", "Log in again"}},
		{e2ee.ModeProxied, e2ee.ErrNotYetEncrypted, apierr.CodeClearText, []string{"not sent", "replaces", "Switch encryption on"}},
		{e2ee.ModeForeign, fmt.Errorf("x: %w", e2ee.ErrNotYetEncrypted), apierr.CodeClearText, []string{"replaces"}},
	} {
		w := newWorld(t, tt.mode)
		w.dev.lookupErr = tt.lookup
		_, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
		text := shown(t, err, http.StatusForbidden, tt.code).Public()
		for _, part := range tt.says {
			if !strings.Contains(text, part) {
				t.Errorf("%q does not say %q", text, part)
			}
		}
		w.wantNothingUpstream()
	}
}

// What the client of a device with keys of its own creates encrypted is known to be, for
// everybody, from the answer on. Nothing that it asks for is held back.
func TestForeignCreatesEncryptedRoom(t *testing.T) {
	t.Parallel()
	for body, noted := range map[string]bool{
		`{"initial_state":[{"type":"m.room.encryption","state_key":"","content":` + encryptionContent + `}]}`: true,
		`{"initial_state":[{"type":"m.room.encryption","content":{"algorithm":"m.new"}}]}`:                    false,
		`{"initial_state":[{"type":"m.room.name","content":{"name":"x"}}]}`:                                   false,
		`{}`: false,
	} {
		w := newWorld(t, e2ee.ModeForeign)
		w.up.respond = func(seen) (int, string) { return 200, `{"room_id":"` + plainRoom.String() + `"}` }
		if _, err := w.do(call{handler: CreateRoom, method: http.MethodPost, pattern: "/createRoom", body: body}); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if got := w.up.requests(); len(got) != 1 || got[0].body != body {
			t.Errorf("%s: upstream got %+v", body, got)
		}
		if got := w.devices.fact(plainRoom) == e2ee.RoomEncrypted; got != noted {
			t.Errorf("%s: noted %t", body, got)
		}
	}
}

// Messages among the state that a room begins with are refused for a device with keys of its
// own too, also behind an algorithm that is not known here, or in a body that can be read in
// two ways; unless policy.native_clear_text says otherwise.
func TestForeignCreatesRoomWithMessages(t *testing.T) {
	t.Parallel()
	said := `{"type":"m.room.message","content":` + message + `}`
	for _, body := range []string{
		`{"initial_state":[` + said + `]}`,
		`{"initial_state":[{"type":"m.room.encryption","content":{"algorithm":"m.new"}},` + said + `]}`,
		`{"initial_state":[],"initial_state":[` + said + `]}`,
	} {
		c := call{handler: CreateRoom, method: http.MethodPost, pattern: "/createRoom", body: body}
		w := newWorld(t, e2ee.ModeForeign)
		_, err := w.do(c)
		wantError(t, err, http.StatusBadRequest, apierr.CodeBadJSON)
		w.wantNothingUpstream()
		w = withNativeClearText(t, e2ee.ModeForeign)
		if _, err := w.do(c); err != nil || len(w.up.requests()) != 1 {
			t.Errorf("%s: %v", body, err)
		}
	}
}

const newRoomID = id.RoomID("!new:hs.example")

func upgradeCall(room id.RoomID) call {
	return call{
		handler: Upgrade, method: http.MethodPost, pattern: "/rooms/{roomId}/upgrade", body: `{"new_version":"11"}`,
		params: map[string]string{"roomId": room.String()}, query: "user_id=%40ghost%3Ahs.example&x=1",
	}
}

// The new room of an encrypted one is noted before its client hears of it, and encrypted
// with what encrypts the old one, in the client's name.
func TestUpgradeEncrypts(t *testing.T) {
	t.Parallel()
	for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeForeign, e2ee.ModeNone, e2ee.ModeLost, e2ee.ModeUnknown} {
		for _, refused := range []bool{false, true} {
			w := newWorld(t, mode)
			w.up.respond = func(s seen) (int, string) {
				switch {
				case s.method == http.MethodPost:
					return 200, `{"replacement_room":"` + newRoomID.String() + `"}`
				case s.method == http.MethodGet:
					return 404, `{"errcode":"M_NOT_FOUND"}`
				case refused:
					return 403, `{"errcode":"M_FORBIDDEN"}`
				}
				return 200, `{"event_id":"$e"}`
			}
			w.up.unknown = newRoomID
			rec, err := w.do(upgradeCall(encryptedRoom))
			if err != nil || rec.Code != 200 || !strings.Contains(rec.Body.String(), newRoomID.String()) {
				t.Errorf("mode %v: the client gets %d %s %v", mode, rec.Code, rec.Body, err)
			}
			got := w.up.requests()
			put := got[len(got)-1]
			if put.method != http.MethodPut || put.path != "/_matrix/client/v3/rooms/%21new:hs.example/state/m.room.encryption" ||
				put.body != encryptionContent || put.query != "user_id=%40ghost%3Ahs.example" {
				t.Errorf("mode %v: upstream got %+v", mode, got)
			}
			if notes := w.devices.notes; len(notes) == 0 || notes[0] != "must encrypt "+newRoomID.String() {
				t.Errorf("mode %v: the engine was told %q", mode, notes)
			}
			if known := w.devices.fact(newRoomID) == e2ee.RoomEncrypted; known == refused {
				t.Errorf("mode %v, refused %t: known as encrypted %t", mode, refused, known)
			}
		}
	}
}

// A plain room's upgrade passes; where it cannot be told what the room is, there is none.
func TestUpgradeOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	w.up.respond = func(seen) (int, string) { return 200, `{"replacement_room":"` + newRoomID.String() + `"}` }
	if _, err := w.do(upgradeCall(plainRoom)); err != nil || len(w.up.requests()) != 1 || len(w.devices.notes) != 0 {
		t.Errorf("got %v, upstream %+v, engine %v", err, w.up.requests(), w.devices.notes)
	}
	w = newWorld(t, e2ee.ModeProxied)
	w.dev.lookupErr = errors.New("nobody answers")
	_, err := w.do(upgradeCall(plainRoom))
	wantError(t, err, http.StatusServiceUnavailable, apierr.CodeCannotEncrypt)
	w.wantNothingUpstream()

	w = newWorld(t, e2ee.ModeProxied) // a room that must be encrypted and is not yet
	w.dev.lookupErr = e2ee.ErrNotYetEncrypted
	w.up.respond = func(s seen) (int, string) {
		if s.method == http.MethodPost {
			return 200, `{"replacement_room":"` + newRoomID.String() + `"}`
		}
		return 404, `{"errcode":"M_NOT_FOUND"}`
	}
	w.up.unknown = newRoomID
	if _, err := w.do(upgradeCall(plainRoom)); err != nil {
		t.Fatal(err)
	}
	if got := w.up.requests(); got[len(got)-1].body != `{"algorithm":"m.megolm.v1.aes-sha2"}` {
		t.Errorf("upstream got %+v", got)
	}
	if notes := w.devices.notes; len(notes) == 0 || notes[0] != "must encrypt "+newRoomID.String() {
		t.Errorf("the engine was told %q", notes)
	}
}
