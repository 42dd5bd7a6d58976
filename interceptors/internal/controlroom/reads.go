package controlroom

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/strictjson"
)

const (
	// tokenPrefix begins the tokens of pages: they are places between messages.
	tokenPrefix = "control-"

	defaultPage, maxPage = 10, 100
)

// TokenOf returns the token of the place before a message.
func TokenOf(seq int64) string { return tokenPrefix + strconv.FormatInt(seq, 10) }

// read answers a request that changes nothing. what is the path behind the room's ID.
func (r *Rooms) read(c *call, what string) error {
	v, params := c.view, c.Endpoint.Params
	if v.Left && what != "/summary" && what != "/state/{eventType}" {
		return notHere()
	}
	switch what {
	case "/messages":
		return c.messages()
	case "/event/{eventId}":
		event := v.Find(id.EventID(params["eventId"]))
		if event == nil {
			return noEvent()
		}
		return c.WriteJSON(event)
	case "/context/{eventId}":
		return c.context()
	case "/state":
		return c.WriteJSON(v.State())
	case "/state/{eventType}", "/state/{eventType}/{stateKey}":
		return c.state(params["eventType"], params["stateKey"])
	case "/members":
		return c.WriteJSON(chunk{Chunk: c.members()})
	case "/joined_members":
		return c.WriteJSON(map[string]any{"joined": map[id.UserID]map[string]string{
			e2ee.ControlSender: {"display_name": e2ee.ControlName}, v.User: {},
		}})
	case "/initialSync":
		return c.initialSync()
	case "/hierarchy":
		return c.WriteJSON(map[string]any{"rooms": []any{c.summary()}})
	case "/summary":
		return c.WriteJSON(c.summary())
	case "/aliases":
		return c.WriteJSON(map[string]any{"aliases": []string{}})
	case "/timestamp_to_event":
		return c.byTime()
	}
	switch p := c.Endpoint.Pattern; {
	case strings.HasPrefix(what, "/relations/"), what == "/threads":
		return c.WriteJSON(chunk{Chunk: []json.RawMessage{}})
	case strings.HasSuffix(p, "/tags"):
		return c.tags()
	case strings.HasSuffix(p, "/account_data/{type}"):
		if content, ok := v.Data[params["type"]]; ok {
			return c.WriteJSON(content)
		}
		return apierr.NotFound("There is no such account data.")
	case strings.HasSuffix(p, "/visibility/{roomId}"), strings.Contains(p, "/directory/list/room/"):
		return c.WriteJSON(map[string]string{"visibility": "private"})
	}
	return apierr.NotFound("This room has nothing of that kind.")
}

func noEvent() error { return apierr.NotFound("There is no such event.") }

type chunk struct {
	Chunk []json.RawMessage `json:"chunk"`
	Start string            `json:"start,omitempty"`
	End   string            `json:"end,omitempty"`
}

// number reads a number of a query; otherwise it is a default.
func number(query url.Values, name string, otherwise, most int) int {
	n, err := strconv.Atoi(query.Get(name))
	if err != nil || n < 1 {
		return otherwise
	}
	return min(n, most)
}

// place reads a token of a page. Any other, such as one of a sync, is the end of the room.
func (c *call) place(token string) int64 {
	n, err := strconv.ParseInt(strings.TrimPrefix(token, tokenPrefix), 10, 64)
	if err != nil || !strings.HasPrefix(token, tokenPrefix) || n < 0 {
		return c.view.Last + 1
	}
	return n
}

// messages answers with a page of the room's history.
func (c *call) messages() error {
	query := c.Request.URL.Query()
	limit, forward := number(query, "limit", defaultPage, maxPage), query.Get("dir") == "f"
	all := c.view.History()
	from := c.place(query.Get("from"))
	if forward && query.Get("from") == "" {
		from = 0
	}
	at, _ := slices.BinarySearchFunc(all, from, func(l e2ee.ControlLine, seq int64) int { return int(l.Seq - seq) })
	page := chunk{Chunk: []json.RawMessage{}, Start: TokenOf(from)}
	if forward {
		end := min(at+limit, len(all))
		for i := at; i < end; i++ {
			page.Chunk = append(page.Chunk, c.view.Event(&all[i]))
		}
		if end < len(all) {
			page.End = TokenOf(all[end].Seq)
		}
		return c.give(page, all[at:end])
	}
	begin := max(at-limit, 0)
	for i := at - 1; i >= begin; i-- {
		page.Chunk = append(page.Chunk, c.view.Event(&all[i]))
	}
	if begin > 0 {
		page.End = TokenOf(all[begin].Seq)
	}
	return c.give(page, all[begin:at])
}

// give answers with a page of what was said.
func (c *call) give(answer any, lines []e2ee.ControlLine) error {
	if err := c.WriteJSON(answer); err != nil || len(lines) == 0 {
		return err
	}
	c.room.Give(lines[0].Seq, lines[len(lines)-1].Seq)
	return nil
}

