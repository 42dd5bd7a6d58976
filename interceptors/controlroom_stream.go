package interceptors

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/controlroom"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/strictjson"
)

// The old way to sync: GET initialSync, and from there GET events, again and again. The control
// room is one of the rooms of the first, and what is new of it is among the events of the second.
// As in a sync, the token that a client comes with says what it has, and the homeserver's is moved
// where it stands still (sync_move.go).

// Tags of what is looked at in these answers; see sync_added.go.
const (
	inStream      = iota // the answer
	inStreamEnd          // the token that it ends with
	inStreamRooms        // the rooms of an initialSync
	inStreamChunk        // the events
)

// streamShape returns where events stand in these answers, and what else is looked at.
func streamShape(name string) rewrite.Shape {
	shape := readShapes()[name]
	shape.Values = []rewrite.Value{{Path: "", Tag: inStream}, {Path: "end", Tag: inStreamEnd, Keep: true}}
	if name == InitialSync {
		shape.Values = append(shape.Values, rewrite.Value{Path: "rooms", Tag: inStreamRooms})
		return shape
	}
	shape.Values = append(shape.Values, rewrite.Value{Path: "chunk", Tag: inStreamChunk})
	shape.Places[0].Grows = true
	return shape
}

// streamed is the handler of [Events] and of [InitialSync]; plain is that of devices without the room.
type streamed struct {
	*read
	plain Handler
}

func (s *streamed) serve(x *Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	if dev.Mode() != e2ee.ModeProxied || !dev.ControlRoom().On() {
		return s.plain(x)
	}
	if s.name == InitialSync {
		resp, err := x.Upstream.Do(x, Change{})
		return s.answered(x, dev, "", nil, false, resp, err)
	}
	query := syncQuery(x.Request)
	token := query.Get("from")
	switch only := query.Get("room_id"); {
	case e2ee.IsControlRoom(only):
		return s.alone(x, dev, only, token)
	case only != "":
		return s.plain(x)
	}
	in := dev.BeginEvents(token)
	resp, err := s.wait(x, dev, in, query, token == "") //nolint:bodyclose // answered closes it
	for again := false; ; again = true {
		err = s.answered(x, dev, token, in, again, resp, err)
		if !errors.Is(err, errStands) {
			return err
		}
		query.Set("timeout", strconv.FormatInt(moveWait.Milliseconds(), 10))
		resp, err = doMoving(x, dev, in, Change{Query: query}, moveWish{news: true}) //nolint:bodyclose // as above
	}
}

// wait asks the homeserver for events, and until then for something new of the room.
func (s *streamed) wait(x *Exchange, dev Device, in exchange.ClientEvents, query url.Values, first bool) (*http.Response, error) {
	news, err := in.News(x.Request.Context())
	if err != nil {
		return nil, engineerr.For(fmt.Errorf("look at the control room: %w", err))
	}
	asked, err := strconv.ParseInt(query.Get("timeout"), 10, 64)
	hurry := err == nil && asked <= 0
	switch {
	case news && (first || in.Leaving()), news && hurry && in.MoveIn() > soon:
		return atOnce(x, query)
	case news && hurry:
		query.Set("timeout", strconv.FormatInt(moveWait.Milliseconds(), 10))
	}
	resp, err := doMoving(x, dev, in, Change{Query: query}, moveWish{first: first, news: news, hurry: hurry})
	if errors.Is(err, errArrived) {
		return atOnce(x, query)
	}
	return resp, err
}

// answered answers with what the homeserver has, and what is new of the room; in is nil for an
// initialSync.
func (s *streamed) answered(x *Exchange, dev Device, token string, in exchange.ClientEvents, again bool, resp *http.Response, err error) error {
	if errors.Is(err, errArrived) { // it was asked again already
		resp, err = atOnce(x, syncQuery(x.Request))
	}
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return x.RelayAndClose(resp)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read to its end, or the request failed
	return s.answer(x, dev, token, in, again, resp)
}

