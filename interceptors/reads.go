package interceptors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/internal/jsonscan"
)

// Reads: every endpoint that returns events, beside /sync. For devices whose encryption the
// proxy does, the events are rewritten as in a sync; reads_table.go says where they stand.
// Clients with keys of their own, and tokens without a device, get the homeserver's answer.
//
// The request goes up as it came. A filter in it is applied by the homeserver, to encrypted
// events as such.

// reader holds the handlers of reads.
type reader struct {
	opt    SyncOptions
	graphs eventGraphs
	older  olderPages
}

func newReader(o SyncOptions) (*reader, error) {
	older, err := lru.New[string, struct{}](maxOlderPages)
	if err != nil {
		return nil, fmt.Errorf("make the memory of pages: %w", err)
	}
	return &reader{opt: o, graphs: newEventGraphs(), older: older}, nil
}

// handlers returns the handlers of all families.
func (r *reader) handlers() map[string]Handler {
	all := make(map[string]Handler)
	for name, f := range families() {
		all[name] = r.handler(&f)
	}
	maps.Copy(all, (&stateReader{r.handler(stateFamily()), r.handler(stateEventFamily()), r.opt.ShowEncryptionState}).handlers())
	return all
}

// handler returns the handler of a family of endpoints.
func (r *reader) handler(f *family) Handler {
	graph := f.graph()
	return func(x *Exchange) error {
		dev, err := x.Device()
		if err != nil {
			return err
		}
		if dev.Mode() != e2ee.ModeProxied {
			return x.Upstream.Forward(x)
		}
		resp, err := x.Upstream.Do(x, Change{})
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return x.RelayAndClose(resp)
		}
		defer resp.Body.Close() //nolint:errcheck // it was read to its end, or the request failed
		return r.answer(x, dev, f, graph, resp)
	}
}

// answer rewrites a body of the family.
func (r *reader) answer(x *Exchange, dev Device, f *family, graph *jsonscan.Node, resp *http.Response) (err error) {
	body, plan := r.opt.spools.New(x.Identity.UserID, 0), r.opt.spools.New(x.Identity.UserID, planMemory)
	defer func() { err = errors.Join(err, body.Close(), plan.Close()) }()
	s := &readScan{
		eventScan: eventScan{graphs: &r.graphs, showEncryption: r.opt.ShowEncryptionState}, family: f,
	}
	query := x.Request.URL.Query()
	if f.room == roomOfPath {
		if s.room, err = x.RoomParam(); err != nil {
			return err
		}
	}
	s.backward = f.paged && query.Get("dir") == "b"
	if err := s.scan(resp.Body, graph, body, plan); err != nil {
		if errors.Is(err, errNoSuchEvent) {
			return apierr.NotFound("There is no such event.")
		}
		return syncFailure(err)
	}
	if s.backward {
		r.rememberPage(x, s, query.Get("from"))
	}
	if err := r.lookUpRooms(x.Request.Context(), dev, s); err != nil {
		return err
	}
	w := &eventWriter{
		dev: dev, graphs: &r.graphs, body: body, plan: newPlanReader(plan), showEncryption: r.opt.ShowEncryptionState,
		batch: openBatch{graphs: &r.graphs}, past: s.shown, entries: s.entries, wait: r.opt.KeyWait,
	}
	return w.relay(x, resp)
}

// rememberPage remembers pages of a room's history before the event that encrypted it.
func (r *reader) rememberPage(x *Exchange, s *readScan, from string) {
	user := x.Identity.UserID
	if from != "" && !s.past.found && r.older.Contains(pageName(user, s.room, from)) {
		s.shown.rest = e2ee.OrderBefore
	} else if !s.past.first {
		return
	}
	if s.end != "" && len(s.end) <= maxPageToken {
		r.older.Add(pageName(user, s.room, s.end), struct{}{})
	}
}

// lookUpRooms finds out which rooms of an answer are encrypted. The homeserver is asked about a
// room of which nothing is known if it is the only one.
func (r *reader) lookUpRooms(ctx context.Context, dev Device, s *readScan) error {
	heard, err := dev.LoadRooms(ctx, s.rooms)
	if err != nil {
		return engineerr.For(fmt.Errorf("look up rooms: %w", err))
	}
	if s.family.room != roomOfPath || heard == len(s.rooms) || !s.plain {
		return nil
	}
	// If it cannot be found out now, nothing is marked, as in a sync without it.
	_, _ = dev.RoomEncryption(ctx, s.room)
	return nil
}

// dropKnownRooms drops what histories claim about rooms that were encrypted before.
func dropKnownRooms(ctx context.Context, dev Device, past *histories) error {
	rooms := past.withEncryption()
	if len(rooms) == 0 {
		return nil
	}
	if _, err := dev.LoadRooms(ctx, rooms); err != nil {
		return engineerr.For(fmt.Errorf("look up rooms: %w", err))
	}
	past.dropKnown(func(room id.RoomID) bool { return dev.KnownEncrypted(room) })
	return nil
}