// context answers with an event and those around it.
func (c *call) context() error {
	v, event := c.view, id.EventID(c.Endpoint.Params["eventId"])
	found := v.Find(event)
	if found == nil {
		return noEvent()
	}
	all := v.History()
	i := slices.IndexFunc(all, func(l e2ee.ControlLine) bool { return l.ID == event })
	before, after := []json.RawMessage{}, []json.RawMessage{}
	start, end := TokenOf(0), TokenOf(0)
	var shown []e2ee.ControlLine
	if i >= 0 {
		around := number(c.Request.URL.Query(), "limit", defaultPage, maxPage) / 2
		first, last := max(i-around, 0), min(i+around, len(all)-1)
		for n := i - 1; n >= first; n-- {
			before = append(before, v.Event(&all[n]))
		}
		for n := i + 1; n <= last; n++ {
			after = append(after, v.Event(&all[n]))
		}
		start, end = TokenOf(all[first].Seq), TokenOf(all[last].Seq+1)
		shown = all[first : last+1]
	}
	return c.give(map[string]any{
		"event": found, "events_before": before, "events_after": after, "state": v.State(), "start": start, "end": end,
	}, shown)
}

// state answers with one state event's content, or with the event itself.
func (c *call) state(eventType, key string) error {
	for _, raw := range c.view.State() {
		ev, err := strictjson.Parse(raw)
		if err != nil || ev.TextOrEmpty("type") != eventType || ev.TextOrEmpty("state_key") != key {
			continue
		}
		if c.Request.URL.Query().Get("format") == "event" {
			return c.WriteJSON(raw)
		}
		return c.WriteJSON(ev.Get("content"))
	}
	return apierr.NotFound("This room has no such state.")
}

// members returns the events of the two who are in the room, as far as they are asked for.
func (c *call) members() []json.RawMessage {
	query := c.Request.URL.Query()
	out := []json.RawMessage{}
	for _, raw := range c.view.State() {
		ev, err := strictjson.Parse(raw)
		if err != nil || ev.TextOrEmpty("type") != "m.room.member" {
			continue
		}
		membership := ev.Object("content").TextOrEmpty("membership")
		if want := query.Get("membership"); want != "" && want != membership || query.Get("not_membership") == membership {
			continue
		}
		out = append(out, raw)
	}
	return out
}

func (c *call) initialSync() error {
	answer, from, to, err := InitialSync(c.view, c.Request.URL.Query())
	if err != nil {
		return err
	}
	if err := c.WriteJSON(answer); err != nil {
		return err
	}
	c.room.Give(from, to)
	return nil
}

// InitialSync returns the room as the old initialSync has it, for a query, and the numbers of the
// first and the last message in it; 0 when there is none.
func InitialSync(v *e2ee.ControlView, query url.Values) (room json.RawMessage, from, to int64, err error) {
	all := v.History()
	all = all[max(len(all)-number(query, "limit", defaultPage, maxPage), 0):]
	page := chunk{Chunk: []json.RawMessage{}, End: TokenOf(v.Last + 1)}
	page.Start = page.End
	if len(all) > 0 {
		from, to = all[0].Seq, all[len(all)-1].Seq
		page.Start = TokenOf(from)
	}
	for i := range all {
		page.Chunk = append(page.Chunk, v.Event(&all[i]))
	}
	data := []any{}
	for _, typ := range slices.Sorted(maps.Keys(v.Data)) {
		data = append(data, map[string]any{"type": typ, "content": v.Data[typ]})
	}
	room, err = json.Marshal(map[string]any{
		"room_id": v.ID(), "membership": "join", "visibility": "private", "messages": page, "state": v.State(), "account_data": data,
	})
	return room, from, to, err //nolint:wrapcheck // what is marshalled is JSON already
}

func (c *call) summary() map[string]any {
	membership := "join"
	if c.view.Left {
		membership = "leave"
	}
	return map[string]any{
		"room_id": c.view.ID(), "name": e2ee.ControlName, "num_joined_members": 2, "join_rule": "invite", "membership": membership,
		"guest_can_join": false, "world_readable": false, "children_state": []any{}, "room_type": nil, "room_version": "10",
	}
}

// byTime answers with the event closest to a time.
func (c *call) byTime() error {
	query := c.Request.URL.Query()
	ts, err := strconv.ParseInt(query.Get("ts"), 10, 64)
	if err != nil {
		return apierr.InvalidParam("ts in the query is not a time.").WithHint("It is a number of milliseconds since 1970.")
	}
	all := c.view.History()
	if query.Get("dir") == "b" {
		slices.Reverse(all)
	}
	for i := range all {
		if at := all[i].At; at == ts || (at > ts) == (query.Get("dir") != "b") {
			return c.WriteJSON(map[string]any{"event_id": all[i].ID, "origin_server_ts": at})
		}
	}
	return noEvent()
}

// typeTags is the type of the account data that has a room's tags.
const typeTags = "m.tag"

func (c *call) tags() error {
	if content, ok := c.view.Data[typeTags]; ok {
		return c.WriteJSON(content)
	}
	return c.WriteJSON(map[string]any{"tags": map[string]any{}})
}
