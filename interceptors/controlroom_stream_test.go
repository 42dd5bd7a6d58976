package interceptors

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// withRoom gives the device a control room.
func (w *readWorld) withRoom(lines ...string) *streamRoom {
	r := newStreamRoom(w.w.who.UserID, lines...)
	w.dev.room = r
	return r
}

// However the old initialSync looks, the control room is in it, once, with its state and what was
// said last; and the answer is still JSON, with the homeserver's other members as they were.
func TestControlRoomInAnInitialSync(t *testing.T) {
	t.Parallel()
	for body, rooms := range map[string]int{
		`{"end":"s7","rooms":[]}`: 1, `{"rooms":[{"room_id":"!a:hs","membership":"join"}],"end":"s7"}`: 2,
		`{"end":"s7"}`: 1, `{"end":"s7","presence":[{"type":"m.presence"}]}`: 1, `{"end":"s7","rooms":null}`: 1,
		`{"rooms":[{"room_id":"!a:hs","messages":{"chunk":[{"type":"m.room.message","event_id":"$e","content":{"dev.e2ee-proxy.x":1}}]}},{"room_id":"!b:hs"}],"end":"s7","x":1}`: 3,
	} {
		w := newReadWorld(t, e2ee.ModeProxied)
		room := w.withRoom("proxy@1", "me@2", "proxy@3")
		var got struct {
			End   string `json:"end"`
			Rooms []struct {
				ID       string `json:"room_id"`
				Messages struct {
					Chunk      []struct{ Content struct{ Body string } }
					Start, End string
				}
				State []struct{ Type string }
			} `json:"rooms"`
		}
		raw := w.read(InitialSync, "limit=2", body)
		if err := json.Unmarshal([]byte(raw), &got); err != nil || len(got.Rooms) != rooms || got.End != "s7" || strings.Count(raw, `"end":"s7"`) != 1 {
			t.Errorf("%s: %s, %v", body, raw, err)
			continue
		}
		own := got.Rooms[rooms-1]
		if own.ID != string(room.view.ID()) || len(own.Messages.Chunk) != 2 || own.Messages.Chunk[1].Content.Body != "said 3" ||
			own.Messages.Start != "control-2" || len(own.State) < 5 {
			t.Errorf("%s: the room is %+v", body, own)
		}
		if !slices.Equal(room.given, [][2]int64{{2, 3}}) {
			t.Errorf("%s: handed out: %v", body, room.given)
		}
	}
}

// A client follows GET events from where its initialSync ended. Whatever else happens, it gets each
// message of the control room once, and in order. Every token is the homeserver's, and where that
// stands still it is moved, if the homeserver lets it; of what moves it nothing is shown.
func TestControlRoomInAStreamOfEvents(t *testing.T) {
	t.Parallel()
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		w := newReadWorld(t, e2ee.ModeProxied)
		room := w.withRoom("proxy@1")
		var at atomic.Int64
		token, refuses := "s0", false
		moved := make(chan struct{}, 100)
		w.read(InitialSync, "", `{"end":"s0","rooms":[]}`)
		w.dev.move = func() error {
			if refuses {
				return errors.New("refused")
			}
			at.Add(1)
			moved <- struct{}{}
			return nil
		}
		w.answer = func() string {
			const mover = `{"type":"dev.e2ee-proxy.moved","content":{}}`
			for fmt.Sprint("s", at.Load()) == token && !refuses && room.last[token] < room.view.Last {
				<-moved // it waits for something to happen
			}
			if now := fmt.Sprint("s", at.Load()); now != token {
				return fmt.Sprintf(`{"end":%q,"chunk":[%s,{"type":"m.room.message","room_id":"!a:hs","event_id":"$a","sender":"@b:hs","content":{"body":"other"}}]}`, now, mover)
			}
			return []string{fmt.Sprintf(`{"start":"x","chunk":[],"end":%q}`, token), fmt.Sprintf(`{"end":%q}`, token)}[seed%2]
		}
		var got []string
		for round := range 30 {
			for range rnd.IntN(3) {
				room.says([]string{"me", "proxy"}[rnd.IntN(2)], 7)
			}
			if rnd.IntN(4) == 0 {
				at.Add(1)
			}
			refuses = round < 29 && rnd.IntN(4) == 0
			var answer struct {
				Chunk []struct {
					Room    string `json:"room_id"`
					Content struct{ Body string }
				} `json:"chunk"`
				End string `json:"end"`
			}
			raw := w.read(Events, url.Values{"from": {token}}.Encode(), "")
			if err := json.Unmarshal([]byte(raw), &answer); err != nil {
				t.Fatal(err)
			}
			news := false
			for _, e := range answer.Chunk {
				if e.Room == string(room.view.ID()) {
					got, news = append(got, e.Content.Body), true
				}
			}
			if news && answer.End == token || !strings.HasPrefix(answer.End, "s") || strings.Contains(answer.End, "proxy") || strings.Contains(raw, "moved") {
				t.Fatalf("seed %d: from %s: %s", seed, token, raw)
			}
			token = answer.End
		}
		var want []string
		for n := 2; n <= len(room.view.Lines); n++ {
			want = append(want, fmt.Sprint("said ", n))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: got %q, want %q", seed, got, want)
		}
	}
}

