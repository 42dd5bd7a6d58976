package interceptors

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/rewrite"
)

// readDevice opens events of reads: a ciphertext is the text of the message, or its type and
// content, "hidden" is
// one that must not be shown, and "lost" one whose key is missing. Plain events are marked
// unless they are from before the encryption of their room.
type readDevice struct {
	*fakeDevice
	unheard bool
	room    exchange.ControlRoom // nil: there is none
	move    func() error         // moves the token of events

	mu    sync.Mutex
	asked []id.RoomID
	in    []e2ee.Incoming
}

func (d *readDevice) LoadRooms(_ context.Context, rooms []id.RoomID) (int, error) {
	if d.unheard {
		return 0, nil
	}
	return len(rooms), nil
}

func (d *readDevice) KnownEncrypted(room id.RoomID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fakeDevice.KnownEncrypted(room) && (!d.unheard || slices.Contains(d.asked, room))
}

func (d *readDevice) RoomEncryption(ctx context.Context, room id.RoomID) (e2ee.RoomEncryption, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, room)
	return d.fakeDevice.RoomEncryption(ctx, room)
}

func (d *readDevice) Open(_ context.Context, in []e2ee.Incoming) ([]e2ee.Opened, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.in = append(d.in, in...)
	out := make([]e2ee.Opened, len(in))
	for i := range in {
		out[i] = openRead(in[i])
	}
	return out, nil
}

func openRead(in e2ee.Incoming) e2ee.Opened {
	var event map[string]any
	if json.Unmarshal(in.Event, &event) != nil || event == nil {
		return e2ee.Opened{Event: in.Event}
	}
	content, _ := event["content"].(map[string]any)
	unsigned, _ := event["unsigned"].(map[string]any)
	if unsigned == nil {
		unsigned = map[string]any{}
	}
	event["unsigned"] = unsigned
	out := e2ee.Opened{Type: "m.room.message"}
	clear, whole := content["ciphertext"].(map[string]any)
	switch text, _ := content["ciphertext"].(string); {
	case event["type"] != "m.room.encrypted" && in.Order == e2ee.OrderBefore:
		return e2ee.Opened{Event: in.Event, Type: "m.room.message"}
	case event["type"] != "m.room.encrypted":
		unsigned[nameTrust] = map[string]any{"code": "SentInClear"}
	case text == "lost", text == "" && !whole:
		unsigned[nameTrust] = map[string]any{"code": "MissingRoomKey"}
		out.Type = "m.room.encrypted"
	case text == "hidden":
		out.Hidden, out.Withheld = true, true
	default:
		unsigned[nameTrust] = map[string]any{"color": "none"}
		event["type"], event["content"], event["decrypted"] = "m.room.message", map[string]any{"body": text}, true
		if whole {
			inside, _ := clear["content"].(map[string]any)
			inside = maps.Clone(inside)
			inside["m.relates_to"] = content["m.relates_to"]
			event["type"], event["content"] = clear["type"], inside
			out.Type, _ = clear["type"].(string)
		}
		out.Decrypted = true
		switch kind, of, _ := strings.Cut(text, ":"); kind {
		case "type":
			event["type"], out.Type = of, of
		case "url":
			event["content"] = map[string]any{"url": of}
		case "file":
			event["content"] = map[string]any{"file": map[string]any{"url": of}}
		}
	}
	raw, err := json.Marshal(event)
	if err != nil {
		return e2ee.Opened{Event: in.Event}
	}
	out.Event = raw
	return out
}

type readDevices struct {
	Devices
	dev Device
}

func (d readDevices) Device(context.Context, Identity) (Device, error) {
	return d.dev, nil
}

const (
	nameTrust = rewrite.Prefix + "trust"
	// emptyMessage is what stands in the place of one event that must not be shown.
	emptyMessage = `{"type":"m.room.message","event_id":"","sender":"","origin_server_ts":0,"content":{}}`
)

// readWorld is the handlers of reads with a device in encryptedRoom.
type readWorld struct {
	t   *testing.T
	w   *world
	dev *readDevice
	// answer, when there is one, is what the homeserver answers at the moment.
	answer func() string
	// event is the ID of the event that is asked for; empty: that in the answer.
	event string
}

// asked returns the ID of the event that is asked for.
func (w *readWorld) asked(body string) string {
	var answer struct {
		EventID string `json:"event_id"`
		Event   struct {
			EventID string `json:"event_id"`
		} `json:"event"`
	}
	if w.event == "" && json.Unmarshal([]byte(body), &answer) == nil {
		return cmp.Or(answer.EventID, answer.Event.EventID, "$e")
	}
	return cmp.Or(w.event, "$e")
}

func newReadWorld(t *testing.T, mode e2ee.Mode) *readWorld {
	t.Helper()
	w := newWorld(t, mode)
	return &readWorld{t: t, w: w, dev: &readDevice{fakeDevice: w.dev}}
}

// paths of the endpoints, by handler.
func readPath(handler string) (method, pattern string) {
	const room = "/rooms/{roomId}"
	switch handler {
	case Messages, Threads, Members, Hierarchy:
		return http.MethodGet, room + "/" + handler
	case EventContext, GetEvent:
		return http.MethodGet, room + "/" + handler + "/{eventId}"
	case Relations:
		return http.MethodGet, room + "/relations/{eventId}"
	case RoomInitialSync:
		return http.MethodGet, room + "/initialSync"
	case StateList:
		return http.MethodGet, room + "/state"
	case StateGet:
		return http.MethodGet, room + "/state/{eventType}"
	case EventsGet:
		return http.MethodGet, "/events/{eventId}"
	case Search:
		return http.MethodPost, "/search"
	}
	return http.MethodGet, "/" + strings.ReplaceAll(handler, "initial_sync", "initialSync")
}

// read returns what the client gets when the homeserver answers with body. An error is
// shown as its code.
func (w *readWorld) read(handler, query, body string) string {
	w.t.Helper()
	method, pattern := readPath(handler)
	w.w.up.respond = func(seen) (int, string) {
		if w.answer != nil {
			return http.StatusOK, w.answer()
		}
		return http.StatusOK, body
	}
	c := call{handler: handler, method: method, pattern: pattern, query: query, params: map[string]string{
		"roomId": encryptedRoom.String(), "eventId": w.asked(body), "eventType": "m.room.name",
	}}
	if method == http.MethodPost {
		c.body = `{"search_categories":{"room_events":{"search_term":"x","filter":{"rooms":["!plain:hs.example"]}}}}`
	}
	w.w.replaced = readDevices{dev: w.dev}
	rec, err := w.w.do(c)
	if said, ok := errors.AsType[*apierr.Error](err); ok {
		return said.ErrCode
	}
	if err != nil || rec.Code != http.StatusOK {
		w.t.Fatalf("%s: %d, %v", handler, rec.Code, err)
	}
	if !json.Valid(rec.Body.Bytes()) {
		w.t.Fatalf("%s: not JSON: %s", handler, rec.Body)
	}
	return rec.Body.String()
}