func (s *streamed) answer(x *Exchange, dev Device, token string, in exchange.ClientEvents, again bool, resp *http.Response) (err error) {
	added := &streamAdded{name: s.name}
	body, err := s.rewriter.Read(resp.Body, rewrite.Pass{Owner: x.Identity.UserID, Hooks: rewrite.Hooks{Value: added.look}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if in != nil && (added.end == "" || added.end == e2ee.PlainToken(token)) {
		if err := stands(x, in, in.News, again); err != nil {
			return err
		}
	}
	if err := s.lookUpRooms(x.Request.Context(), dev, body); err != nil {
		return err
	}
	if err := added.fill(x, dev, token); err != nil {
		return err
	}
	out := s.output(dev)
	out.Added = added.at
	if err := body.Relay(x, resp, out); err != nil {
		return err
	}
	dev.ControlRoom().Give(added.from, added.to)
	return nil
}

// streamAdded is what an answer gets of the room.
type streamAdded struct {
	name string
	// end is the token that the answer ends with.
	end string
	// listed reports whether the answer has the list into which elements are put.
	listed   bool
	elements []json.RawMessage
	// from and to are what is said in them.
	from, to int64
	out      bytes.Buffer
}

// look takes the token, and marks where something is added.
func (a *streamAdded) look(f *rewrite.Found) error {
	switch f.Tag {
	case inStream:
		return f.Extend(inStream)
	case inStreamEnd:
		a.end = textOf(f)
		return nil
	case inStreamRooms:
		if a.listed = f.Kind == '['; a.listed {
			return f.ExtendArray(inStreamRooms)
		}
	case inStreamChunk:
		if a.listed = f.Kind == '['; a.listed {
			return f.ExtendList()
		}
	}
	return nil
}

// fill finds out what is new.
func (a *streamAdded) fill(x *Exchange, dev Device, token string) error {
	update, err := dev.ControlRoom().Stream(x.Request.Context(), token, a.end)
	if err != nil {
		return engineerr.For(fmt.Errorf("look at the control room: %w", err))
	}
	switch {
	case update == nil:
	case a.name == Events:
		a.elements, a.to = controlEvents(update)
	case !update.Leave:
		entry, from, to, err := controlroom.InitialSync(update.View, x.Request.URL.Query())
		if err != nil {
			return fmt.Errorf("write the control room: %w", err)
		}
		a.elements, a.from, a.to = []json.RawMessage{entry}, from, to
	}
	return nil
}

// controlEvents returns what is new of the room as events, and the number of the last message.
func controlEvents(u *e2ee.ControlUpdate) (events []json.RawMessage, last int64) {
	events = slices.Concat(u.State, u.Timeline)
	for _, raw := range u.Ephemeral {
		if e, err := strictjson.Parse(raw); err == nil {
			events = append(events, e.Set("room_id", strictjson.Quote(string(u.ID()))).Encode())
		}
	}
	if len(u.Timeline) > 0 && !u.Leave {
		last = u.Last
	}
	return events, last
}

// at returns what is added at a place, see [rewrite.Output].
func (a *streamAdded) at(tag int, _ id.RoomID) ([]byte, error) {
	out := &a.out
	out.Reset()
	switch tag {
	case rewrite.Back, inStreamRooms:
		writeElements(out, a.elements)
	case inStream:
		if !a.listed && len(a.elements) > 0 {
			list := "chunk"
			if a.name == InitialSync {
				list = "rooms"
			}
			writeName(out, list)
			out.WriteByte('[')
			writeElements(out, a.elements)
			out.WriteByte(']')
		}
	}
	return out.Bytes(), nil
}

// alone answers a request for the events of a control room only, which the homeserver does not have.
func (s *streamed) alone(x *Exchange, dev Device, name, token string) error {
	room, ctx := dev.ControlRoom(), x.Request.Context()
	switch {
	case name != string(e2ee.ControlRoomOf(x.Identity.UserID)):
		return apierr.Forbidden("You are not in this room.")
	case token == "":
		return apierr.InvalidParam("from is missing.").WithHint("It is the end of a sync, of GET /initialSync or of GET /events.")
	}
	if err := s.awaitRoom(x, dev, token); err != nil {
		return engineerr.For(fmt.Errorf("wait for the control room: %w", err))
	}
	update, end, err := room.Alone(ctx, token)
	if err != nil {
		return engineerr.For(fmt.Errorf("look at the control room: %w", err))
	}
	events, last := []json.RawMessage{}, int64(0)
	if update != nil {
		events, last = controlEvents(update)
	}
	if err := x.WriteJSON(map[string]any{"chunk": events, "start": token, "end": end}); err != nil {
		return err
	}
	room.Give(0, last)
	return nil
}

// awaitRoom waits for something new of the room, for as long as the client wants to.
func (s *streamed) awaitRoom(x *Exchange, dev Device, token string) error {
	longest := s.opt.MaxTimeout
	if longest == 0 {
		longest = defaultMaxTimeout
	}
	ms, err := strconv.ParseInt(x.Request.URL.Query().Get("timeout"), 10, 64)
	if err != nil || ms < 0 {
		ms = 0
	}
	ctx, cancel := context.WithTimeout(x.Request.Context(), min(time.Duration(min(ms, longest.Milliseconds()))*time.Millisecond, longest))
	defer cancel()
	for {
		arrived := dev.Arrivals()
		if waiting, err := dev.ControlRoom().Waiting(x.Request.Context(), token); err != nil || waiting {
			return err //nolint:wrapcheck // the caller says what was done
		}
		select {
		case <-ctx.Done():
			return nil
		case <-arrived.Done():
		}
	}
}
