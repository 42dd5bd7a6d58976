package interceptors_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/secret"
)

// syncDevice stands for an engine. An event is encrypted for it when its ciphertext is
// the clear type and content as JSON: {"type":…,"content":…}.
type syncDevice struct {
	interceptors.Device
	mode      e2ee.Mode
	encrypted func(id.RoomID) bool
	extras    e2ee.SyncExtras
	room      *e2ee.ControlView // of its control room; nil: there is none
	waiting   bool              // with news, from the beginning
	leaving   bool
	news      bool // when something has arrived
	stands    func(next string) bool
	moveIn    func() time.Duration // nil: a move can be made
	move      func() error         // nil: it is not
	arrived   context.Context      // nil: nothing ever does
	arrivals  context.Context      // the same, of what comes later
	beginErr  error
	commitErr error

	mu        sync.Mutex
	began     []string
	ended     int
	stood     int
	committed []e2ee.SyncUpdate
	opened    int
	batches   []int
	in        []e2ee.Incoming
	opening   func()                // is called for each batch
	orders    map[string]e2ee.Order // of events in clear, when it is made
	known     func(id.RoomID) bool  // encrypted, before the response is committed
	// unread are the numbers of rooms that differ from the homeserver's.
	unread map[id.RoomID]map[id.EventID]e2ee.UnreadCounts
}

func (d *syncDevice) Mode() e2ee.Mode { return d.mode }

func (d *syncDevice) ControlRoom() exchange.ControlRoom { return &oneRoom{view: d.room} }

// oneRoom is a control room of which there is a view, or none.
type oneRoom struct {
	exchange.ControlRoom
	view *e2ee.ControlView
}

func (r *oneRoom) On() bool { return r.view != nil }

func (*oneRoom) Give(int64, int64) {}

func (r *oneRoom) View(context.Context) (*e2ee.ControlView, error) { return r.view, nil }

func (d *syncDevice) KnownEncrypted(room id.RoomID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known != nil && len(d.committed) == 0 {
		return d.known(room)
	}
	return d.encrypted != nil && d.encrypted(room)
}

func (d *syncDevice) LoadRooms(_ context.Context, rooms []id.RoomID) (int, error) {
	return len(rooms), nil
}

func (d *syncDevice) BeginSync(_ context.Context, since string) (interceptors.ClientSync, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.began = append(d.began, since)
	if d.beginErr != nil {
		return nil, d.beginErr
	}
	return &clientSync{d}, nil
}

type clientSync struct{ d *syncDevice }

func (s *clientSync) Waiting() bool { return s.d.waiting || s.d.leaving }

func (s *clientSync) Leaving() bool {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	return s.d.leaving
}

func (s *clientSync) News(context.Context) (bool, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	return s.d.news, nil
}

func (s *clientSync) Stands(_ context.Context, next string) (bool, error) {
	return s.d.stands != nil && s.d.stands(next), nil
}

func (s *clientSync) Move(context.Context) error {
	if s.d.move == nil {
		return errors.New("the token is not moved")
	}
	return s.d.move()
}

func (s *clientSync) MoveIn() time.Duration {
	if s.d.moveIn == nil {
		return 0
	}
	return s.d.moveIn()
}

func (s *clientSync) Stood() {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.stood++
}

func (d *syncDevice) Arrivals() context.Context {
	if d.arrivals == nil {
		return context.Background()
	}
	return d.arrivals
}

func (s *clientSync) Arrived() context.Context {
	if s.d.arrived == nil {
		return context.Background()
	}
	return s.d.arrived
}

func (s *clientSync) Commit(_ context.Context, u e2ee.SyncUpdate) (e2ee.SyncExtras, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if s.d.commitErr != nil {
		return e2ee.SyncExtras{}, s.d.commitErr
	}
	s.d.committed = append(s.d.committed, u)
	return s.d.extras, nil
}

