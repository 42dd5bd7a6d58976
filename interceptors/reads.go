package interceptors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/jsonscan"
)

// Reads: every endpoint that returns events, beside /sync. For devices whose encryption the
// proxy does, the events are rewritten as in a sync; shape_….go say where they stand. Clients
// with keys of their own, and tokens without a device, get the homeserver's answer.
//
// The request goes up as it came, unless it has a filter, see pages.go.

// reader holds the handlers of reads.
type reader struct {
	opt   SyncOptions
	older olderPages
}

func newReader(o SyncOptions) (*reader, error) {
	older, err := lru.New[string, struct{}](maxOlderPages)
	if err != nil {
		return nil, fmt.Errorf("make the memory of pages: %w", err)
	}
	return &reader{opt: o, older: older}, nil
}

// readShapes returns the shapes of all reads, by their handlers' names.
func readShapes() map[string]rewrite.Shape {
	all := map[string]rewrite.Shape{Search: searchShape()}
	maps.Copy(all, roomShapes())
	maps.Copy(all, stateShapes())
	maps.Copy(all, accountShapes())
	return all
}

// handlers returns the handlers of all reads.
func (r *reader) handlers() map[string]Handler {
	all := make(map[string]Handler)
	for name, shape := range readShapes() {
		all[name] = (&read{reader: r, name: name, shape: shape, rewriter: rewrite.New(shape, r.opt.rewriting())}).serve
	}
	for _, name := range [...]string{Events, InitialSync} {
		shape := streamShape(name)
		all[name] = (&streamed{&read{reader: r, name: name, shape: shape, rewriter: rewrite.New(shape, r.opt.rewriting())}, all[name]}).serve
	}
	all[Notifications] = (&notifications{&read{reader: r, shape: readShapes()[Notifications], rewriter: rewrite.New(readShapes()[Notifications], r.opt.rewriting())}}).serve
	all[StateGet] = (&stateEvents{all[StateGet], r.opt.ShowEncryptionState}).get
	return all
}

// read handles the requests of one endpoint.
type read struct {
	*reader
	name     string
	shape    rewrite.Shape
	rewriter *rewrite.Rewriter
}

// serve asks the homeserver and rewrites what it answers, if the proxy encrypts for the device.
func (r *read) serve(x *Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	if dev.Mode() != e2ee.ModeProxied {
		return x.Upstream.Forward(x)
	}
	want, err := r.filtered(x, dev)
	if err != nil {
		return err
	}
	if want != nil {
		return r.follow(x, dev, want)
	}
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return x.RelayAndClose(resp)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read to its end, or the request failed
	return r.answer(x, dev, resp)
}

// answer rewrites an answer of the homeserver.
func (r *read) answer(x *Exchange, dev Device, resp *http.Response) (err error) {
	body, _, err := r.take(x, dev, resp, newPageTokens(x.Request.URL.Query().Get("from")), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	return body.Relay(x, resp, r.output(dev))
}

// output returns how an answer is written: what cannot be read yet comes later, by a sync.
func (r *read) output(dev Device) rewrite.Output {
	return rewrite.Output{Device: dev, Redeliver: true, Page: true, Wait: r.opt.KeyWait}
}

// take reads an answer of the homeserver: the first pass. end is the token of the page behind
// this one. Close must be called on the body, unless there is an error.
func (r *read) take(x *Exchange, dev Device, resp *http.Response, at *tokens, shown *filter.Filter) (body *rewrite.Body, end string, err error) {
	query := x.Request.URL.Query()
	pass := rewrite.Pass{
		Owner: x.Identity.UserID, Event: id.EventID(x.Endpoint.Params["eventId"]), Filter: shown, Backward: paged(&r.shape) && query.Get("dir") == "b",
	}
	pass.Hooks.Value = func(f *rewrite.Found) error {
		if end = textOf(f); !at.goesOn(end) {
			end = ""
			return f.Remove()
		}
		return nil
	}
	if r.shape.Room == rewrite.RoomOfPath {
		if pass.Room, err = x.RoomParam(); err != nil {
			return nil, "", err
		}
	}
	pass.Size = resp.ContentLength
	if body, err = r.rewriter.Read(resp.Body, pass); err != nil {
		return nil, "", err
	}
	if pass.Backward {
		r.rememberPage(body, page{x.Identity.UserID, pass.Room, at.from}, end)
	}
	if err := r.lookUpRooms(x.Request.Context(), dev, body); err != nil {
		return nil, "", errors.Join(err, body.Close())
	}
	return body, end, nil
}

// textOf returns the text of a value; empty when it is none.
func textOf(f *rewrite.Found) string {
	if f.Kind != '"' || len(f.Raw) < len(`""`) {
		return ""
	}
	return string(jsonscan.Text(f.Raw))
}

// lookUpRooms finds out which rooms of an answer are encrypted. The homeserver is asked about a
// room of which nothing is known if it is the only one.
func (r *read) lookUpRooms(ctx context.Context, dev Device, body *rewrite.Body) error {
	rooms := body.Rooms()
	heard, err := dev.LoadRooms(ctx, rooms)
	if err != nil {
		return engineerr.For(fmt.Errorf("look up rooms: %w", err))
	}
	if r.shape.Room != rewrite.RoomOfPath || heard == len(rooms) || !body.Plain() {
		return nil
	}
	// If it cannot be found out now, nothing is marked, as in a sync without it.
	_, _ = dev.RoomEncryption(ctx, rooms[0])
	return nil
}

// olderPages remembers, by their tokens, pages of rooms' histories on which everything is
// older than the room's encryption: the page before the encryption, and those before that
// one. If one is forgotten, its messages are marked as sent in clear again.
type olderPages interface {
	Contains(page string) bool
	Add(page string, _ struct{}) (evicted bool)
}

const (
	// maxOlderPages is how many are remembered, for all rooms and users together.
	maxOlderPages = 4096
	// maxPageToken is the largest token that is remembered, in bytes.
	maxPageToken = 1024
)

// page is a page of a room's history, by its token.
type page struct {
	user  id.UserID
	room  id.RoomID
	token string
}

func (p page) name() string {
	return string(slices.Concat([]byte(p.user), []byte{0}, []byte(p.room), []byte{0}, []byte(p.token)))
}

// rememberPage remembers pages of a room's history before the event that encrypted it. end is
// the token of the page behind this one.
func (r *reader) rememberPage(body *rewrite.Body, at page, end string) {
	if shows, first := body.ShowsEncryption(); at.token != "" && !shows && r.older.Contains(at.name()) {
		body.AllBefore()
	} else if !first {
		return
	}
	if at.token = end; end != "" && len(end) <= maxPageToken {
		r.older.Add(at.name(), struct{}{})
	}
}
