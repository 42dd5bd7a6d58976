package interceptors

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/secret"
)

const (
	alice = id.UserID("@alice:hs.example")
	bob   = id.UserID("@bob:hs.example")

	plainRoom       = id.RoomID("!plain:hs.example")
	encryptedRoom   = id.RoomID("!encrypted:hs.example")
	unsupportedRoom = id.RoomID("!unsupported:hs.example")
	unknownRoom     = id.RoomID("!unknown:hs.example")

	// canary is clear text that must not reach the homeserver.
	canary = "canary-Zq8"
)

// fakeDevice is a device that encrypts by counting.
type fakeDevice struct {
	mu        sync.Mutex
	mode      e2ee.Mode
	undecided bool // no keys of it were published yet
	rooms     map[id.RoomID]e2ee.RoomEncryption
	notes     []string
	shared    []string // history that was given to somebody
	ready     int      // how often it was made ready for a join
	sealed    map[string]e2ee.Encrypted
	said      map[string]string // by transaction, what was first sent in it
	encrypts  int
	missed    []e2ee.MissedNotification
	outgoing  []string // what was encrypted

	lookupErr, encryptErr, noteErr, clearErr error
	made                                     *e2ee.Encrypted // instead of a real one
	of                                       *fakeDevices    // whose it is, once it was used
	files                                    fakeFiles
}

// fakeFiles are files in memory.
type fakeFiles struct {
	mu                   sync.Mutex
	known                map[string]attachment.File
	used, sent, redacted []string
	err                  error
}

func (f *fakeFiles) Lookup(_ context.Context, uris []string) (map[string]attachment.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]attachment.File{}
	for _, uri := range uris {
		if file, ok := f.known[uri]; ok {
			file.Sent = file.Sent || slices.Contains(f.used, uri)
			out[uri] = file
		}
	}
	return out, f.err
}

func (f *fakeFiles) Add(ctx context.Context, file attachment.File) error {
	return f.Changed(ctx, file.URL, file)
}

func (f *fakeFiles) Changed(_ context.Context, uri string, file attachment.File) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		f.known = map[string]attachment.File{}
	}
	if f.err == nil {
		f.known[uri] = file
	}
	return f.err
}

func (f *fakeFiles) Use(_ context.Context, uris []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = append(f.used, uris...)
	return f.err
}

func (f *fakeFiles) Sent(_ context.Context, uris []string, in id.EventID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, fmt.Sprint(uris, in))
	return f.err
}

func (f *fakeFiles) Redacted(_ context.Context, event id.EventID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.redacted = append(f.redacted, string(event))
	return f.err
}

func newFakeDevice(mode e2ee.Mode) *fakeDevice {
	return &fakeDevice{
		mode: mode, sealed: map[string]e2ee.Encrypted{}, said: map[string]string{},
		rooms: map[id.RoomID]e2ee.RoomEncryption{
			plainRoom: e2ee.RoomPlain, encryptedRoom: e2ee.RoomEncrypted, unsupportedRoom: e2ee.RoomUnsupported,
		},
	}
}

func (d *fakeDevice) note(format string, args ...any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
	return d.noteErr
}

func (d *fakeDevice) noted() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.notes)
}

func (d *fakeDevice) KnownEncrypted(room id.RoomID) bool { return d.rooms[room] == e2ee.RoomEncrypted }

func (d *fakeDevice) LoadRooms(_ context.Context, rooms []id.RoomID) (int, error) {
	return len(rooms), nil
}

func (d *fakeDevice) Mode() e2ee.Mode { return d.mode }

func (d *fakeDevice) ClientMayEncrypt() bool { return d.mode == e2ee.ModeForeign || d.undecided }

func (d *fakeDevice) RoomEncryption(ctx context.Context, room id.RoomID) (e2ee.RoomEncryption, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of != nil && d.of.fact(room) != e2ee.RoomUnknown {
		return d.of.fact(room), nil
	}
	return d.rooms[room], errors.Join(d.lookupErr, ctx.Err())
}