func (s *clientSync) Unread(room id.RoomID, split bool) (map[id.EventID]e2ee.UnreadCounts, bool, bool) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	counts := maps.Clone(s.d.unread[room])
	if !split {
		maps.DeleteFunc(counts, func(root id.EventID, _ e2ee.UnreadCounts) bool { return root != "" })
	}
	return counts, counts != nil, counts != nil
}

func (s *clientSync) End() {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.ended++
}

func (d *syncDevice) Open(_ context.Context, in []e2ee.Incoming) ([]e2ee.Opened, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opening != nil {
		d.opening()
	}
	d.in = append(d.in, in...)
	d.opened += len(in)
	d.batches = append(d.batches, len(in))
	out := make([]e2ee.Opened, len(in))
	for i := range in {
		out[i] = d.open(in[i])
	}
	return out, nil
}

func (d *syncDevice) open(in e2ee.Incoming) e2ee.Opened {
	var event map[string]json.RawMessage
	var outer struct {
		Type    string
		Content struct{ Ciphertext json.RawMessage }
	}
	if strictJSON(in.Event) != nil || json.Unmarshal(in.Event, &event) != nil || json.Unmarshal(in.Event, &outer) != nil {
		return e2ee.Opened{Event: in.Event}
	}
	mark := func(trust string) {
		unsigned := map[string]json.RawMessage{}
		_ = json.Unmarshal(event["unsigned"], &unsigned)
		unsigned["dev.e2ee-proxy.trust"] = json.RawMessage(trust)
		event["unsigned"] = encode(unsigned)
	}
	if outer.Type != "m.room.encrypted" {
		var named struct {
			EventID string `json:"event_id"`
		}
		if json.Unmarshal(in.Event, &named) == nil && d.orders != nil {
			d.orders[named.EventID] = in.Order
		}
		mark(`{"code":"SentInClear","color":"red","decrypted":false}`)
		return e2ee.Opened{Event: encode(event), Type: outer.Type}
	}
	if string(event["content"]) == `{}` { // redacted
		event["type"] = encode("m.room.message")
		return e2ee.Opened{Event: encode(event), Type: "m.room.message"}
	}
	var clear struct {
		Type    string
		Content json.RawMessage
	}
	if held := string(outer.Content.Ciphertext); held == `"held back"` || held == `"hidden"` {
		mark(`{"code":"UnsignedDevice","color":"red","decrypted":false}`)
		event["type"], event["content"] = encode("m.room.message"), json.RawMessage(`{"body":"held back"}`)
		return e2ee.Opened{Event: encode(event), Type: "m.room.message", Withheld: true, Hidden: held == `"hidden"`}
	}
	if json.Unmarshal(outer.Content.Ciphertext, &clear) != nil || clear.Content == nil {
		mark(`{"code":"MissingRoomKey","decrypted":false}`)
		return e2ee.Opened{Event: encode(event), Type: outer.Type}
	}
	mark(`{"color":"none","decrypted":true}`)
	event["type"], event["content"], event["decrypted"] = encode(clear.Type), clear.Content, json.RawMessage("true")
	return e2ee.Opened{Event: encode(event), Type: clear.Type, Decrypted: true}
}

func encode(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return json.RawMessage("null")
	}
	return bytes.TrimSpace(b.Bytes())
}

// syncUpstream stands for the homeserver. It answers /sync with body, and keeps filters.
type syncUpstream struct {
	t       testing.TB
	status  int
	body    func() io.Reader
	header  http.Header
	hold    func(url.Values, context.Context) error
	filters map[string]string // by ID
	refuse  bool              // stores no filter

	mu        sync.Mutex
	syncs     []url.Values
	gets      int
	posts     int
	forwarded int
}

func (u *syncUpstream) Forward(x *interceptors.Exchange) error {
	u.forwarded++
	x.Writer.WriteHeader(http.StatusTeapot)
	return nil
}

