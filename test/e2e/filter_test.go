package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"e2ee-proxy/internal/tesths"
)

// Requirement 19.12: a client's filter is about clear events, inline and by its ID, and
// what the proxy needs to see passes it all the same.
func TestFilters(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		bob, carol, room := bobAndCarol(t, hs)
		for _, filter := range []string{
			`{"room":{"timeline":{"types":["m.room.message"]},"state":{"types":[]}}}`,
			`{"room":{"timeline":{"types":["m.room.message"],"not_senders":["` + carol.account.UserID + `"]},"state":{"not_types":["*"]}},"event_fields":["type","content.body"]}`,
			`{"room":{"rooms":["` + room + `"],"timeline":{"types":["m.room.mess*"],"contains_url":false},"state":{"types":[],"lazy_load_members":true}},"account_data":{"types":[]}}`,
		} {
			var stored struct {
				FilterID string `json:"filter_id"`
			}
			carol.call(http.MethodPost, "/_matrix/client/v3/user/"+url.PathEscape(carol.account.UserID)+"/filter", json.RawMessage(filter), &stored)
			for _, param := range []string{filter, stored.FilterID} {
				since := carol.filtered("", param).NextBatch
				bob.call(http.MethodPut, roomPath(room, "state/%s", "m.room.encryption"), map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}, nil)
				event := bob.SendText(room, "for "+param)
				came := false
				for range 20 {
					got := carol.filtered(since, param)
					since = got.NextBatch
					events := got.Rooms.Join[room].Timeline.Events
					came = came || slices.ContainsFunc(events, func(e filteredEvent) bool { return e.Content.Body == "for "+param })
					for _, e := range slices.Concat(events, got.Rooms.Join[room].State.Events) {
						if e.Type != "m.room.message" {
							t.Errorf("%s: %s came", param, e.Type)
						}
					}
					if came {
						break
					}
				}
				if !came {
					t.Errorf("%s: %s did not come", param, event)
				}
				// Carol's device knows now that the room is encrypted.
				reply := carol.SendText(room, "back")
				wantStoredEncrypted(t, hs, bob.account, room, event, reply)
			}
		}
	})
}

type filteredEvent struct {
	Type    string `json:"type"`
	Content struct {
		Body string `json:"body"`
	} `json:"content"`
}

type filteredSync struct {
	NextBatch string `json:"next_batch"`
	Rooms     struct {
		Join map[string]struct {
			Timeline, State struct {
				Events []filteredEvent `json:"events"`
			}
		} `json:"join"`
	} `json:"rooms"`
}

func (c *curl) filtered(since, filter string) filteredSync {
	c.t.Helper()
	q := url.Values{"filter": {filter}, "timeout": {"2000"}}
	if since != "" {
		q.Set("since", since)
	}
	var r filteredSync
	c.call(http.MethodGet, "/_matrix/client/v3/sync?"+q.Encode(), nil, &r)
	return r
}
