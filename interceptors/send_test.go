package interceptors

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// sendCall returns a send by PUT.
func sendCall(room id.RoomID, eventType, body string) call {
	return call{
		handler: Send, method: http.MethodPut, pattern: "/rooms/{roomId}/send/{eventType}/{txnId}", body: body,
		params: map[string]string{"roomId": room.String(), "eventType": eventType, "txnId": "t/1"},
	}
}

// postCall returns the same without a transaction ID.
func postCall(room id.RoomID, eventType, body string) call {
	c := sendCall(room, eventType, body)
	c.method, c.pattern = http.MethodPost, "/rooms/{roomId}/send/{eventType}"
	delete(c.params, "txnId")
	return c
}

const message = `{"msgtype":"m.text","body":"` + canary + `"}`

func TestSendEncrypts(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v3", "r0", "v1", "unstable", "api/v1"} {
		w := newWorld(t, e2ee.ModeProxied)
		c := sendCall(encryptedRoom, "m.room.message", message)
		c.version, c.query = version, "ts=12&org.matrix.msc4140.delay=5"
		w.up.versions = `{"unstable_features":{"org.matrix.msc4140":true}}`
		rec, err := w.do(c)
		if err != nil {
			t.Fatal(err)
		}
		want := []seen{{
			http.MethodPut, "/_matrix/client/" + version + "/rooms/%21encrypted:hs.example/send/m.room.encrypted/t%2F1",
			c.query, `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"sealed1","session_id":"s"}`, "application/json",
		}}
		if diff := cmp.Diff(want, w.up.requests(), cmp.AllowUnexported(seen{})); diff != "" {
			t.Errorf("upstream (-want +got):\n%s", diff)
		}
		if rec.Code != http.StatusOK || rec.Body.String() != `{"event_id":"$event"}` {
			t.Errorf("the client got %d %s", rec.Code, rec.Body)
		}
		if diff := cmp.Diff([]string{"sent m.room.message $event"}, w.dev.noted()); diff != "" {
			t.Errorf("engine (-want +got):\n%s", diff)
		}
	}
}

// POST …/send/{type} reaches homeservers too (attack N7): it becomes a PUT with a
// transaction ID that is not used twice.
func TestSendByPost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	paths := map[string]bool{}
	for range 2 {
		if _, err := w.do(postCall(encryptedRoom, "m.room.message", message)); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range w.up.requests() {
		prefix := "/_matrix/client/v3/rooms/%21encrypted:hs.example/send/m.room.encrypted/"
		txn, ok := strings.CutPrefix(s.path, prefix)
		if s.method != http.MethodPut || !ok || len(txn) < 20 {
			t.Errorf("got %s %s", s.method, s.path)
		}
		paths[s.path] = true
	}
	if len(paths) != 2 {
		t.Errorf("got %d transactions, want 2", len(paths))
	}
	w.wantNoClearText()
}

func TestSendIntoPlainRoomIsUnchanged(t *testing.T) {
	t.Parallel()
	// Names twice are the homeserver's business where nothing is encrypted.
	body := ` {"body" : "` + canary + `", "body":1.50} `
	for _, mode := range []e2ee.Mode{e2ee.ModeProxied, e2ee.ModeNone, e2ee.ModeForeign, e2ee.ModeLost, e2ee.ModeUnknown} {
		for _, c := range []call{sendCall(plainRoom, "m.room.message", body), postCall(plainRoom, "m.room.message", body)} {
			w := newWorld(t, mode)
			if _, err := w.do(c); err != nil {
				t.Fatal(err)
			}
			got := w.up.requests()
			if len(got) != 1 || got[0].method != c.method || got[0].body != body || got[0].contentType != "application/x-of-the-client" {
				t.Errorf("mode %v: upstream got %+v", mode, got)
			}
		}
	}
}

