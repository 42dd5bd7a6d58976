package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// pageEvents is a page of events as a client reads it.
type pageEvents struct {
	Chunk []struct {
		EventID string `json:"event_id"`
		Type    string `json:"type"`
	} `json:"chunk"`
	End  string `json:"end"`
	Next string `json:"next_batch"`
}

// allPages reads pages until there is no token, as a script does, and returns the events.
func (c *curl) allPages(path string, query url.Values) []string {
	c.t.Helper()
	var got []string
	for range 100 {
		var page pageEvents
		c.call(http.MethodGet, path+"?"+query.Encode(), nil, &page)
		for _, e := range page.Chunk {
			got = append(got, e.EventID)
		}
		if page.End+page.Next == "" {
			return got
		}
		query.Set("from", page.End+page.Next)
	}
	c.t.Errorf("%s does not end", path)
	return got
}

// Requirements 19.7 and 19.12: what a client filters the pages of a history by, and the
// relations of an event, are the clear events. A client that goes on until there is no token
// gets each of them once, at every limit, and ends.
func TestFiltersOfPages(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		bob, carol, room := bobAndCarol(t, hs)
		bob.call(http.MethodPut, roomPath(room, "state/%s", "m.room.encryption"), map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}, nil)

		root := bob.SendText(room, "the root")
		var texts, links, notes, carols []string
		texts = append(texts, root)
		for i := range 6 {
			for n := range 3 {
				bob.call(http.MethodPut, roomPath(room, "state/%s", "m.room.topic"), map[string]any{"topic": fmt.Sprint("topic ", i, n)}, nil)
			}
			texts = append(texts, bob.send(room, "m.room.message", inThread(root, carol.account.UserID, fmt.Sprint("text ", i))))
			content := inThread(root, carol.account.UserID, "a note")
			notes = append(notes, bob.send(room, "org.example.note", content))
		}
		links = append(links, bob.send(room, "org.example.link", map[string]any{"url": "https://example.org/a"}))
		carols = append(carols, carol.SendText(room, "from carol"))
		texts = append(texts, carols...)
		carol.Await(room, testpeer.Where{"event_id": carols[0]}) // Dendrite gives out a history that ends before what was just sent
		for _, ids := range [][]string{texts, links, notes} {
			slices.Reverse(ids)
		}
		for _, tt := range []struct {
			filter string
			want   []string
		}{
			{`{"types":["m.room.message"]}`, texts},
			{`{"types":["org.example.*"],"not_types":["org.example.link"]}`, notes},
			{`{"types":["m.room.message"],"senders":["` + carol.account.UserID + `"]}`, carols},
			{`{"contains_url":true}`, links},
			{`{"types":["org.example.nothing"]}`, nil},
		} {
			for _, limit := range []string{"2", "7", "100"} {
				got := carol.allPages(roomPath(room, "messages"), url.Values{"dir": {"b"}, "limit": {limit}, "filter": {tt.filter}})
				if !slices.Equal(got, tt.want) {
					t.Errorf("%s, limit %s: got %v, want %v", tt.filter, limit, got, tt.want)
				}
			}
		}

		v1 := strings.Replace(roomPath(room, "relations/%s", root), "/v3/", "/v1/", 1)
		for kind, want := range map[string][]string{"org.example.note": notes, "m.room.message": texts[1 : len(texts)-1], "org.example.none": nil} {
			for _, limit := range []string{"1", "50"} {
				got := carol.allPages(v1+"/m.thread/"+kind, url.Values{"limit": {limit}})
				slices.Sort(got)
				sorted := slices.Sorted(slices.Values(want)) // Dendrite gives a page in another order
				if !slices.Equal(got, sorted) {
					t.Errorf("relations of type %s, limit %s: got %v, want %v", kind, limit, got, sorted)
				}
			}
		}

		var around struct {
			Event  filteredEvent
			Before []filteredEvent `json:"events_before"`
			After  []filteredEvent `json:"events_after"`
			State  []filteredEvent
		}
		carol.call(http.MethodGet, roomPath(room, "context/%s", links[0])+"?limit=40&filter="+url.QueryEscape(`{"types":["m.room.message"]}`), nil, &around)
		var bodies []string
		for _, e := range slices.Concat(around.Before, around.After, around.State) {
			if e.Type != "m.room.message" {
				t.Errorf("the context has %s", e.Type)
			}
			bodies = append(bodies, e.Content.Body)
		}
		if around.Event.Type != "org.example.link" || !slices.Contains(bodies, "text 5") || !slices.Contains(bodies, "from carol") {
			t.Errorf("the context is %v around %s", bodies, around.Event.Type)
		}
	})
}