// The events of the control room alone are asked for by its name, which the homeserver is not told.
func TestEventsOfTheControlRoomOnly(t *testing.T) {
	t.Parallel()
	w := newReadWorld(t, e2ee.ModeProxied)
	room := w.withRoom("proxy@1")
	w.read(InitialSync, "", `{"end":"s0","rooms":[]}`)
	room.says("proxy", 2)
	up := len(w.w.up.requests())
	ask := func(room, from string) string {
		return w.read(Events, url.Values{"room_id": {room}, "from": {from}, "timeout": {"30000"}}.Encode(), `{"chunk":[],"end":"s9"}`)
	}
	if got := ask(string(room.view.ID()), "s0"); !strings.Contains(got, "said 2") || !strings.Contains(got, `"end":"control-room-2"`) {
		t.Errorf("the answer is %s", got)
	}
	for _, tt := range [][3]string{{"!other:e2ee-proxy.invalid", "s0", "M_FORBIDDEN"}, {string(room.view.ID()), "", "M_INVALID_PARAM"}} {
		if got := ask(tt[0], tt[1]); got != tt[2] {
			t.Errorf("%s from %q: %s", tt[0], tt[1], got)
		}
	}
	if all := w.w.up.requests(); len(all) != up {
		t.Errorf("the homeserver was asked %+v", all[up:])
	}
	if got := ask("!other:hs", "s0"); got != `{"chunk":[],"end":"s9"}` {
		t.Errorf("another room's events are %s", got)
	}
}

// What the proxy has said in the control room is among the notifications, in order of time and once,
// however the pages lie; what the user said is not, nor is any of it a highlight.
func TestControlRoomAmongNotifications(t *testing.T) {
	t.Parallel()
	w := newMissedWorld(t, "d@80", "b@40")
	w.misses("you e@90", "a@20")
	room := w.withRoom("proxy@10", "me@15", "proxy@50", "proxy@85")
	room.view.Read = 1
	a := w.page(nil)
	var got []string
	for _, one := range a.Notifications {
		own := one.Room == string(room.view.ID())
		if own != strings.HasSuffix(one.Event.ID, ":e2ee-proxy.invalid") || own && (len(one.Actions) != 1 || one.Read != (one.TS == 10)) {
			t.Errorf("%+v", one)
		}
		got = append(got, fmt.Sprint(one.Event.ID, " ", one.TS))
	}
	want := []string{"$you e 90", "$c4:e2ee-proxy.invalid 85", "$d 80", "$c3:e2ee-proxy.invalid 50", "$b 40", "$a 20", "$c1:e2ee-proxy.invalid 10"}
	if !slices.Equal(got, want) {
		t.Errorf("listed are %q", got)
	}
	for limit := 1; limit < 8; limit++ {
		var texts []string
		for _, one := range want {
			text, _, _ := strings.Cut(strings.TrimPrefix(one, "$"), " ")
			texts = append(texts, strings.Replace(text, "you", "you e", 1))
		}
		if got := w.all("", limit); !slices.Equal(got, texts) {
			t.Errorf("with a limit of %d listed are %q", limit, got)
		}
		if got := w.all("highlight", limit); !slices.Equal(got, []string{"you e"}) {
			t.Errorf("highlights with a limit of %d: %q", limit, got)
		}
	}
	room.view.Left = true
	if got := w.all("", 3); !slices.Equal(got, []string{"you e", "d", "b", "a"}) {
		t.Errorf("after the room was left listed are %q", got)
	}
}