func (d *fakeDevice) NoteEncryption(_ context.Context, room id.RoomID, content []byte) error {
	if err := d.note("encryption %s %s", room, content); err != nil {
		return err
	}
	d.of.setFact(room, e2ee.RoomEncrypted)
	return nil
}

func (d *fakeDevice) NoteMembership(ctx context.Context, room id.RoomID, user id.UserID, membership string) error {
	return errors.Join(d.note("%s %s %s", membership, user, room), ctx.Err())
}

func (d *fakeDevice) ShareHistory(_ context.Context, room id.RoomID, user id.UserID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shared = append(d.shared, fmt.Sprintf("%s %s", user, room))
}

func (d *fakeDevice) NoteVisibility(ctx context.Context, room id.RoomID, visibility string) error {
	return errors.Join(d.note("visibility %s %s", visibility, room), ctx.Err())
}

func (d *fakeDevice) TransactionTurn(context.Context, e2ee.Outgoing) (func(), error) {
	return func() {}, nil
}

func (d *fakeDevice) Encrypt(_ context.Context, out e2ee.Outgoing) (e2ee.Encrypted, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.encryptErr != nil {
		return e2ee.Encrypted{}, d.encryptErr
	}
	if d.made != nil {
		return *d.made, nil
	}
	if out.TxnID == "" || out.Type == "" || out.RoomID == "" || !json.Valid(out.Content) {
		return e2ee.Encrypted{}, errors.New("an incomplete event")
	}
	txn := d.transaction(out, "m.room.encrypted")
	if old, ok := d.sealed[txn]; ok {
		next := old
		next.Again = true // unless it is refused again
		d.sealed[txn] = next
		return old, nil
	}
	d.encrypts++
	d.outgoing = append(d.outgoing, string(out.Content))
	sealed := e2ee.Encrypted{Content: fmt.Appendf(nil, `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"sealed%d","session_id":"s"}`, d.encrypts), TxnID: txn}
	again := sealed
	again.Again = true
	d.sealed[txn] = again
	return sealed, nil
}

func (d *fakeDevice) Sent(out e2ee.Outgoing, txn string, event id.EventID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notes = append(d.notes, fmt.Sprintf("sent %s %s", out.Type, event))
	d.sealed[txn] = e2ee.Encrypted{EventID: event}
}

func (d *fakeDevice) NotSent(_ e2ee.Outgoing, txn string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.sealed[txn]
	was.Again = false
	d.sealed[txn] = was
}

// ClearTransaction names the transaction as Encrypt does.
func (d *fakeDevice) ClearTransaction(_ context.Context, out e2ee.Outgoing) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.transaction(out, out.Type), d.clearErr
}

// transaction gives what has the transaction ID of something else one of its own.
func (d *fakeDevice) transaction(out e2ee.Outgoing, wireType string) string {
	said := out.Type + string(out.Content)
	ref := string(out.RoomID) + " " + wireType + " " + out.TxnID
	if first, used := d.said[ref]; used && first != said {
		return fmt.Sprintf("%s~%x", out.TxnID, crc32.ChecksumIEEE([]byte(said)))
	}
	d.said[ref] = said
	return out.TxnID
}

// Notice knows one event in any room.
func (d *fakeDevice) Notice(_ context.Context, _ id.RoomID, event id.EventID) (json.RawMessage, bool, error) {
	return json.RawMessage(`{"event_id":"` + event + `"}`), event == "$known:e2ee-proxy.invalid", nil
}

// NoticePlace knows where that event stands.
func (d *fakeDevice) NoticePlace(_ context.Context, _ id.RoomID, event id.EventID) (string, error) {
	if event == "$known:e2ee-proxy.invalid" {
		return "s7_1", nil
	}
	return "", nil
}

func (d *fakeDevice) Open(context.Context, []e2ee.Incoming) ([]e2ee.Opened, error) { return nil, nil }

// Searches is false: the tests of searches with an index have a device of their own.
func (d *fakeDevice) Searches() bool { return false }