// Observed: a filter that names m.room.message has both servers leave a room out of /sync with
// its unread count, and say of no gap. Through the proxy the room is there with both, whether
// the filter is inline or stored.
func TestFilteredSyncHasCountsAndGaps(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		b, c := newAccount(t, hs, "bob"), newAccount(t, hs, "carol")
		bob, carol := loginCurl(t, proxy.URL, b, "BOB"), loginCurl(t, proxy.URL, c, "CAROL")
		bob.awaitInOrder()
		carol.awaitInOrder()
		var made, stored struct {
			RoomID   string `json:"room_id"`
			FilterID string `json:"filter_id"`
		}
		bob.call(http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{
			"invite": []string{c.UserID}, "preset": "private_chat",
			"initial_state": []any{map[string]any{"type": "m.room.encryption", "state_key": "", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}}},
		}, &made)
		room := made.RoomID
		carol.AwaitRoom(room, "invite")
		carol.Join(room)
		const filter = `{"room":{"timeline":{"types":["m.room.message"],"limit":2}}}`
		carol.call(http.MethodPost, "/_matrix/client/v3/user/"+url.PathEscape(c.UserID)+"/filter", map[string]any{
			"room": map[string]any{"timeline": map[string]any{"types": []string{"m.room.message"}, "limit": 2}},
		}, &stored)
		for _, param := range []string{filter, stored.FilterID} {
			since := carol.filtered("", param).NextBatch
			for i := range 5 {
				bob.SendText(room, fmt.Sprint("text ", i))
			}
			limited, count := false, 0
			for range 20 {
				var got struct {
					NextBatch string `json:"next_batch"`
					Rooms     struct {
						Join map[string]struct {
							Timeline struct{ Limited bool }
							Unread   struct {
								Count int `json:"notification_count"`
							} `json:"unread_notifications"`
						}
					}
				}
				q := url.Values{"filter": {param}, "timeout": {"2000"}, "since": {since}}
				carol.call(http.MethodGet, "/_matrix/client/v3/sync?"+q.Encode(), nil, &got)
				since = got.NextBatch
				one := got.Rooms.Join[room]
				limited, count = limited || one.Timeline.Limited, max(count, one.Unread.Count)
				if limited && count > 0 {
					break
				}
			}
			if !limited || count == 0 {
				t.Errorf("%s: limited %v, %d unread", param, limited, count)
			}
		}
	})
}

// A device that has just logged in reads the history with keys of the account's backup, in the
// same request, and each message says that its key is from there.
func TestPageOfANewDeviceNamesTheBackup(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		b, c := newAccount(t, hs, "bob"), newAccount(t, hs, "carol")
		bob, carol := loginCurl(t, proxy.URL, b, "BOB"), loginCurl(t, proxy.URL, c, "CAROL")
		bob.awaitInOrder()
		carol.awaitInOrder()
		var made struct {
			RoomID string `json:"room_id"`
		}
		bob.call(http.MethodPost, "/_matrix/client/v3/createRoom", map[string]any{
			"invite": []string{c.UserID}, "preset": "private_chat",
			"initial_state": []any{map[string]any{"type": "m.room.encryption", "state_key": "", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_msgs": 1}}},
		}, &made)
		room := made.RoomID
		carol.AwaitRoom(room, "invite")
		carol.Join(room)
		var last string
		for i := range 3 {
			last = bob.SendText(room, fmt.Sprint("text ", i))
		}
		carol.Await(room, testpeer.Where{"event_id": last, "body": "text 2"})
		carol.await("the keys are not backed up", func(ctx context.Context) error {
			var s struct {
				Backup struct {
					Count, Pending int
				} `json:"backup"`
			}
			if err := carol.http.Call(ctx, http.MethodGet, control+"status", nil, &s); err != nil {
				return err
			}
			if s.Backup.Count < 3 || s.Backup.Pending > 0 {
				return fmt.Errorf("%+v", s.Backup)
			}
			return nil
		})
		second := loginCurl(t, proxy.URL, c, "SECOND")
		second.awaitInOrder()
		var page struct {
			Chunk []struct {
				Content struct {
					Body string `json:"body"`
				} `json:"content"`
				Unsigned struct {
					Trust struct {
						Source string `json:"source"`
					} `json:"dev.e2ee-proxy.trust"`
				} `json:"unsigned"`
			} `json:"chunk"`
		}
		second.call(http.MethodGet, roomPath(room, "messages")+"?dir=b&limit=50&filter="+url.QueryEscape(`{"types":["m.room.message"]}`), nil, &page)
		if len(page.Chunk) != 3 {
			t.Errorf("%d messages", len(page.Chunk))
		}
		for i, e := range page.Chunk {
			if e.Content.Body != fmt.Sprint("text ", 2-i) || e.Unsigned.Trust.Source != "backup" {
				t.Errorf("message %d is %q with a key from %q", i, e.Content.Body, e.Unsigned.Trust.Source)
			}
		}
	})
}
