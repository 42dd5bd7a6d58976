package interceptors

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/jsonscan"
)

// The answer to a search says which rooms were left out, beside the results:
//
//   - for programs, "dev.e2ee-proxy.not_searched" in room_events: {count, rooms, message},
//     with the first rooms by their IDs; and about the account's index
//     "dev.e2ee-proxy.search_index": {messages, since, refilling, missing};
//   - for people, a first result that is a notice of the proxy in one of those rooms. It
//     counts as a result, and is like any message except that nobody else has it. There is
//     none on later pages, and none at all for devices with keys of their own and where
//     notices are hidden (clients.hide_warnings, accounts.USER.notices).

const (
	nameNotSearched = rewrite.Prefix + "not_searched"
	nameSearchIndex = rewrite.Prefix + "search_index"
	// maxNamed is how many of the rooms are named.
	maxNamed = 100
	// searchNoticeID is the event ID of the notice in every answer.
	searchNoticeID = "$search:" + e2ee.NoticeServer
)

// searchNote is about the rooms that were not searched.
type searchNote struct {
	rooms []string
	// silent leaves out the notice.
	silent bool
	// index is about the index, if it was searched; status why the homeserver did not search
	// in plain rooms.
	index  *indexNote
	status int
}

// indexNote is about the account's index.
type indexNote struct {
	state   e2ee.SearchState
	missing int    // messages that the homeserver did not give out
	room    string // for the notice
}

// anything reports whether there is something to tell people.
func (n *searchNote) anything() bool {
	return len(n.rooms) > 0 || n.index != nil && n.index.state.Refilling
}

const textRefilling = "What is searched was damaged and is being filled again: some messages are not found yet."

func (n *searchNote) message() string {
	if n.index == nil {
		return n.withoutIndex()
	}
	var parts []string
	switch {
	case n.status != 0:
		parts = append(parts, roomsNotSearched(len(n.rooms))+": the homeserver does not search (it answers "+strconv.Itoa(n.status)+"), or nothing of them has been read through the proxy yet.")
	case len(n.rooms) > 0:
		parts = append(parts, roomsNotSearched(len(n.rooms))+": nothing of them has been read through the proxy yet, or it is not known whether they are encrypted.")
	}
	if n.index.state.Refilling {
		parts = append(parts, textRefilling)
	}
	return strings.Join(parts, " ")
}

func roomsNotSearched(n int) string {
	if n == 1 {
		return "1 room was not searched"
	}
	return strconv.Itoa(n) + " rooms were not searched"
}

func (n *searchNote) withoutIndex() string {
	if len(n.rooms) == 1 {
		return "A room was not searched, because it is encrypted, or may be: the homeserver finds nothing in it, and would learn what you look for."
	}
	return strconv.Itoa(len(n.rooms)) + " rooms were not searched, because they are encrypted, or may be: " +
		"the homeserver finds nothing in them, and would learn what you look for."
}

// members returns the members for programs.
func (n *searchNote) members() map[string]any {
	out := make(map[string]any)
	if len(n.rooms) > 0 {
		out[nameNotSearched] = struct {
			Count   int      `json:"count"`
			Rooms   []string `json:"rooms"`
			Message string   `json:"message"`
		}{len(n.rooms), n.rooms[:min(len(n.rooms), maxNamed)], n.message()}
	}
	if n.index != nil {
		out[nameSearchIndex] = struct {
			Messages  int   `json:"messages"`
			Since     int64 `json:"since"`
			Refilling bool  `json:"refilling"`
			Missing   int   `json:"missing"`
		}{n.index.state.Messages, n.index.state.Began.UnixMilli(), n.index.state.Refilling, n.index.missing}
	}
	return out
}

// member returns the members for programs as they stand in an object.
func (n *searchNote) member() ([]byte, error) {
	raw, err := json.Marshal(n.members(), json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("write what was not searched: %w", err)
	}
	return raw[1 : len(raw)-1], nil
}

// noticeRoom is the room that the notice is shown in.
func (n *searchNote) noticeRoom() string {
	if len(n.rooms) > 0 {
		return n.rooms[0]
	}
	return n.index.room
}