func (d *fakeDevice) Search(context.Context, e2ee.SearchQuery) (e2ee.SearchResult, error) {
	return e2ee.SearchResult{}, errors.New("there is no index")
}

// Actions highlights what says "you", and says nothing of what says "silent".
func (d *fakeDevice) Actions(_ context.Context, events []e2ee.ClearEvent) ([]e2ee.PushAction, error) {
	out := make([]e2ee.PushAction, len(events))
	for i, e := range events {
		out[i].Known = true
		if you := bytes.Contains(e.Clear, []byte("you")); !bytes.Contains(e.Clear, []byte("silent")) {
			out[i].Notify, out[i].Highlight = true, you
			out[i].Actions = []json.RawMessage{[]byte(`"notify"`)}
			if you {
				out[i].Actions = append(out[i].Actions, []byte(`{"set_tweak":"highlight"}`))
			}
		}
	}
	return out, nil
}

// MissedNotifications returns those of a test.
func (d *fakeDevice) MissedNotifications(context.Context) ([]e2ee.MissedNotification, error) {
	return slices.Clone(d.missed), nil
}

func (d *fakeDevice) NotificationsListed(_ context.Context, events []id.EventID) error {
	d.missed = slices.DeleteFunc(d.missed, func(m e2ee.MissedNotification) bool { return slices.Contains(events, m.Event) })
	return nil
}

func (d *fakeDevice) Arrivals() context.Context { return context.Background() }

func (d *fakeDevice) BeginSync(context.Context, string) (ClientSync, error) {
	return nil, errors.New("not here")
}

func (d *fakeDevice) Control() exchange.Control { return nil }

func (d *fakeDevice) Files() exchange.Files { return &d.files }

// fakeDevices has one device for everybody.
type fakeDevices struct {
	dev     *fakeDevice
	err     error
	noteErr error

	mu      sync.Mutex
	notes   []string
	refuses bool                              // the proxy's keys are published
	facts   map[id.RoomID]e2ee.RoomEncryption // known for everybody
	links   map[string]Identity               // by URI
	native  *fakeNative                       // nil: policy.native is off
	intents []e2ee.Intent
}

// fakeNative is a client with keys of its own.
type fakeNative struct {
	mu      sync.Mutex
	hides   map[id.UserID][]id.DeviceID // nobody may be shown, or be given something
	clear   bool                        // keys may be sent in clear
	err     error                       // of MayGet and MaySend
	answers []*e2ee.KeyAnswer
	whole   map[id.UserID]bool // of whom all devices were asked for
	ended   int
	to      []e2ee.NativeRecipient
	sent    []string // sessions
}

func (d *fakeDevices) HeldDevices(context.Context, id.UserID) ([]e2ee.HeldDevice, error) {
	return nil, nil
}

func (d *fakeDevices) HeldIdentity(context.Context, id.UserID, id.DeviceID) (Identity, error) {
	return Identity{}, e2ee.ErrUnknownDevice
}

func (d *fakeDevices) Native(context.Context, Identity) (exchange.Native, error) {
	if d.native == nil {
		return nil, d.err
	}
	return d.native, d.err
}

func (n *fakeNative) BeginQuery() exchange.NativeQuery { return n }

func (n *fakeNative) Answered(_ context.Context, res *e2ee.KeyAnswer, whole func(id.UserID) bool) (map[id.UserID][]id.DeviceID, error) {
	n.answers = append(n.answers, res)
	n.whole = make(map[id.UserID]bool)
	for user := range res.DeviceKeys {
		n.whole[user] = whole(user)
	}
	return n.hides, n.err
}

func (n *fakeNative) End() { n.ended++ }

func (n *fakeNative) MayGet(_ context.Context, to []e2ee.NativeRecipient) ([]bool, error) {
	n.to = append(n.to, to...)
	may := make([]bool, len(to))
	for i := range to {
		may[i] = !slices.Contains(n.hides[to[i].UserID], to[i].DeviceID)
	}
	return may, n.err
}

func (n *fakeNative) MayClear() bool { return n.clear }

