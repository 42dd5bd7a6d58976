package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
)

// talker is a plain client: it knows nothing of encryption.
type talker interface {
	AwaitRoom(room, membership string)
	Join(room string)
	SendText(room, body string) string
	Reply(room, event, body string) string
	Edit(room, event, body string) string
	React(room, event, key string) string
	Redact(room, event string)
	Await(room string, where testpeer.Where) testpeer.Message
}

var _, _ talker = (*testpeer.Client)(nil), (*curl)(nil)

// curl is a client that a person would write with curl: plain requests, and a sync
// when it wants to know something.
type curl struct {
	t       *testing.T
	http    tesths.Client
	account tesths.Account

	tape     *tape
	since    string
	txn      int
	rooms    map[string]string         // room → membership
	last     map[string]string         // room → the last event that was sent there
	timeline map[string][]tesths.Event // by room
	filter   string                    // of its syncs
	unread   map[string]unread         // by room, what the latest sync with it said
	warned   []warning                 // those of the latest sync
}

// newCurl uses a session.
func newCurl(t *testing.T, baseURL string, a tesths.Account) *curl {
	all := &tape{}
	return &curl{
		t: t, http: tesths.Client{URL: baseURL, Token: a.AccessToken, Transport: all}, account: a,
		tape: all, rooms: map[string]string{}, last: map[string]string{}, timeline: map[string][]tesths.Event{},
		unread: map[string]unread{},
	}
}

// loginCurl logs in with a password.
func loginCurl(t *testing.T, baseURL string, a tesths.Account, device string) *curl {
	t.Helper()
	c := newCurl(t, baseURL, tesths.Account{})
	session, err := c.http.Login(t.Context(), a.UserID, a.Password, device)
	if err != nil {
		t.Fatal(err)
	}
	c.account, c.http = session, c.http.As(session)
	return c
}

func (c *curl) call(method, path string, body, result any) {
	c.t.Helper()
	if err := c.http.Call(c.t.Context(), method, path, body, result); err != nil {
		c.t.Fatalf("%s: %v", c.account.UserID, err)
	}
}

func roomPath(room, format string, args ...string) string {
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/"
	escaped := make([]any, len(args))
	for i, a := range args {
		escaped[i] = url.PathEscape(a)
	}
	return path + fmt.Sprintf(format, escaped...)
}

// sync asks once and keeps what came.
func (c *curl) sync(wait time.Duration) {
	c.t.Helper()
	if err := c.trySync(c.t.Context(), wait); err != nil {
		c.t.Fatalf("%s: %v", c.account.UserID, err)
	}
}

func (c *curl) trySync(ctx context.Context, wait time.Duration) error {
	q := url.Values{"timeout": {fmt.Sprint(wait.Milliseconds())}}
	if c.since != "" {
		q.Set("since", c.since)
	}
	if c.filter != "" {
		q.Set("filter", c.filter)
	}
	type timeline struct {
		Timeline struct {
			Events []json.RawMessage `json:"events"`
		} `json:"timeline"`
		unread
	}
	var raw json.RawMessage
	if err := c.http.Call(ctx, http.MethodGet, "/_matrix/client/v3/sync?"+q.Encode(), nil, &raw); err != nil {
		return err
	}
	var r struct {
		NextBatch string    `json:"next_batch"`
		Warnings  []warning `json:"dev.e2ee-proxy.warnings"`
		Rooms     struct {
			Join   map[string]timeline        `json:"join"`
			Leave  map[string]timeline        `json:"leave"`
			Invite map[string]json.RawMessage `json:"invite"`
		} `json:"rooms"`
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	c.since, c.warned = r.NextBatch, r.Warnings
	for id := range r.Rooms.Invite {
		c.rooms[id] = "invite"
	}
	for membership, rooms := range map[string]map[string]timeline{"join": r.Rooms.Join, "leave": r.Rooms.Leave} {
		for id, room := range rooms {
			c.rooms[id] = membership
			c.unread[id] = c.unread[id].after(room.unread)
			for _, rawEvent := range room.Timeline.Events {
				e := tesths.Event{Raw: rawEvent}
				if err := json.Unmarshal(rawEvent, &e); err != nil {
					return err
				}
				c.timeline[id] = append(c.timeline[id], e)
			}
		}
	}
	return nil
}

// until syncs until done is true.
func (c *curl) until(what string, done func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), testpeer.Deadline)
	defer cancel()
	for !done() {
		if ctx.Err() != nil {
			c.t.Fatalf("%s: %s not seen; rooms %v, timelines %s", c.account.UserID, what, c.rooms, c.show())
		}
		c.sync(2 * time.Second)
	}
}

func (c *curl) show() string {
	var text strings.Builder
	for room, events := range c.timeline {
		text.WriteString("\n" + room)
		for _, e := range events {
			text.WriteString("\n  " + string(e.Raw))
		}
	}
	return text.String()
}

