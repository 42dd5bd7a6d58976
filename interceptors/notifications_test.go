package interceptors

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// notified is a notification of a message in the encrypted room.
func notified(text string) string {
	return fmt.Sprintf(`{"actions":["notify",{"set_tweak":"sound","value":"default"}],"event":{"content":{"ciphertext":%q},"event_id":%q,"sender":"@bob:hs.example","type":"m.room.encrypted"},"read":false,"room_id":%q,"ts":1}`,
		text, "$"+text, encryptedRoom)
}

func queryOf(t *testing.T, s seen) url.Values {
	t.Helper()
	q, err := url.ParseQuery(s.query)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// listed returns the event IDs and the actions in an answer.
func listed(answer string) (events []string) {
	for _, one := range strings.Split(answer, `{"actions":`)[1:] {
		actions, rest, _ := strings.Cut(one, `,"event":`)
		_, rest, _ = strings.Cut(rest, `"event_id":"`)
		event, _, _ := strings.Cut(rest, `"`)
		events = append(events, event+" "+actions)
	}
	return events
}

// The actions of a notification are those of the clear event, and one that does not notify
// is left out. What cannot be decrypted is what the homeserver says.
func TestNotificationsAreOfClearEvents(t *testing.T) {
	t.Parallel()
	const inClear = `{"actions":["notify"],"event":{"content":{"body":"silent"},"event_id":"$plain","sender":"@bob:hs.example","type":"m.room.message"},"read":true,"room_id":"!plain:hs.example"}`
	w := newReadWorld(t, e2ee.ModeProxied)
	got := w.read(Notifications, "limit=20", `{"next_token":"n","notifications":[`+strings.Join([]string{
		notified("all of us"), notified("silent"), notified("you"), notified("lost"), inClear,
	}, ",")+`],"x":1}`)
	want := []string{
		`$all of us ["notify"]`, `$you ["notify",{"set_tweak":"highlight"}]`,
		`$lost ["notify",{"set_tweak":"sound","value":"default"}]`, `$plain ["notify"]`,
	}
	if diff := cmp.Diff(want, listed(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(got, `{"next_token":"n",`) || !strings.HasSuffix(got, `,"x":1}`) || !strings.Contains(got, `"read":true`) {
		t.Errorf("the rest is %s", got)
	}
}

// only=highlight is answered by the clear events: the homeserver, which knows of no highlight
// in ciphertext, is asked for everything, page by page and not for ever.
func TestNotificationsOnlyHighlights(t *testing.T) {
	t.Parallel()
	const pages = 30
	page := func(n int) string {
		text := "all of us"
		if n%3 == 0 {
			text = fmt.Sprintf("you %d", n)
		}
		return fmt.Sprintf(`{"next_token":"%d","notifications":[%s]}`, n+1, notified(text))
	}
	for _, tt := range []struct {
		name, query string
		want        []string
		asked       []string
		next        string
	}{
		{"enough is found", "only=highlight&limit=2", []string{"$you 0", "$you 3"}, []string{" 2", "1 1", "2 1", "3 1"}, "4"},
		{"from a token", "only=highlight&limit=1&from=4", []string{"$you 6"}, []string{"4 1", "5 1", "6 1"}, "7"},
		{"nothing is found within the bound", "only=highlight&limit=1&from=1000", nil, []string{"1000 1"}, ""},
	} {
		w := newReadWorld(t, e2ee.ModeProxied)
		var asked []string
		w.w.replaced = readDevices{dev: w.dev}
		w.w.up.respond = func(s seen) (int, string) {
			if strings.Contains(s.path, "/event/") {
				return http.StatusNotFound, `{}`
			}
			q := queryOf(t, s)
			if q.Has("only") {
				t.Errorf("%s: the homeserver was asked for %v", tt.name, q)
			}
			asked = append(asked, q.Get("from")+" "+q.Get("limit"))
			n := 0
			if from := q.Get("from"); from != "" {
				_, _ = fmt.Sscan(from, &n)
			}
			if n >= pages {
				return http.StatusOK, `{"notifications":[]}`
			}
			return http.StatusOK, page(n)
		}
		rec, err := w.w.do(call{handler: Notifications, method: http.MethodGet, pattern: "/notifications", query: tt.query})
		if err != nil {
			t.Fatal(err)
		}
		var events []string
		for _, one := range listed(rec.Body.String()) {
			event, _, _ := strings.Cut(one, " [")
			events = append(events, event)
		}
		if diff := cmp.Diff([]any{tt.want, tt.asked}, []any{events, asked}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if token := strings.Contains(rec.Body.String(), `"next_token":"`+tt.next+`"`); tt.next != "" && !token {
			t.Errorf("%s: the answer is %s", tt.name, rec.Body)
		}
	}
}

// However many notifications are none of the client's, one request takes a few pages, and the
// answer has a token to go on from. A page that fails fails the request.
func TestNotificationsAreBounded(t *testing.T) {
	t.Parallel()
	w := newReadWorld(t, e2ee.ModeProxied)
	w.w.replaced = readDevices{dev: w.dev}
	asked := 0
	w.w.up.respond = func(s seen) (int, string) {
		asked++
		if queryOf(t, s).Get("limit") != "50" {
			t.Errorf("asked for %v", s.query)
		}
		return http.StatusOK, fmt.Sprintf(`{"next_token":"%d","notifications":[%s]}`, asked, notified("all of us"))
	}
	get := call{handler: Notifications, method: http.MethodGet, pattern: "/notifications", query: url.Values{"only": {"highlight"}, "limit": {"1000"}}.Encode()}
	rec, err := w.w.do(get)
	if err != nil || rec.Body.String() != `{"next_token":"8","notifications":[]}` || asked != maxNotificationPages {
		t.Errorf("%d pages: %s, %v", asked, rec.Body, err)
	}
	w.w.up.respond = func(seen) (int, string) { return http.StatusOK, `{"notifications":[7]}` }
	if _, err := w.w.do(get); err == nil {
		t.Error("a notification that is none was taken")
	} else if said, ok := errors.AsType[*apierr.Error](err); !ok || said.Status != http.StatusBadGateway {
		t.Errorf("the error is %v", err)
	}
}

// Dendrite: what was redacted stands in the list of notifications as it was said. It is not
// shown again; and where the homeserver does not say that it was redacted, its list counts.
func TestNotificationsOfWhatWasRedacted(t *testing.T) {
	t.Parallel()
	w := newReadWorld(t, e2ee.ModeProxied)
	w.w.replaced = readDevices{dev: w.dev}
	now := map[string]string{
		"$kept":     `{"event_id":"$kept","type":"m.room.encrypted","content":{"ciphertext":"kept"}}`,
		"$gone":     `{"event_id":"$gone","type":"m.room.encrypted","content":{},"unsigned":{"redacted_because":{}}}`,
		"$another":  `{"event_id":"$gone","type":"m.room.encrypted","content":{}}`,
		"$no event": `[]`,
	}
	w.w.up.respond = func(s seen) (int, string) {
		if !strings.Contains(s.path, "/event/") {
			return http.StatusOK, `{"notifications":[` + strings.Join([]string{notified("kept"), notified("gone"), notified("another"), notified("no event"), notified("unknown"), notified("lost")}, ",") + `]}`
		}
		if strings.Contains(s.path, "lost") {
			t.Error("asked for what cannot be decrypted")
		}
		for id, event := range now {
			if strings.HasSuffix(s.path, "/event/"+url.PathEscape(id)) {
				return http.StatusOK, event
			}
		}
		return http.StatusNotFound, `{"errcode":"M_NOT_FOUND"}`
	}
	get := call{handler: Notifications, method: http.MethodGet, pattern: "/notifications"}
	rec, err := w.w.do(get)
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	for _, one := range listed(rec.Body.String()) {
		event, _, _ := strings.Cut(one, " [")
		events = append(events, event)
	}
	if diff := cmp.Diff([]string{"$kept", "$another", "$no event", "$unknown", "$lost"}, events); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	asked := 0
	w.w.up.respond = func(s seen) (int, string) {
		if strings.Contains(s.path, "/event/") {
			asked++
			return http.StatusNotFound, `{}`
		}
		return http.StatusOK, `{"notifications":[` + strings.Repeat(notified("kept")+",", 9) + notified("kept") + `]}`
	}
	get.query = "limit=1"
	if rec, err := w.w.do(get); err != nil || len(listed(rec.Body.String())) != 1 || asked != 1 {
		t.Errorf("with more than was asked for, %d events were asked for: %v", asked, err)
	}
	w.w.up.respond = func(s seen) (int, string) {
		if strings.Contains(s.path, "/event/") {
			return http.StatusUnauthorized, `{"errcode":"M_UNKNOWN_TOKEN","error":"gone"}`
		}
		return http.StatusOK, `{"notifications":[` + notified("kept") + `]}`
	}
	if _, err := w.w.do(get); err == nil {
		t.Error("the client was not told that its token is dead")
	}
}