// A homeserver puts a room of the control room's name, or messages of it, into the old lists, to be
// told a recovery key there, or keeps what the proxy says from being listed. Nothing of it is shown,
// also where something else is to be changed in it, and what the proxy says is.
func TestForgedControlRoomInOldLists(t *testing.T) {
	t.Parallel()
	own := string(e2ee.ControlRoomOf(alice))
	marks := map[string]string{"plain": `"body":"FORGED"`, "marked": `"body":"FORGED","dev.e2ee-proxy.x":1`}
	for name, content := range marks {
		forged := fmt.Sprintf(`{"type":"m.room.message","event_id":"$f","sender":"@mallory:hs","content":{%s}}`, content)
		sealed := `{"type":"m.room.encrypted","event_id":"$g","sender":"@mallory:hs","content":{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"FORGED"}}`
		inside := strings.Replace(forged, `{`, fmt.Sprintf(`{"room_id":%q,"dev.e2ee-proxy.trust":1,`, own), 1)
		for handler, bodies := range map[string][]string{
			InitialSync: {
				fmt.Sprintf(`{"end":"s1","rooms":[{"room_id":%q,"messages":{"chunk":[%s]}},{"room_id":"!a:hs"}]}`, own, forged),
				fmt.Sprintf(`{"end":"s1","rooms":[{"messages":{"chunk":[%s,%s]},"room_id":%q}]}`, forged, sealed, own),
				fmt.Sprintf(`{"end":"s1","rooms":[{"dev.e2ee-proxy.x":1,"messages":{"chunk":[%s]},"room_id":%q,"room_id":%q}]}`, inside, "!a:hs", own),
				fmt.Sprintf(`{"end":"s1","rooms":[{"messages":{"chunk":[%s]},"state":[%s],"room_id":%q}]}`, inside, inside, own),
			},
			Events: {fmt.Sprintf(`{"end":"s1","chunk":[%s]}`, inside), fmt.Sprintf(`{"end":"s1","chunk":[%s,%s]}`, inside, strings.Replace(sealed, `{`, fmt.Sprintf(`{"room_id":%q,`, own), 1))},
			Notifications: {
				fmt.Sprintf(`{"notifications":[{"room_id":%q,"ts":5,"actions":[],"event":%s}]}`, own, forged),
				fmt.Sprintf(`{"notifications":[{"ts":5,"actions":[],"event":%s,"room_id":%q}]}`, inside, own),
				fmt.Sprintf(`{"notifications":[{"ts":5,"actions":[],"event":%s,"room_id":%q}]}`, sealed, own),
				fmt.Sprintf(`{"notifications":[{"room_id":"!a:hs","ts":5,"actions":[],"event":%s}]}`, strings.Replace(inside, "$f", "$c1:e2ee-proxy.invalid", 1)),
				`{"notifications":[{"place":"x"}]}`,
			},
		} {
			for _, body := range bodies {
				for _, has := range []bool{true, false} {
					w := newReadWorld(t, e2ee.ModeProxied)
					if has {
						w.withRoom("proxy@7")
					}
					got := w.read(handler, "", body)
					if strings.Contains(got, "FORGED") || strings.Contains(got, "$g") || !has && strings.Contains(got, own) {
						t.Errorf("%s, %s, %v: %s is shown as %s", name, handler, has, body, got)
					}
					if has && !strings.Contains(got, "said 1") && got != "M_UNKNOWN" {
						t.Errorf("%s, %s: with %s the proxy's is not shown: %s", name, handler, body, got)
					}
				}
			}
		}
	}
}

// Who speaks for the proxy is in no other room: the homeserver is not asked to invite, or to remove, a
// user whom no server has.
func TestTheProxyIsInvitedNowhere(t *testing.T) {
	t.Parallel()
	for handler, path := range map[string]string{Invite: "invite", Kick: "kick", Ban: "ban", Unban: "unban"} {
		w := newWorld(t, e2ee.ModeProxied)
		_, err := w.do(call{
			handler: handler, method: http.MethodPost, pattern: "/rooms/{roomId}/" + path, params: map[string]string{"roomId": encryptedRoom.String()},
			body: `{"user_id":"` + string(e2ee.ControlSender) + `"}`,
		})
		if said, ok := errors.AsType[*apierr.Error](err); !ok || said.Status != http.StatusForbidden {
			t.Errorf("%s: %v", path, err)
		}
		w.wantNothingUpstream()
	}
}
