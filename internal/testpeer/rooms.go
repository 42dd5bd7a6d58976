package testpeer

import (
	"encoding/json"
	"time"
)

// Room configures a new room.
type Room struct {
	Encrypted         bool
	Invite            []string
	Name              string
	HistoryVisibility string
	// Version is the room's version, the homeserver's default when empty.
	Version string
}

// CreateRoom makes a room and waits until this client knows it.
func (c *Client) CreateRoom(r Room) string {
	c.t.Helper()
	var made struct {
		RoomID string `json:"room_id"`
	}
	args := map[string]any{"encrypted": r.Encrypted, "invite": append([]string{}, r.Invite...), "name": r.Name}
	if r.HistoryVisibility != "" {
		args["history_visibility"] = r.HistoryVisibility
	}
	if r.Version != "" {
		args["room_version"] = r.Version
	}
	c.do("createRoom", args, &made)
	return made.RoomID
}

// Join waits for nothing before, and until this client knows the room after.
func (c *Client) Join(room string) {
	c.t.Helper()
	c.do("join", map[string]any{"room": room}, nil)
}

// AwaitRoom waits until this client knows that its membership in the room is so.
func (c *Client) AwaitRoom(room, membership string) {
	c.t.Helper()
	c.do("awaitRoom", map[string]any{"room": room, "membership": membership}, nil)
}

// AwaitMember waits until this client knows that somebody's membership is so.
func (c *Client) AwaitMember(room, user, membership string) {
	c.t.Helper()
	c.do("awaitMember", map[string]any{"room": room, "user": user, "membership": membership}, nil)
}

// Invite invites a user.
func (c *Client) Invite(room, user string) {
	c.t.Helper()
	c.do("invite", map[string]any{"room": room, "user": user}, nil)
}

// Kick removes a user.
func (c *Client) Kick(room, user string) {
	c.t.Helper()
	c.do("kick", map[string]any{"room": room, "user": user}, nil)
}

// Leave leaves the room.
func (c *Client) Leave(room string) {
	c.t.Helper()
	c.do("leave", map[string]any{"room": room}, nil)
}

// SetState sends a state event.
func (c *Client) SetState(room, eventType, stateKey string, content any) {
	c.t.Helper()
	c.do("setState", map[string]any{"room": room, "type": eventType, "state_key": stateKey, "content": content}, nil)
}

func (c *Client) send(cmd string, args map[string]any) string {
	c.t.Helper()
	var sent struct {
		EventID string `json:"event_id"`
	}
	c.do(cmd, args, &sent)
	return sent.EventID
}

// Send sends an event and returns its ID.
func (c *Client) Send(room, eventType string, content any) string {
	c.t.Helper()
	return c.send("send", map[string]any{"room": room, "type": eventType, "content": content})
}

// SendText sends a text message and returns its event ID.
func (c *Client) SendText(room, body string) string {
	c.t.Helper()
	return c.send("sendText", map[string]any{"room": room, "body": body})
}

// Reply answers an event.
func (c *Client) Reply(room, event, body string) string {
	c.t.Helper()
	return c.send("reply", map[string]any{"room": room, "event": event, "body": body})
}

// Edit replaces the text of an event.
func (c *Client) Edit(room, event, body string) string {
	c.t.Helper()
	return c.send("edit", map[string]any{"room": room, "event": event, "body": body})
}

// React reacts to an event.
func (c *Client) React(room, event, key string) string {
	c.t.Helper()
	return c.send("react", map[string]any{"room": room, "event": event, "key": key})
}

// Redact redacts an event.
func (c *Client) Redact(room, event string) {
	c.t.Helper()
	c.do("redact", map[string]any{"room": room, "event": event}, nil)
}

// Unread are the numbers of unread messages that a client shows of a room.
type Unread struct {
	Notifications int `json:"notification_count"`
	Highlights    int `json:"highlight_count"`
}

// Unread returns the numbers that this client shows of a room.
func (c *Client) Unread(room string) Unread {
	c.t.Helper()
	var u Unread
	c.do("unread", map[string]any{"room": room}, &u)
	return u
}

// MarkRead sends a read receipt for an event that this client has.
func (c *Client) MarkRead(room, event string) {
	c.t.Helper()
	c.do("markRead", map[string]any{"room": room, "event": event}, nil)
}