// saw reports whether text was in anything the proxy ever answered.
func (c *curl) saw(text string) bool { return c.tape.saw(text) }

func (c *curl) AwaitRoom(room, membership string) {
	c.t.Helper()
	c.until(room+" as "+membership, func() bool { return c.rooms[room] == membership })
}

func (c *curl) Join(room string) {
	c.t.Helper()
	c.call(http.MethodPost, roomPath(room, "join"), map[string]any{}, nil)
}

func (c *curl) put(path string, content any) string {
	c.t.Helper()
	var sent struct {
		EventID string `json:"event_id"`
	}
	c.call(http.MethodPut, path, content, &sent)
	return sent.EventID
}

func (c *curl) nextTxn() string {
	c.txn++
	return fmt.Sprintf("txn%d", c.txn)
}

func (c *curl) send(room, eventType string, content map[string]any) string {
	c.t.Helper()
	return c.sendAs(room, eventType, c.nextTxn(), content)
}

// sendAs sends with a transaction ID.
func (c *curl) sendAs(room, eventType, txn string, content map[string]any) string {
	c.t.Helper()
	c.last[room] = c.put(roomPath(room, "send/%s/%s", eventType, txn), content)
	return c.last[room]
}

func text(body string) map[string]any { return map[string]any{"msgtype": "m.text", "body": body} }

func (c *curl) SendText(room, body string) string {
	c.t.Helper()
	return c.send(room, "m.room.message", text(body))
}

func (c *curl) Reply(room, event, body string) string {
	c.t.Helper()
	content := text(body)
	content["m.relates_to"] = map[string]any{"m.in_reply_to": map[string]any{"event_id": event}}
	return c.send(room, "m.room.message", content)
}

func (c *curl) Edit(room, event, body string) string {
	c.t.Helper()
	content := text("* " + body)
	content["m.new_content"] = text(body)
	content["m.relates_to"] = map[string]any{"rel_type": "m.replace", "event_id": event}
	return c.send(room, "m.room.message", content)
}

func (c *curl) React(room, event, key string) string {
	c.t.Helper()
	relation := map[string]any{"rel_type": "m.annotation", "event_id": event, "key": key}
	return c.send(room, "m.reaction", map[string]any{"m.relates_to": relation})
}

func (c *curl) Redact(room, event string) {
	c.t.Helper()
	c.put(roomPath(room, "redact/%s/%s", event, c.nextTxn()), map[string]any{})
}

// Await syncs until an event has every property named in where; it knows "event_id",
// "type", "sender", "body", "rel_type", "relates_to", "key" and "redacted".
func (c *curl) Await(room string, where testpeer.Where) testpeer.Message {
	c.t.Helper()
	var found testpeer.Message
	c.until(fmt.Sprint(where), func() bool {
		m, ok := c.find(room, where)
		found = m
		return ok
	})
	return found
}

func (c *curl) find(room string, where testpeer.Where) (testpeer.Message, bool) {
	redacted := map[string]bool{}
	for _, e := range c.timeline[room] {
		var r struct {
			Redacts string `json:"redacts"`
			Content struct {
				Redacts string `json:"redacts"`
			} `json:"content"`
		}
		if e.Type == "m.room.redaction" && json.Unmarshal(e.Raw, &r) == nil {
			redacted[r.Redacts], redacted[r.Content.Redacts] = true, true
		}
	}
	for i := len(c.timeline[room]) - 1; i >= 0; i-- {
		e := c.timeline[room][i]
		var content struct {
			Body      string `json:"body"`
			RelatesTo struct {
				RelType string `json:"rel_type"`
				EventID string `json:"event_id"`
				Key     string `json:"key"`
				InReply struct {
					EventID string `json:"event_id"`
				} `json:"m.in_reply_to"`
			} `json:"m.relates_to"`
		}
		if json.Unmarshal(e.Content, &content) != nil {
			continue
		}
		relatesTo := content.RelatesTo.EventID
		if relatesTo == "" {
			relatesTo = content.RelatesTo.InReply.EventID
		}
		has := map[string]any{
			"event_id": e.EventID, "type": e.Type, "sender": e.Sender, "body": content.Body, "redacted": redacted[e.EventID],
			"decrypted": e.Type != "m.room.encrypted", // a key may come after its message
			"rel_type":  content.RelatesTo.RelType, "relates_to": relatesTo, "key": content.RelatesTo.Key,
		}
		matches := true
		for name, want := range where {
			matches = matches && has[name] == want
		}
		if matches {
			return testpeer.Message{
				EventID: e.EventID, Sender: e.Sender, Type: e.Type, Content: e.Content, Body: content.Body,
				Unsigned: e.Unsigned, Redacted: redacted[e.EventID],
			}, true
		}
	}
	return testpeer.Message{}, false
}
