package control

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/secret"
)

const (
	alice = id.UserID("@alice:hs.example")
	bob   = id.UserID("@bob:hs.example")
	admin = id.UserID("@admin:hs.example")

	encryptedRoom = id.RoomID("!encrypted:hs.example")

	// canary is text that must not be in an error.
	canary = "canary-Zq8"
)

// fakeDevice is a device with a control, and nothing else.
type fakeDevice struct {
	exchange.Device
	mode    e2ee.Mode
	control exchange.Control
}

func (d *fakeDevice) Mode() e2ee.Mode           { return d.mode }
func (d *fakeDevice) Control() exchange.Control { return d.control }

// fakeDevices has one device for everybody.
type fakeDevices struct {
	exchange.Devices
	dev  *fakeDevice
	held []e2ee.HeldDevice
}

func (d fakeDevices) HeldDevices(context.Context, id.UserID) ([]e2ee.HeldDevice, error) {
	return d.held, nil
}

func (d fakeDevices) Device(context.Context, exchange.Identity) (exchange.Device, error) {
	return d.dev, nil
}

// noUpstream counts the requests for the homeserver, of which there must be none.
type noUpstream struct{ requests int }

func (u *noUpstream) refuse() error {
	u.requests++
	return errors.New("the control API passes nothing on")
}

func (u *noUpstream) Forward(*exchange.Exchange) error { return u.refuse() }

func (u *noUpstream) Do(*exchange.Exchange, exchange.Change) (*http.Response, error) {
	return nil, u.refuse()
}

func (u *noUpstream) Relay(*exchange.Exchange, *http.Response) error { return u.refuse() }

// world is everything that a call needs.
type world struct {
	t        *testing.T
	handlers map[string]exchange.Handler
	up       *noUpstream
	dev      *fakeDevice
	who      exchange.Identity
	seen     *fakeAdministration
	held     []e2ee.HeldDevice
	again    bool // a replica that was killed may have done it
}

// controlWorld returns a world with a control.
func controlWorld(t *testing.T, mode e2ee.Mode) (*world, *fakeControl) {
	t.Helper()
	seen := &fakeAdministration{}
	handlers := Handlers(exchange.Spools{}, newLimits(t), seen, func() []id.UserID { return []id.UserID{admin} })
	c := &fakeControl{}
	return &world{
		t: t, handlers: handlers, up: &noUpstream{}, dev: &fakeDevice{mode: mode, control: c},
		seen: seen, who: exchange.Identity{UserID: alice, DeviceID: "DEVICE", Token: secret.NewString("token")},
	}, c
}

// clientCall is one request of a client.
type clientCall struct {
	handler string
	method  string
	pattern string
	params  map[string]string
	body    string
	maxBody int64 // 64 KiB unless given
	query   string

	contentType string
}

// do runs a handler. The error is what the renderer would get.
func (w *world) do(c clientCall) (*httptest.ResponseRecorder, error) {
	w.t.Helper()
	rec := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(w.t.Context(), c.method, "/", strings.NewReader(c.body))
	if c.contentType != "" {
		req.Header.Set("Content-Type", c.contentType)
	}
	req.Body = http.MaxBytesReader(rec, req.Body, cmp.Or(c.maxBody, 64<<10))
	req.URL = &url.URL{Opaque: written(c.pattern, c.params), RawQuery: c.query}
	handler, ok := w.handlers[c.handler]
	if !ok {
		w.t.Fatalf("no handler %q", c.handler)
	}
	err := handler(&exchange.Exchange{
		Writer: rec, Request: req, Upstream: w.up, Devices: fakeDevices{dev: w.dev, held: w.held}, Identity: w.who, RequestID: "r-1", Again: w.again,
		Endpoint: exchange.Endpoint{Pattern: c.pattern, Params: c.params},
	})
	if err != nil && rec.Body.Len() > 0 {
		w.t.Errorf("%s answered and failed: %v", c.handler, err)
	}
	return rec, err
}

// wantNothingUpstream fails when a request has gone to the homeserver.
func (w *world) wantNothingUpstream() {
	w.t.Helper()
	if w.up.requests > 0 {
		w.t.Errorf("the homeserver got %d requests, want none", w.up.requests)
	}
}

// written returns the path of a pattern, as package proxy builds it.
func written(pattern string, params map[string]string) string {
	segments := strings.Split(pattern, "/")
	for i, seg := range segments {
		if name, ok := strings.CutPrefix(seg, "{"); ok {
			segments[i] = cmp.Or(url.PathEscape(params[strings.TrimSuffix(name, "}")]), "none")
		}
	}
	return strings.Join(segments, "/")
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