// What goes where, for every mode, room and kind of event.
func TestSendDecisions(t *testing.T) {
	t.Parallel()
	const (
		reaction  = `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$e","key":"+"}}`
		redaction = `{"redacts":"$e"}`
		megolmed  = `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"theirs"}`
	)
	const passed, sealed = "passed", "sealed"
	const cannot = "503 " + apierr.CodeCannotEncrypt
	const refused = "403 " + apierr.CodeCannotEncrypt
	const clear, lost = "403 " + apierr.CodeClearText, "403 " + apierr.CodeKeysLost
	for _, tt := range []struct {
		mode            e2ee.Mode
		room            id.RoomID
		eventType, body string
		want            string
	}{
		{e2ee.ModeProxied, encryptedRoom, "m.room.message", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.sticker", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "org.example.any", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.key.verification.ready", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.room.encryption", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.room.member", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "M.REACTION", reaction, sealed},
		// requirement 19.5, and nothing rides along
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", reaction, passed},
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", message, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", reaction[:len(reaction)-1] + `,"body":"` + canary + `"}`, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", reaction[:len(reaction)-1] + `,"com.beeper.reaction.shortcode":["` + canary + `"]}`, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", `{"m.relates_to":{"rel_type":"m.replace","event_id":"$e"}}`, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", reaction[:len(reaction)-2] + `,"body":"` + canary + `"}}`, sealed},
		{e2ee.ModeProxied, encryptedRoom, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"` + canary + `"}}`, sealed},
		// requirement 19.6
		{e2ee.ModeProxied, encryptedRoom, "m.room.redaction", redaction, passed},
		{e2ee.ModeProxied, encryptedRoom, "m.room.redaction", message, "400 M_BAD_JSON"},
		{e2ee.ModeProxied, encryptedRoom, "m.room.encrypted", megolmed, "403 M_FORBIDDEN"},
		// requirement 20.2, 20.6
		{e2ee.ModeProxied, unsupportedRoom, "m.room.message", message, refused},
		{e2ee.ModeProxied, unsupportedRoom, "m.reaction", reaction, refused},
		{e2ee.ModeProxied, unknownRoom, "m.room.message", message, cannot},
		{e2ee.ModeProxied, unknownRoom, "m.reaction", reaction, cannot},
		{e2ee.ModeProxied, unknownRoom, "m.room.redaction", redaction, cannot},
		// a token without a device
		{e2ee.ModeNone, encryptedRoom, "m.room.message", message, refused},
		{e2ee.ModeNone, encryptedRoom, "m.reaction", reaction, passed},
		{e2ee.ModeNone, encryptedRoom, "m.reaction", message, refused},
		{e2ee.ModeNone, encryptedRoom, "m.room.encrypted", megolmed, passed},
		{e2ee.ModeNone, unknownRoom, "m.room.encrypted", megolmed, cannot},
		{e2ee.ModeNone, unsupportedRoom, "m.room.message", message, refused},
		// a device of which nothing is known
		{e2ee.ModeUnknown, encryptedRoom, "m.room.message", message, cannot},
		{e2ee.ModeUnknown, encryptedRoom, "m.room.encrypted", megolmed, cannot},
		{e2ee.ModeUnknown, unknownRoom, "m.room.message", message, cannot},
		{e2ee.Mode(99), encryptedRoom, "m.room.message", message, cannot},
		// a client that encrypts for itself
		{e2ee.ModeForeign, encryptedRoom, "m.room.encrypted", megolmed, passed},
		{e2ee.ModeForeign, unknownRoom, "m.room.encrypted", megolmed, passed},
		{e2ee.ModeForeign, unsupportedRoom, "m.room.encrypted", megolmed, passed},
		{e2ee.ModeForeign, encryptedRoom, "m.reaction", reaction, passed},
		{e2ee.ModeForeign, unsupportedRoom, "m.reaction", reaction, passed},
		{e2ee.ModeForeign, encryptedRoom, "m.room.redaction", redaction, passed},
		{e2ee.ModeForeign, encryptedRoom, "m.room.message", message, clear},
		{e2ee.ModeForeign, encryptedRoom, "m.reaction", message, clear},
		{e2ee.ModeForeign, unsupportedRoom, "m.room.message", message, clear},
		{e2ee.ModeForeign, unknownRoom, "m.room.message", message, cannot},
		// a device whose keys were ours and are gone
		{e2ee.ModeLost, encryptedRoom, "m.room.message", message, lost},
		{e2ee.ModeLost, encryptedRoom, "m.room.encrypted", megolmed, lost},
		{e2ee.ModeLost, encryptedRoom, "m.reaction", reaction, passed},
		{e2ee.ModeLost, unknownRoom, "m.room.message", message, cannot},
	} {
		for _, c := range []call{sendCall(tt.room, tt.eventType, tt.body), postCall(tt.room, tt.eventType, tt.body)} {
			name := fmt.Sprintf("%s %v %s %s", c.method, tt.mode, tt.room, tt.eventType)
			w := newWorld(t, tt.mode)
			_, err := w.do(c)
			if got := outcome(w, err, tt.body); got != tt.want {
				t.Errorf("%s %s: got %s, want %s", name, tt.body, got, tt.want)
			}
			w.wantNoClearText()
		}
	}
}

// outcome sums up what became of a send.
func outcome(w *world, err error, body string) string {
	got := w.up.requests()
	e, failed := errors.AsType[*apierr.Error](err)
	switch {
	case failed && len(got) == 0:
		return fmt.Sprintf("%d %s", e.Status, e.ErrCode)
	case err == nil && len(got) == 1 && got[0].body == body && !strings.Contains(got[0].path, "m.room.encrypted") == !strings.Contains(body, "ciphertext"):
		return "passed"
	case err == nil && len(got) == 1 && strings.Contains(got[0].body, `"ciphertext":"sealed1"`):
		return "sealed"
	}
	return fmt.Sprintf("%v, upstream %+v", err, got)
}

// A repetition of a confirmed transaction is answered here (requirement 19.11).
func TestSendRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, e2ee.ModeProxied)
	for range 2 {
		rec, err := w.do(sendCall(encryptedRoom, "m.room.message", message))
		if err != nil || rec.Code != http.StatusOK || rec.Body.String() != `{"event_id":"$event"}` {
			t.Fatalf("got %d %s %v", rec.Code, rec.Body, err)
		}
	}
	if got := w.up.requests(); len(got) != 1 {
		t.Errorf("the homeserver got %d requests, want 1", len(got))
	}
}

// Apprise names a file and its text alike, and other programs number their messages and
// their stickers apart: whatever is not the event that was sent under a transaction ID is an
// event of its own, in a room that is encrypted and in one that is not, however often each
// of them comes again.
func TestSendSameTransactionOfTwoEvents(t *testing.T) {
	t.Parallel()
	const picture = `{"msgtype":"m.text","body":"another"}`
	for _, room := range []id.RoomID{encryptedRoom, plainRoom} {
		w := newWorld(t, e2ee.ModeProxied)
		w.up.respond = func(seen) (int, string) { return 500, `{"errcode":"M_UNKNOWN"}` } // so that each comes again
		for range 2 {
			for _, c := range []call{
				sendCall(room, "m.room.message", message), sendCall(room, "m.room.message", picture), sendCall(room, "m.sticker", picture),
			} {
				if _, err := w.do(c); err != nil {
					t.Fatal(err)
				}
			}
		}
		paths := map[string]string{} // to what was sent there
		bodies := map[string]bool{}
		var sends []seen
		for _, s := range w.up.requests() {
			if s.method == http.MethodGet { // looks whether it was sent before
				continue
			}
			sends = append(sends, s)
			if first, again := paths[s.path]; again && first != s.body {
				t.Errorf("%s: %s and %s have the path %s", room, first, s.body, s.path)
			}
			paths[s.path], bodies[s.body] = s.body, true
		}
		if n := len(sends); n != 6 || len(paths) != 3 {
			t.Errorf("%s: %d requests to %d paths, want 6 to 3: %v", room, n, len(paths), paths)
		}
		if room == plainRoom && (!bodies[message] || !bodies[picture]) {
			t.Errorf("in clear: %v", bodies)
		}
		own := "/_matrix/client/v3/rooms/" + url.PathEscape(room.String()) + "/send/m.room.encrypted/t%2F1"
		if room == plainRoom {
			own = strings.Replace(own, "encrypted/", "message/", 1)
		}
		if paths[own] == "" {
			t.Errorf("%s: nothing was sent with the client's own ID: %v", room, paths)
		}
	}
}

// A reaction is in clear in an encrypted room: the same rule holds for it. Where it is not
// known whether the ID was used, nothing is sent; devices of clients that encrypt for
// themselves, and tokens without a device, name their events as they like.
func TestSendNamesWhatIsInClear(t *testing.T) {
	t.Parallel()
	reaction := func(key string) string {
		return `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$e","key":"` + key + `"}}`
	}
	for mode, want := range map[e2ee.Mode]int{e2ee.ModeProxied: 2, e2ee.ModeForeign: 1, e2ee.ModeNone: 1, e2ee.ModeLost: 1} {
		w := newWorld(t, mode)
		paths := map[string]bool{}
		for _, key := range []string{"+", "-", "+"} {
			if _, err := w.do(sendCall(encryptedRoom, "m.reaction", reaction(key))); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range w.up.requests() {
			paths[s.path] = true
		}
		if len(paths) != want {
			t.Errorf("%v: %v, want %d", mode, paths, want)
		}
	}
	w := newWorld(t, e2ee.ModeProxied)
	w.dev.clearErr = errors.New("the database is gone")
	if _, err := w.do(sendCall(plainRoom, "m.room.message", message)); err == nil || len(w.up.requests()) != 0 {
		t.Errorf("without the database: %v, %d requests", err, len(w.up.requests()))
	}
}