func (u *syncUpstream) Do(x *interceptors.Exchange, c interceptors.Change) (*http.Response, error) {
	if c.Query == nil {
		u.t.Error("the query was not replaced")
	}
	resp := func(status int, body io.Reader) *http.Response {
		h := u.header.Clone()
		if h == nil {
			h = http.Header{}
		}
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", "1")
		h.Set("Etag", "x")
		length := int64(-1)
		if whole, ok := body.(*bytes.Reader); ok {
			length = whole.Size()
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(body), ContentLength: length}
	}
	switch c.Pattern {
	case "/_matrix/client/{version}/user/{userId}/filter/{filterId}":
		u.gets++
		if f, ok := u.filters[c.Params["filterId"]]; ok && c.Params["userId"] == "@me:example.org" {
			return resp(200, strings.NewReader(f)), nil
		}
		return resp(404, strings.NewReader(`{"errcode":"M_NOT_FOUND"}`)), nil
	case "/_matrix/client/{version}/user/{userId}/filter":
		u.posts++
		if u.refuse {
			return resp(429, strings.NewReader(`{"errcode":"M_LIMIT_EXCEEDED"}`)), nil
		}
		name := "wide" + string(rune('0'+u.posts))
		u.filters[name] = string(c.Body)
		return resp(200, strings.NewReader(`{"filter_id":"`+name+`"}`)), nil
	case "":
	default:
		u.t.Errorf("request to %s", c.Pattern)
	}
	u.mu.Lock()
	query := url.Values{}
	for k, v := range c.Query {
		query[k] = slices.Clone(v)
	}
	u.syncs = append(u.syncs, query)
	u.mu.Unlock()
	if u.hold != nil {
		if err := u.hold(query, x.Request.Context()); err != nil {
			return nil, err
		}
	}
	status := u.status
	if status == 0 {
		status = 200
	}
	return resp(status, u.body()), nil
}

func (u *syncUpstream) Relay(x *interceptors.Exchange, resp *http.Response) error {
	maps.Copy(x.Writer.Header(), resp.Header)
	x.Writer.WriteHeader(resp.StatusCode)
	_, err := io.Copy(x.Writer, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

type syncDevices struct {
	interceptors.Devices
	dev *syncDevice
	err error
}

func (d syncDevices) Device(context.Context, interceptors.Identity) (interceptors.Device, error) {
	return d.dev, d.err
}

// syncWorld is a handler with everything around it.
type syncWorld struct {
	dev     *syncDevice
	up      *syncUpstream
	handler interceptors.Handler
}

func newSyncWorld(t testing.TB, body string, opt interceptors.SyncOptions) *syncWorld {
	t.Helper()
	opt.SpoolDir = t.TempDir()
	if opt.SpoolMemory == 0 {
		opt.SpoolMemory = 32 << 20
	}
	handler, err := interceptors.NewSync(opt)
	if err != nil {
		t.Fatal(err)
	}
	return &syncWorld{
		dev:     &syncDevice{mode: e2ee.ModeProxied},
		up:      &syncUpstream{t: t, body: func() io.Reader { return strings.NewReader(body) }, filters: map[string]string{}},
		handler: handler,
	}
}

func (w *syncWorld) get(ctx context.Context, out http.ResponseWriter, query string) error {
	return w.handler(&interceptors.Exchange{
		Writer:   out,
		Request:  httptest.NewRequestWithContext(ctx, http.MethodGet, "/_matrix/client/v3/sync?"+query, http.NoBody),
		Endpoint: interceptors.Endpoint{Pattern: "/_matrix/client/{version}/sync", Version: "v3"},
		Identity: interceptors.Identity{UserID: "@me:example.org", DeviceID: "DEV", Token: secret.NewString("t")},
		Upstream: w.up, Devices: syncDevices{dev: w.dev},
	})
}

// sync returns the answer to one sync.
func (w *syncWorld) sync(t testing.TB, query string) (*httptest.ResponseRecorder, error) {
	t.Helper()
	out := httptest.NewRecorder()
	err := w.get(t.Context(), out, query)
	if len(w.dev.began) > 0 && w.dev.beginErr == nil && w.dev.ended != len(w.dev.began) {
		t.Errorf("%d syncs began, %d ended", len(w.dev.began), w.dev.ended)
	}
	return out, err
}
