package interceptors

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// missedWorld has a homeserver with a list of notifications, and a device that knows of some
// that the homeserver has not. The homeserver's tokens say behind which event they are.
type missedWorld struct {
	*readWorld
	list  []string     // the homeserver's events, the newest first; "text@time"
	asked int          // how often its list was
	event atomic.Int64 // and events
	lost  map[string]bool
	gone  map[string]bool
	// grow is called before the list is read.
	grow func()
}

func newMissedWorld(t *testing.T, list ...string) *missedWorld {
	t.Helper()
	w := &missedWorld{readWorld: newReadWorld(t, e2ee.ModeProxied), list: list, lost: map[string]bool{}, gone: map[string]bool{}}
	w.w.replaced = readDevices{dev: w.dev}
	w.w.up.respond = w.respond
	return w
}

// misses has the device know of notifications, "text@time".
func (w *missedWorld) misses(all ...string) {
	for _, one := range all {
		text, at, _ := strings.Cut(one, "@")
		ms, _ := strconv.ParseInt(at, 10, 64)
		w.dev.missed = append(w.dev.missed, e2ee.MissedNotification{RoomID: encryptedRoom, Event: id.EventID("$" + text), At: ms, Read: strings.HasPrefix(text, "read")})
	}
	slices.SortFunc(w.dev.missed, func(a, b e2ee.MissedNotification) int { return a.Compare(&b) })
}