func (n *fakeNative) MaySend(context.Context, id.RoomID) error { return n.err }

func (n *fakeNative) SentEncrypted(room id.RoomID, of id.SessionID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent = append(n.sent, fmt.Sprintf("%s %s", room, of))
}

func (d *fakeDevices) Linked(_ context.Context, uri string) (Identity, Device, bool, error) {
	who, found := d.links[uri]
	return who, d.dev, found, d.err
}

func (d *fakeDevices) fact(room id.RoomID) e2ee.RoomEncryption {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.facts[room]
}

func (d *fakeDevices) setFact(room id.RoomID, fact e2ee.RoomEncryption) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.facts == nil {
		d.facts = make(map[id.RoomID]e2ee.RoomEncryption)
	}
	d.facts[room] = fact
}

func (d *fakeDevices) ClientMayEncrypt(context.Context, Identity) (bool, error) {
	return d.dev.ClientMayEncrypt(), d.err
}

// RoomEncryption asks as the engine does, without looking at what a room replaces.
func (d *fakeDevices) RoomEncryption(ctx context.Context, _ id.UserID, room id.RoomID, read e2ee.StateReader) (e2ee.RoomEncryption, error) {
	if fact := d.fact(room); fact != e2ee.RoomUnknown {
		return fact, nil
	}
	content, err := read(ctx, room, typeEncryption)
	switch {
	case errors.Is(err, e2ee.ErrNoState):
		return e2ee.RoomPlain, nil
	case err != nil:
		return e2ee.RoomUnknown, err
	case strings.Contains(string(content), megolm):
		return e2ee.RoomEncrypted, nil
	}
	return e2ee.RoomUnsupported, nil
}

func (d *fakeDevices) NoteEncryption(ctx context.Context, room id.RoomID, content []byte) error {
	if err := d.note(ctx, "encryption %s %s", room, content); err != nil {
		return err
	}
	d.setFact(room, e2ee.RoomEncrypted)
	return nil
}

func (d *fakeDevices) MustEncrypt(ctx context.Context, room id.RoomID) error {
	return d.note(ctx, "must encrypt %s", room)
}

func (d *fakeDevices) note(ctx context.Context, format string, args ...any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notes = append(d.notes, fmt.Sprintf(format, args...))
	return errors.Join(d.noteErr, ctx.Err())
}

func (d *fakeDevices) Device(context.Context, Identity) (Device, error) {
	if d.err != nil {
		return nil, d.err
	}
	d.dev.mu.Lock()
	d.dev.of = d
	d.dev.mu.Unlock()
	return d.dev, nil
}

func (d *fakeDevices) LoggedIn(ctx context.Context, who Identity, password secret.Bytes) error {
	return d.note(ctx, "login %s %s %s %q", who.UserID, who.DeviceID, who.Token.Reveal(), password.Reveal())
}

func (d *fakeDevices) Refreshed(ctx context.Context, who Identity) error {
	return d.note(ctx, "refresh %s %s %s", who.UserID, who.DeviceID, who.Token.Reveal())
}

func (d *fakeDevices) ClientHasKeys(ctx context.Context, who Identity) (func(context.Context, bool) error, error) {
	if err := d.note(ctx, "client keys %s", who.DeviceID); err != nil {
		return nil, err
	}
	if d.refuses {
		return nil, nil
	}
	return func(ctx context.Context, accepted bool) error { return d.note(ctx, "settle %v", accepted) }, nil
}

func (d *fakeDevices) Forget(ctx context.Context, user id.UserID, devices ...id.DeviceID) error {
	return d.note(ctx, "forget %s %v", user, devices)
}

func (d *fakeDevices) ForgetAll(ctx context.Context, user id.UserID, keep ...id.DeviceID) error {
	return d.note(ctx, "forget all %s but %v", user, keep)
}

func (d *fakeDevices) ForgetAccount(ctx context.Context, user id.UserID) error {
	return d.note(ctx, "forget account %s", user)
}