// FuzzSend: whatever a client sends into an encrypted room, the homeserver gets
// ciphertext, or a reaction or redaction that says nothing else, or nothing.
func FuzzSend(f *testing.F) {
	for _, body := range []string{
		message, `{}`, `{"a":1,"a":2}`, `{"m.relates_to":{"rel_type":"m.annotation"}}`, `{"redacts":"$e"}`,
		`{"body":"\ud800"}`, "\xff", `{"body":1e400}`, `[{}]`, `{"m.relates_to":{"rel_type":"m.annotation","rel_type":"x"}}`,
	} {
		for _, eventType := range []string{"m.room.message", "m.reaction", "m.room.redaction", "m.room.encrypted"} {
			f.Add(eventType, body)
		}
	}
	f.Fuzz(func(t *testing.T, eventType, body string) {
		w := newWorld(t, e2ee.ModeProxied)
		_, err := w.do(sendCall(encryptedRoom, eventType, body))
		got := w.up.requests()
		if err != nil {
			if _, ok := errors.AsType[*apierr.Error](err); !ok || len(got) > 0 {
				t.Fatalf("got %v after %+v", err, got)
			}
			return
		}
		var content map[string]json.RawMessage
		if len(got) != 1 || json.Unmarshal([]byte(got[0].body), &content) != nil {
			t.Fatalf("upstream got %+v", got)
		}
		allowed := []string{"algorithm", "ciphertext", "session_id"}
		switch {
		case strings.Contains(got[0].path, "/m.reaction/"):
			allowed = []string{"m.relates_to"}
		case strings.Contains(got[0].path, "/m.room.redaction/"):
			allowed = []string{"redacts", "with_rel_types", "org.matrix.msc3912.with_rel_types", "org.matrix.msc3912.with_relations"}
		}
		for name := range content {
			if !strings.Contains(" "+strings.Join(allowed, " ")+" ", " "+name+" ") {
				t.Fatalf("%q reached the homeserver in %+v", name, got)
			}
		}
	})
}