func (w *missedWorld) respond(s seen) (int, string) {
	if _, name, ok := strings.Cut(s.path, "/event/"); ok {
		w.event.Add(1)
		name, _ = url.PathUnescape(name)
		text := strings.TrimPrefix(name, "$")
		content, status := fmt.Sprintf(`{"ciphertext":%q}`, text), http.StatusOK
		if w.gone[text] {
			content = `{}`
		}
		if w.lost[text] {
			status = http.StatusNotFound
		}
		return status, fmt.Sprintf(`{"event_id":%q,"type":"m.room.encrypted","sender":"@bob:hs.example","content":%s}`, name, content)
	}
	w.asked++
	if w.grow != nil {
		w.grow()
	}
	q := queryOf(w.t, s)
	from := 0
	if token := q.Get("from"); token != "" {
		from = 1 + slices.Index(w.list, token)
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 1 || q.Has("only") {
		w.t.Errorf("the homeserver was asked for %v", q)
	}
	page := w.list[from:min(from+limit, len(w.list))]
	var out []string
	for _, one := range page {
		text, at, _ := strings.Cut(one, "@")
		out = append(out, strings.Replace(notified(text), `"ts":1}`, `"ts":`+at+`}`, 1))
	}
	next := ""
	if len(page) > 0 && from+len(page) < len(w.list) {
		next = fmt.Sprintf(`"next_token":%q,`, page[len(page)-1])
	}
	return http.StatusOK, `{` + next + `"notifications":[` + strings.Join(out, ",") + `]}`
}

type missedAnswer struct {
	Next          string `json:"next_token"`
	Notifications []struct {
		Actions []any `json:"actions"`
		Event   struct {
			ID        string `json:"event_id"`
			Decrypted bool   `json:"decrypted"`
		} `json:"event"`
		Read bool   `json:"read"`
		Room string `json:"room_id"`
		TS   int64  `json:"ts"`
	} `json:"notifications"`
}

func (w *missedWorld) page(query url.Values) (a missedAnswer) {
	w.t.Helper()
	rec, err := w.w.do(call{handler: Notifications, method: http.MethodGet, pattern: "/notifications", query: query.Encode()})
	if err == nil {
		err = json.Unmarshal(rec.Body.Bytes(), &a)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// all follows the tokens to their end, and returns the texts.
func (w *missedWorld) all(only string, limit int) (texts []string) {
	w.t.Helper()
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if only != "" {
		query.Set("only", only)
	}
	for pages := 0; ; pages++ {
		a := w.page(query)
		if len(a.Notifications) > limit || pages > 200 {
			w.t.Fatalf("page %d has %d notifications", pages, len(a.Notifications))
		}
		for _, one := range a.Notifications {
			texts = append(texts, strings.TrimPrefix(one.Event.ID, "$"))
		}
		if a.Next == "" {
			return texts
		}
		if a.Next == query.Get("from") {
			w.t.Fatalf("page %d leads to itself", pages)
		}
		query.Set("from", a.Next)
	}
}

// Issue 8, Part 3: a mention in a room whose rules are quiet about ciphertext is listed, among
// the homeserver's notifications in order of time, with what the rules say of the clear event.
func TestMissedNotificationsAreListed(t *testing.T) {
	t.Parallel()
	w := newMissedWorld(t, "d@80", "b@40")
	w.misses("you e@90", "read you c@60", "a@20", "silent@50", "away@30", "gone@70", "lost@10")
	w.lost["away"], w.gone["gone"] = true, true
	a := w.page(nil)
	var got []string
	for _, one := range a.Notifications {
		if one.Room != encryptedRoom.String() || one.Event.Decrypted == (one.Event.ID == "$lost") {
			t.Errorf("%+v", one)
		}
		got = append(got, fmt.Sprintf("%s %d %t %d", one.Event.ID, one.TS, one.Read, len(one.Actions)))
	}
	want := []string{"$you e 90 false 2", "$d 80 false 1", "$read you c 60 true 2", "$b 40 false 1", "$a 20 false 1", "$lost 10 false 1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if a.Next != "" || w.asked != 1 || w.event.Load() != 7+2 { // 7 of ours, and whether 2 of theirs were redacted
		t.Errorf("the next is %q, and %d pages and %d events were asked for", a.Next, w.asked, w.event.Load())
	}
	if got := w.all("highlight", 1); !slices.Equal(got, []string{"you e", "read you c"}) {
		t.Errorf("highlights: %q", got)
	}
}

// However the two lists lie, and whatever the times and limits are, following the tokens gives
// each notification once, in the order of both lists, and comes to an end; an event that both
// have is listed once.
func TestNotificationPagesGoOnExactly(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		w := newMissedWorld(t)
		w.t = t
		want := map[string]bool{}
		n := rnd.IntN(12)
		var times []int
		for range n {
			times = append(times, rnd.IntN(30))
		}
		if seed%3 > 0 { // otherwise the homeserver's times are in no order
			slices.SortFunc(times, func(a, b int) int { return b - a })
		}
		for i, at := range times {
			w.list = append(w.list, fmt.Sprintf("t%d@%d", i, at))
			want[fmt.Sprint("t", i)] = true
		}
		for i := range rnd.IntN(12) {
			text := fmt.Sprint("o", i)
			if n > 0 && rnd.IntN(4) == 0 {
				text = fmt.Sprint("t", rnd.IntN(n)) // which the homeserver has too
			}
			if !slices.ContainsFunc(w.dev.missed, func(m e2ee.MissedNotification) bool { return m.Event == id.EventID("$"+text) }) {
				w.misses(fmt.Sprintf("%s@%d", text, rnd.IntN(30)))
			}
			want[text] = true
		}
		var order []string // of ours
		for _, m := range w.dev.missed {
			order = append(order, strings.TrimPrefix(string(m.Event), "$"))
		}
		got := w.all("", 1+rnd.IntN(5))
		sorted := slices.Sorted(slices.Values(got))
		var all []string
		for text := range want {
			all = append(all, text)
		}
		slices.Sort(all)
		if diff := cmp.Diff(all, sorted); diff != "" {
			t.Fatalf("seed %d, of %q and %q (-want +got):\n%s", seed, w.list, order, diff)
		}
		last := -1
		for _, text := range got {
			if strings.HasPrefix(text, "o") {
				at := slices.Index(order, text)
				if at < last {
					t.Fatalf("seed %d: ours are listed as %q, and are %q", seed, got, order)
				}
				last = at
			}
		}
	}
}

// Notifications that come while a client follows the tokens, on either side, let it lose
// none of those that there were, nor see one twice.
func TestNotificationsComeMeanwhile(t *testing.T) {
	t.Parallel()
	for limit := 1; limit <= 4; limit++ {
		w := newMissedWorld(t, "t1@70", "t2@50", "t3@30")
		w.misses("o1@80", "o2@60", "o3@40", "o4@20")
		n := 0
		w.grow = func() {
			if n++; n <= 3 {
				w.list = slices.Insert(w.list, 0, fmt.Sprintf("new%d@%d", n, 100+n))
				w.misses(fmt.Sprintf("ours%d@%d", n, 100+n))
			}
		}
		got := w.all("", limit)
		seen := map[string]int{}
		for _, text := range got {
			seen[text]++
		}
		for text, times := range seen {
			if times > 1 {
				t.Errorf("limit %d: %s is listed %d times: %q", limit, text, times, got)
			}
		}
		for _, text := range []string{"t1", "t2", "t3", "o1", "o2", "o3", "o4"} {
			if seen[text] == 0 {
				t.Errorf("limit %d: %s is not listed: %q", limit, text, got)
			}
		}
	}
}

// A token that is none is refused; one of the homeserver's, from when there was nothing of
// ours, goes on; and one of ours goes on when there is nothing of ours any more.
func TestNotificationTokens(t *testing.T) {
	t.Parallel()
	w := newMissedWorld(t, "t1@70", "t2@50", "t3@30")
	plain := w.page(url.Values{"limit": {"1"}})
	if plain.Next != "t1@70" {
		t.Fatalf("with nothing of ours the token is %q", plain.Next)
	}
	w.misses("o1@60", "o2@20")
	if got := w.page(url.Values{"from": {plain.Next}}); len(got.Notifications) != 4 || got.Next != "" {
		t.Errorf("behind the homeserver's token there is %+v", got)
	}
	ours := w.page(url.Values{"limit": {"2"}})
	if !strings.HasPrefix(ours.Next, notificationPlacePrefix) {
		t.Fatalf("the token is %q", ours.Next)
	}
	last := w.page(url.Values{"limit": {"4"}})
	w.dev.missed = nil
	if got := w.page(url.Values{"from": {ours.Next}}); len(got.Notifications) != 2 || got.Notifications[0].Event.ID != "$t2" {
		t.Errorf("behind ours there is %+v", got)
	}
	before := w.asked
	if got := w.page(url.Values{"from": {last.Next}}); len(got.Notifications) != 0 || got.Next != "" || w.asked != before {
		t.Errorf("behind the homeserver's last there is %+v", got)
	}
	for _, bad := range []string{notificationPlacePrefix + "!", notificationPlacePrefix + "e30x", notificationPlacePrefix + strings.Repeat("A", maxNotificationPlace)} {
		_, err := w.w.do(call{handler: Notifications, method: http.MethodGet, pattern: "/notifications", query: url.Values{"from": {bad}}.Encode()})
		if err == nil {
			t.Errorf("a token of %d bytes was taken", len(bad))
		}
	}
}