// world is everything a handler needs.
type world struct {
	t        *testing.T
	handlers map[string]Handler
	up       *fakeUpstream
	devices  *fakeDevices
	dev      *fakeDevice
	who      Identity
	replaced Devices // instead of devices
}

func newWorld(t *testing.T, mode e2ee.Mode) *world {
	t.Helper()
	handlers, err := Handlers(Options{})
	if err != nil {
		t.Fatal(err)
	}
	dev := newFakeDevice(mode)
	return &world{
		t: t, handlers: handlers, up: &fakeUpstream{}, dev: dev, devices: &fakeDevices{dev: dev},
		who: Identity{UserID: alice, DeviceID: "DEVICE", Token: secret.NewString("token")},
	}
}

// call is one request of a client.
type call struct {
	handler string
	method  string
	version string // v3 unless given
	pattern string // of the path below the version
	params  map[string]string
	query   string
	body    string
	maxBody int64 // 64 KiB unless given
	ctx     context.Context
	header  http.Header
	again   bool // a replica that ended may have done it
}

// do runs a handler. The error is what the renderer would get.
func (w *world) do(c call) (*httptest.ResponseRecorder, error) {
	w.t.Helper()
	if c.version == "" {
		c.version = "v3"
	}
	if c.maxBody == 0 {
		c.maxBody = 64 << 10
	}
	if c.ctx == nil {
		c.ctx = w.t.Context()
	}
	rec := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(c.ctx, c.method, "/?"+c.query, strings.NewReader(c.body))
	req.Header.Set("Content-Type", "application/x-of-the-client")
	maps.Copy(req.Header, c.header)
	req.Body = http.MaxBytesReader(rec, req.Body, c.maxBody)
	pattern := c.pattern
	if !strings.HasPrefix(pattern, "/.well-known/") && !strings.HasPrefix(pattern, "/_matrix/") {
		pattern = "/_matrix/client/{version}" + pattern
	}
	params := maps.Clone(c.params)
	if params == nil {
		params = map[string]string{}
	}
	handler, ok := w.handlers[c.handler]
	if !ok {
		w.t.Fatalf("no handler %q", c.handler)
	}
	devices := Devices(w.devices)
	if w.replaced != nil {
		devices = w.replaced
	}
	err := handler(&Exchange{
		Writer: rec, Request: req, Upstream: w.up, Devices: devices, Identity: w.who,
		Endpoint: Endpoint{Pattern: pattern, Version: c.version, Params: params}, Again: c.again,
	})
	if err != nil && rec.Body.Len() > 0 {
		w.t.Errorf("%s answered and failed: %v", c.handler, err)
	}
	return rec, err
}

// wantNothingUpstream fails when a request has gone to the homeserver.
func (w *world) wantNothingUpstream() {
	w.t.Helper()
	if got := w.up.requests(); len(got) > 0 {
		w.t.Errorf("the homeserver got %d requests, want none: %+v", len(got), got)
	}
}

// wantNoClearText fails when the canary is in anything the homeserver got.
func (w *world) wantNoClearText() {
	w.t.Helper()
	for _, s := range w.up.requests() {
		if strings.Contains(fmt.Sprint(s), canary) {
			w.t.Errorf("clear text reached the homeserver: %+v", s)
		}
	}
}

// wantError checks what the renderer would answer with.
func wantError(t *testing.T, err error, status int, code string) {
	t.Helper()
	_ = shown(t, err, status, code)
}

// shown is wantError, and returns the error.
func shown(t *testing.T, err error, status int, code string) *apierr.Error {
	t.Helper()
	e, ok := errors.AsType[*apierr.Error](err)
	if !ok {
		t.Fatalf("got error %v, want %d %s", err, status, code)
	}
	if e.Status != status || e.ErrCode != code {
		t.Errorf("got %d %s (%s), want %d %s", e.Status, e.ErrCode, e.Public(), status, code)
	}
	if bytes.Contains([]byte(err.Error()), []byte(canary)) || strings.Contains(e.Public(), canary) {
		t.Errorf("the error shows clear text: %v", err)
	}
	return e
}