// Typing says that the user is typing.
func (c *Client) Typing(room string) {
	c.t.Helper()
	c.do("typing", map[string]any{"room": room}, nil)
}

// Members returns who is in a room, by the state that this client has.
func (c *Client) Members(room string) []string {
	c.t.Helper()
	var all []string
	c.do("members", map[string]any{"room": room}, &all)
	return all
}

// SendPicture uploads a picture as a client without encryption does, and sends it.
func (c *Client) SendPicture(room, name string, data []byte) string {
	c.t.Helper()
	return c.send("sendPicture", map[string]any{"room": room, "name": name, "data": data})
}

// OpenPicture waits for a picture with this name and downloads it, as a client without
// encryption does.
func (c *Client) OpenPicture(room, name string) []byte {
	c.t.Helper()
	m := c.AwaitText(room, name)
	var content struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(m.Content, &content); err != nil || content.URL == "" {
		c.t.Fatalf("%s has no picture in %s", c.UserID, m.Content)
	}
	var data []byte
	c.do("download", map[string]any{"url": content.URL}, &data)
	return data
}

// Shield is the mark that Element shows beside a message.
type Shield struct {
	Colour string `json:"colour"` // NONE, GREY or RED
	Reason string `json:"reason"` // as matrix-js-sdk's EventShieldReason; empty for NONE
}

// Message is an event as a person at the client sees it, with what came over the wire.
type Message struct {
	EventID  string          `json:"event_id"`
	Sender   string          `json:"sender"`
	Type     string          `json:"type"`
	Content  json.RawMessage `json:"content"` // with the latest edit applied
	Body     string          `json:"body"`
	StateKey *string         `json:"state_key"`
	// Encrypted reports whether it came encrypted to this client.
	Encrypted bool   `json:"encrypted"`
	Decrypted bool   `json:"decrypted"`
	Failure   string `json:"failure"` // as matrix-js-sdk's DecryptionFailureCode
	// Shield is nil for an event that is not encrypted or not decrypted.
	Shield        *Shield         `json:"shield"`
	Redacted      bool            `json:"redacted"`
	Edited        string          `json:"edited"` // event ID of the edit that is shown
	RelatesTo     json.RawMessage `json:"relates_to"`
	TransactionID string          `json:"transaction_id"`
	Unsigned      json.RawMessage `json:"unsigned"`
	WireType      string          `json:"wire_type"`
	WireContent   json.RawMessage `json:"wire_content"`
}

// Where is what an awaited event must have: properties of [Message] by their JSON
// names, or of its relation: "rel_type", "relates_to" (an event ID), "key".
type Where map[string]any

// Await waits for an event.
func (c *Client) Await(room string, where Where) Message {
	c.t.Helper()
	var m Message
	c.do("awaitMessage", map[string]any{"room": room, "where": where}, &m)
	return m
}

// AwaitText waits for a message that shows this text.
func (c *Client) AwaitText(room, body string) Message {
	c.t.Helper()
	return c.Await(room, Where{"body": body})
}

// AwaitDecrypted waits until an encrypted event can be read.
func (c *Client) AwaitDecrypted(room, event string) Message {
	c.t.Helper()
	return c.Await(room, Where{"event_id": event, "decrypted": true})
}

// AwaitFailure waits until an event is known not to be readable, for this reason.
func (c *Client) AwaitFailure(room, event, code string) Message {
	c.t.Helper()
	return c.Await(room, Where{"event_id": event, "failure": code})
}

// Timeline returns what the room shows now.
func (c *Client) Timeline(room string) []Message {
	c.t.Helper()
	var all []Message
	c.do("timeline", map[string]any{"room": room}, &all)
	return all
}

// Scrollback reads earlier messages of the room from the server, as a person does who scrolls
// up, and returns what the room shows then.
func (c *Client) Scrollback(room string) []Message {
	c.t.Helper()
	var all []Message
	c.do("scrollback", map[string]any{"room": room}, &all)
	return all
}

// TryAwait waits at most for the deadline and returns an error when the event does not
// come.
func (c *Client) TryAwait(deadline time.Duration, room string, where Where) (Message, error) {
	var m Message
	err := c.try(deadline, "awaitMessage", map[string]any{"room": room, "where": where}, &m)
	return m, err
}
