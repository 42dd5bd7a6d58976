package controlroom

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/strictjson"
)

// commandTime bounds one command, which goes on when its client hangs up.
const commandTime = 2 * time.Minute

// write answers a request that changes something. what is the path behind the room's ID.
func (r *Rooms) write(c *call, what string) error {
	ctx, params := c.Request.Context(), c.Endpoint.Params
	switch p := c.Endpoint.Pattern; {
	case c.view.Left && (strings.HasPrefix(what, "/send/") || strings.HasPrefix(what, "/redact/")):
		return clientError(e2ee.ErrControlRoomLeft)
	case strings.HasPrefix(what, "/send/"):
		return r.send(c)
	case strings.HasPrefix(what, "/redact/"):
		return c.redact()
	case strings.HasPrefix(what, "/receipt/"):
		if params["receiptType"] == "m.read" || params["receiptType"] == "m.fully_read" || params["receiptType"] == "m.read.private" {
			return c.done(c.room.MarkRead(ctx, id.EventID(params["eventId"])), struct{}{})
		}
		return c.WriteJSON(struct{}{})
	case what == "/read_markers":
		return c.readMarkers()
	case strings.HasPrefix(what, "/typing/"), strings.HasPrefix(what, "/report"), what == "/forget", what == "/forget/{txnId}":
		return c.WriteJSON(struct{}{})
	case what == "/leave", what == "/leave/{txnId}":
		r.talks.forget(c.view.User)
		return c.done(c.room.Leave(ctx), struct{}{})
	case what == "/join", what == "/join/{txnId}":
		return c.done(c.room.Join(ctx), map[string]any{"room_id": c.view.ID()})
	case strings.HasSuffix(p, "/account_data/{type}"), strings.HasSuffix(p, "/tags/{tag}"):
		return c.setData()
	}
	return apierr.Forbidden("This room is between you and the proxy, and stays as it is.").WithHint("You can write in it, and leave it.")
}

// done answers with a value, unless there is an error.
func (c *call) done(err error, answer any) error {
	if err != nil {
		return clientError(err)
	}
	return c.WriteJSON(answer)
}

// newID returns the ID of the event that the request makes: again the same, if it has a
// transaction ID.
func (c *call) newID() (id.EventID, string) {
	txn := c.Endpoint.Params["txnId"]
	if txn == "" {
		return e2ee.ControlEventOf(c.view.User, c.Identity.DeviceID, rand.Text()), ""
	}
	return e2ee.ControlEventOf(c.view.User, c.Identity.DeviceID, txn), txn
}

// redact takes one of the user's own messages back.
func (c *call) redact() error {
	by, txn := c.newID()
	found, err := c.room.Redact(c.Request.Context(), id.EventID(c.Endpoint.Params["eventId"]), by, txn)
	if err == nil && !found {
		return apierr.Forbidden("You can take back only what you have written yourself.")
	}
	return c.done(err, map[string]any{"event_id": by})
}

func (c *call) readMarkers() error {
	raw, err := c.ReadOptionalObject()
	if err != nil {
		return err
	}
	body, err := strictjson.Parse(raw)
	if err != nil {
		return apierr.NotJSON(nil)
	}
	for _, name := range [...]string{"m.fully_read", "m.read", "m.read.private"} {
		if event := body.TextOrEmpty(name); event != "" {
			if err := c.room.MarkRead(c.Request.Context(), id.EventID(event)); err != nil {
				return clientError(err)
			}
		}
	}
	return c.WriteJSON(struct{}{})
}

// setData changes account data of the room; a tag is one member of such.
func (c *call) setData() error {
	raw, err := c.ReadOptionalObject()
	if err != nil {
		return err
	}
	if len(raw) == 0 {
		raw = []byte(`{}`)
	}
	typ, tag := c.Endpoint.Params["type"], c.Endpoint.Params["tag"]
	if tag != "" {
		tags := strictjson.Object{}
		if has, err := strictjson.Parse(c.view.Data[typeTags]); err == nil {
			tags = has.Object("tags")
		}
		if c.Request.Method == http.MethodDelete {
			tags = tags.Without(tag)
		} else {
			tags = tags.Set(tag, raw)
		}
		typ, raw = typeTags, strictjson.Object{{Name: "tags", Value: tags.Encode()}}.Encode()
	}
	return c.done(c.room.SetData(c.Request.Context(), typ, raw), struct{}{})
}

// send takes what the person writes: it is kept if it is a command, answered, and then done.
func (r *Rooms) send(c *call) error {
	given := c.room.Given() // before anything waits
	raw, err := c.ReadObject()
	if err != nil {
		return err
	}
	body, err := strictjson.Parse(raw)
	if err != nil {
		return apierr.NotJSON(nil)
	}
	event, txn := c.newID()
	answer := map[string]any{"event_id": event}
	said, ok := readSaid(c.Endpoint.Params["eventType"], body)
	if !ok { // a reaction, a notice, an edit: nobody is told
		return c.WriteJSON(answer)
	}
	said.given = given
	t := r.talks.of(c.view.User)
	t.mu.Lock()
	defer t.mu.Unlock()
	// What is sent again must not be taken for the answer to what was asked meanwhile.
	view, err := c.room.View(c.Request.Context())
	if err != nil {
		return clientError(err)
	}
	if view.Find(event) != nil {
		return r.sayIfLost(c, t, view, event)
	}
	do := t.understand(said)
	fresh, err := c.room.Said(c.Request.Context(), e2ee.ControlLine{ID: event, Txn: txn, Content: do.kept})
	if err != nil {
		return clientError(err)
	}
	if err := c.WriteJSON(answer); err != nil || !fresh {
		return err
	}
	t.heard = event
	// The client has its answer; what follows it sees in the room.
	_ = http.NewResponseController(c.Writer).Flush()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), commandTime)
	defer cancel()
	w := &turn{rooms: r, call: c, talk: t, ctx: ctx, said: said, words: do.words}
	w.run(do)
	return nil
}

// sayIfLost answers a message that is sent again. What the process before this one kept and did not
// answer is not done unseen: it may have been done, and the question that it answered is gone.
func (r *Rooms) sayIfLost(c *call, t *talk, view *e2ee.ControlView, event id.EventID) error {
	lost := t.heard != event && view.Lines[len(view.Lines)-1].ID == event
	if err := c.WriteJSON(map[string]any{"event_id": event}); err != nil || !lost {
		return err
	}
	t.heard = event
	w := &turn{rooms: r, call: c, talk: t, ctx: context.WithoutCancel(c.Request.Context())}
	w.say("The proxy was restarted before it answered this. Write it again.")
	return nil
}