// result returns the notice as a result of the search.
func (n *searchNote) result() (jsontext.Value, error) {
	none := []jsontext.Value{}
	raw, err := json.Marshal(map[string]any{
		"rank": 1,
		"result": map[string]any{
			"type": typeMessage, "event_id": searchNoticeID, "sender": e2ee.NoticeSender, "room_id": n.noticeRoom(),
			"origin_server_ts": time.Now().UnixMilli(),
			"content":          map[string]any{"msgtype": "m.notice", "body": n.message()},
		},
		"context": map[string]any{"events_before": none, "events_after": none, "profile_info": map[string]any{}},
	}, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("write what was not searched: %w", err)
	}
	return raw, nil
}

// answer answers a search of which no room is left.
func (n *searchNote) answer(x *Exchange) error {
	found := map[string]any{"count": 0, "highlights": []string{}, "results": []any{}, "state": map[string]any{}, "groups": map[string]any{}}
	if n.anything() {
		maps.Copy(found, n.members())
		if !n.silent {
			result, err := n.result()
			if err != nil {
				return err
			}
			found["count"], found["results"] = 1, []any{result}
		}
	}
	return x.WriteJSON(map[string]any{"search_categories": map[string]any{"room_events": found}})
}

// notingUpstream adds a note to the answer that the client gets.
type notingUpstream struct {
	Upstream
	note   *searchNote
	spools exchange.Spools
}

// Forward implements [Upstream].
func (u *notingUpstream) Forward(x *Exchange) error {
	resp, err := u.Do(x, Change{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return u.Relay(x, resp)
}

// Relay implements [Upstream].
func (u *notingUpstream) Relay(x *Exchange, resp *http.Response) (err error) {
	if resp.StatusCode != http.StatusOK {
		return u.Upstream.Relay(x, resp)
	}
	body, out := u.spools.New(x.Identity.UserID, 0), u.spools.New(x.Identity.UserID, 0)
	defer func() { err = errors.Join(err, body.Close(), out.Close()) }()
	edits, err := u.note.edits(exchange.Spooling(resp.Body, body))
	if err != nil {
		return rewrite.Failure(err)
	}
	edit := jsonscan.NewEditor(out, body.Reader())
	for _, e := range edits {
		if err := edit.Apply(e); err != nil {
			return searchNotRewritten(err)
		}
	}
	if err := edit.Close(); err != nil {
		return searchNotRewritten(err)
	}
	exchange.SetBody(resp, out.Reader(), out.Size())
	return u.Upstream.Relay(x, resp)
}

// searchNotRewritten returns the client's error for an answer that could not be rewritten.
func searchNotRewritten(err error) error {
	if full := exchange.SpoolFailure(err); full != nil {
		return full
	}
	return fmt.Errorf("rewrite what was found: %w", err)
}

const (
	inFound = iota + 1
	inResults
	inCount
)

// edits reads an answer and returns the edits that put the note into it.
func (n *searchNote) edits(body io.Reader) ([]jsonscan.Edit, error) {
	graph := jsonscan.NewNode()
	found := graph.Down(jsonscan.Key("search_categories"), jsonscan.Key("room_events")).Report(inFound, false)
	found.Down(jsonscan.Key("results")).Report(inResults, false).Down(jsonscan.Elem())
	found.Down(jsonscan.Key("count")).Report(inCount, true)
	member, err := n.member()
	if err != nil {
		return nil, err
	}
	var result jsontext.Value
	tells := n.anything() && !n.silent
	if tells {
		if result, err = n.result(); err != nil {
			return nil, err
		}
	}
	var edits []jsonscan.Edit
	_, err = jsonscan.Scan(body, graph, jsonscan.Options{}, func(v *jsonscan.Value) error {
		switch {
		case v.ID == inFound && v.Kind == '{':
			edits = append(edits, jsonscan.Edit{Op: jsonscan.Insert, Start: v.Start + 1, After: v.Count > 0, Data: member})
		case !tells:
		case v.ID == inResults && v.Kind == '[':
			edits = append(edits, jsonscan.Edit{Op: jsonscan.Insert, Start: v.Start + 1, After: v.Count > 0, Data: result})
		case v.ID == inCount:
			if count, err := strconv.Atoi(string(v.Raw)); err == nil {
				edits = append(edits, jsonscan.Edit{Op: jsonscan.Replace, Start: v.Start, End: v.End, Data: []byte(strconv.Itoa(count + 1))})
			}
		}
		return nil
	})
	slices.SortFunc(edits, func(a, b jsonscan.Edit) int { return cmp.Compare(a.Start, b.Start) })
	return edits, err //nolint:wrapcheck // rewrite.Failure tells its kinds apart
}
