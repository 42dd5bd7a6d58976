package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
)

// searchAnswer is the answer to a search.
type searchAnswer struct {
	Categories struct {
		Events struct {
			Count      int      `json:"count"`
			Highlights []string `json:"highlights"`
			Results    []struct {
				Rank    float64         `json:"rank"`
				Result  json.RawMessage `json:"result"`
				Context struct {
					Before   []json.RawMessage         `json:"events_before"`
					After    []json.RawMessage         `json:"events_after"`
					Profiles map[string]map[string]any `json:"profile_info"`
				} `json:"context"`
			} `json:"results"`
			Next   string `json:"next_batch"`
			Groups map[string]map[string]struct {
				Results []string `json:"results"`
			} `json:"groups"`
			State map[string][]json.RawMessage `json:"state"`
			Index struct {
				Messages int `json:"messages"`
			} `json:"dev.e2ee-proxy.search_index"`
		} `json:"room_events"`
	} `json:"search_categories"`
}

// search looks for a term; more are further members of room_events.
func (c *curl) search(term, from string, more map[string]any) searchAnswer {
	c.t.Helper()
	in := map[string]any{"search_term": term}
	maps.Copy(in, more)
	var out searchAnswer
	c.call(http.MethodPost, "/_matrix/client/v3/search"+from, map[string]any{"search_categories": map[string]any{"room_events": in}}, &out)
	return out
}

// results are the found events, by their IDs in order.
func (a *searchAnswer) results(t *testing.T) (order []string, events map[string]string) {
	t.Helper()
	var all []json.RawMessage
	for _, r := range a.Categories.Events.Results {
		all = append(all, r.Result)
		for id := range eventsOf(t, []json.RawMessage{r.Result}) {
			order = append(order, id)
		}
	}
	return order, eventsOf(t, all)
}

// wantFound fails unless a term finds these events, in any order.
func (c *curl) wantFound(room, term string, want ...string) searchAnswer {
	c.t.Helper()
	got := c.search(term, "", map[string]any{"filter": map[string]any{"rooms": []string{room}}})
	order, _ := got.results(c.t)
	slices.Sort(order)
	slices.Sort(want)
	if !slices.Equal(order, want) {
		c.t.Errorf("%q finds %v, want %v", term, order, want)
	}
	return got
}

// What was said in an encrypted room is found by its words at the proxy, also where the
// homeserver has no search of its own (Dendrite answers 501), with what stands around it;
// what was edited is found by its new words, and what was redacted not at all.
func TestSearchInEncryptedRooms(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		alice, bob, room := aliceAndBob(t, hs)

		first := alice.SendText(room, "Der Ölofen brennt, go to the lighthouse")
		second := bob.SendText(room, "to the lighthouse? 東京タワーへ行く")
		typo := bob.SendText(room, "the lihgthose is far")
		secret := alice.SendText(room, "never mind the canary")
		bob.Await(room, testpeer.Where{"event_id": secret, "body": "never mind the canary"})
		bob.Await(room, testpeer.Where{"event_id": second})

		got := bob.wantFound(room, "Lighthouse TO", first, second)
		_, events := got.results(t)
		if !contains([]byte(events[first]), `"decrypted":true`) || contains([]byte(events[first]), "ciphertext") || got.Categories.Events.Index.Messages < 4 {
			t.Errorf("found %s in an index of %d", events[first], got.Categories.Events.Index.Messages)
		}
		bob.wantFound(room, "ölofen", first)
		bob.wantFound(room, "タワー", second)
		bob.wantFound(room, "京", second)
		bob.wantFound(room, "京東")
		bob.wantFound(room, "canary", secret)

		edit := bob.Edit(room, typo, "the lighthouse is far")
		bob.Await(room, testpeer.Where{"event_id": edit})
		bob.wantFound(room, "lighthouse far", typo)
		bob.wantFound(room, "lihgthose")
		alice.Redact(room, secret)
		bob.until("the redaction", func() bool {
			order, _ := func() ([]string, map[string]string) {
				a := bob.search("canary", "", map[string]any{"filter": map[string]any{"rooms": []string{room}}})
				return a.results(t)
			}()
			return len(order) == 0
		})

		// The newest first, page by page, with what stands around them.
		var pages []string
		from := ""
		for range 4 {
			got := bob.search("lighthouse", from, map[string]any{
				"order_by": "recent", "filter": map[string]any{"limit": 1}, "include_state": true,
				"event_context": map[string]any{"before_limit": 1, "after_limit": 1, "include_profile": true},
				"groupings":     map[string]any{"group_by": []map[string]any{{"key": "room_id"}, {"key": "sender"}}},
			})
			order, _ := got.results(t)
			order = slices.DeleteFunc(order, func(id string) bool { return id[0:2] == "$s" && contains([]byte(id), "search:") })
			for _, r := range got.Categories.Events.Results {
				if len(r.Context.Before) != 1 || len(r.Context.After) > 1 || r.Context.Profiles[bob.account.UserID] == nil && r.Context.Profiles[alice.UserID] == nil {
					t.Errorf("around %s: %+v", r.Result, r.Context)
				}
			}
			if len(order) > 0 && (len(got.Categories.Events.State[room]) == 0 || len(got.Categories.Events.Groups["room_id"][room].Results) != 1) {
				t.Errorf("state and groups: %+v", got.Categories.Events)
			}
			pages = append(pages, order...)
			if from = "?next_batch=" + got.Categories.Events.Next; got.Categories.Events.Next == "" {
				break
			}
		}
		if want := []string{typo, second, first}; !slices.Equal(pages, want) {
			t.Errorf("page by page %v, want %v", pages, want)
		}
	})
}
