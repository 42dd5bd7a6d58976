package rewrite_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/budget"
)

// opener opens events by giving each a number, in the order in which it is asked.
type opener struct {
	encrypted id.RoomID
	asked     int // how often
	n         int
	err       error
}

func (o *opener) KnownEncrypted(room id.RoomID) bool { return room == o.encrypted }

func (o *opener) LoadRooms(_ context.Context, rooms []id.RoomID) (int, error) {
	return len(rooms), nil
}

func (o *opener) Open(_ context.Context, in []e2ee.Incoming) ([]e2ee.Opened, error) {
	o.asked++
	out := make([]e2ee.Opened, len(in))
	for i := range in {
		o.n++
		out[i] = e2ee.Opened{Event: fmt.Appendf(nil, `{"opened":%d,"in":%q,"order":%d}`, o.n, in[i].RoomID, in[i].Order), Type: "m.room.message"}
	}
	return out, o.err
}

// relay answers a client that is a recorder.
type relay struct{ exchange.Upstream }

func (relay) Relay(x *exchange.Exchange, resp *http.Response) error {
	_, err := io.Copy(x.Writer, resp.Body)
	return err
}

// rewritten returns what becomes of a body.
func rewritten(t *testing.T, r *rewrite.Rewriter, body string, p rewrite.Pass, o rewrite.Output) (string, error) {
	t.Helper()
	b, err := r.Read(strings.NewReader(body), p)
	if err != nil {
		return "", err
	}
	rec := httptest.NewRecorder()
	x := &exchange.Exchange{Writer: rec, Request: httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody), Upstream: relay{}}
	err = b.Relay(x, &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}, o)
	if closed := b.Close(); closed != nil {
		t.Error(closed)
	}
	if err == nil && !json.Valid(rec.Body.Bytes()) {
		t.Errorf("%s became %s", body, rec.Body)
	}
	return rec.Body.String(), err
}

const (
	sealed = `{"type":"m.room.encrypted","content":{"ciphertext":"x"}}`
	plain  = `{"type":"m.room.message","content":{}}`
	topic  = `{"type":"m.room.topic","state_key":"","content":{}}`
	forged = `"dev.e2ee-proxy.x":1`
)

// An endpoint that nobody has thought of needs a shape and nothing else: what is at its places
// is treated by their kind, in the room that the shape names, and the rest comes byte for byte.
func TestAnEndpointIsAShape(t *testing.T) {
	t.Parallel()
	timeline := func(path string) []rewrite.Place {
		return []rewrite.Place{{Path: path, Kind: rewrite.Timeline, Position: rewrite.After}}
	}
	for name, tt := range map[string]struct {
		shape      rewrite.Shape
		body, want string
	}{
		"the room of the path": {
			rewrite.Shape{Room: rewrite.RoomOfPath, Places: timeline("a/b/*")},
			`{ "a" : {"b":[` + sealed + ` , ` + plain + `,` + topic + `],` + forged + `},"c":[` + sealed + `]}`,
			`{ "a" : {"b":[{"opened":1,"in":"!e","order":0} , {"opened":2,"in":"!e","order":0},` + topic + `]},"c":[` + sealed + `]}`,
		},
		"the room of the event": {
			rewrite.Shape{Room: rewrite.RoomOfEvent, Places: timeline("*")},
			`[{"room_id":"!x","type":"m.room.message"},{"room_id":"!e","type":"m.room.message"}]`,
			`[{"room_id":"!x","type":"m.room.message"},{"opened":1,"in":"!e","order":0}]`,
		},
		"the room of the entry": {
			rewrite.Shape{Room: rewrite.RoomOfEntry, Entries: []string{"*"}, Places: timeline("*/l/*")},
			`[{"l":[` + plain + `],"room_id":"!x"},{"l":[` + plain + `],"room_id":"!e"}]`,
			`[{"l":[` + plain + `],"room_id":"!x"},{"l":[{"opened":1,"in":"!e","order":0}],"room_id":"!e"}]`,
		},
		"the room of the name": {
			rewrite.Shape{Room: rewrite.RoomOfName, Entries: []string{"{}"}, Places: timeline("{}/*")},
			`{"!x":[` + plain + `],"!e":[` + plain + `]}`,
			`{"!x":[` + plain + `],"!e":[{"opened":1,"in":"!e","order":0}]}`,
		},
		"a history in an entry": {
			rewrite.Shape{Room: rewrite.RoomOfName, Entries: []string{"{}"}, Places: timeline("{}/*")},
			`{"!e":[` + plain + `,{"type":"m.room.encryption","state_key":"","content":{}},` + plain + `]}`,
			`{"!e":[{"opened":1,"in":"!e","order":1},{"opened":2,"in":"!e","order":2}]}`,
		},
		"one event alone": {
			rewrite.Shape{Room: rewrite.RoomOfEntry, Entries: []string{"*"}, Places: []rewrite.Place{{Path: "*/e", Kind: rewrite.State}}},
			`[{"e":{"type":"m.room.encryption","state_key":""}}]`,
			`[{"e":{"type":"m.room.message","event_id":"","sender":"","origin_server_ts":0,"content":{}}}]`,
		},
		"no kind": {
			rewrite.Shape{Room: rewrite.RoomOfPath, Places: []rewrite.Place{{Path: "*"}}},
			`[` + sealed + `,{"decrypted":true,"type":"m.x"},{"sender":"@x:e2ee-proxy.invalid"}]`,
			`[` + sealed + `,{"type":"m.x"}]`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dev := &opener{encrypted: "!e"}
			got, err := rewritten(t, rewrite.New(tt.shape, rewrite.Options{}), tt.body, rewrite.Pass{Room: "!e"}, rewrite.Output{Device: dev})
			if err != nil || got != tt.want {
				t.Errorf("%v (-want +got):\n%s", err, cmp.Diff(tt.want, got))
			}
			if dev.asked > 1 {
				t.Errorf("the engine was asked %d times", dev.asked)
			}
		})
	}
}

// grows is a shape with everything that a handler can have a hand in.
func grows() rewrite.Shape {
	return rewrite.Shape{
		Room: rewrite.RoomOfName, Entries: []string{"rooms/{}"},
		Places: []rewrite.Place{{Path: "rooms/{}/l/*", Kind: rewrite.Timeline, Grows: true}},
		Values: []rewrite.Value{{Path: "", Tag: 1}, {Path: "secret", Tag: 2, Keep: true}, {Path: "rooms/{}/l", Tag: 3}},
	}
}

// A handler sees what it asked for, each once and in the order of the body, and what it takes
// out or puts in leaves valid JSON, whatever stands beside it.
func TestHooksTakeOutAndPutIn(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"secret":7,"rooms":{"!a":{"l":[]}}}`:                        `{"rooms":{"!a":{"l":["front !a","back !a"]}},"end":1}`,
		`{"rooms":{"!a":{"l":[` + topic + `]}},"secret":7}`:           `{"rooms":{"!a":{"l":["front !a",` + topic + `,"back !a"]}},"end":1}`,
		`{"rooms":{"!a":{"l":[` + sealed + `]}}}`:                     `{"rooms":{"!a":{"l":["front !a",{"opened":1,"in":"!a","order":0},"back !a"]}},"end":1}`,
		`{"rooms":{"!out":{"l":[` + sealed + `]},"!a":{"l":7}}}`:      `{"rooms":{"!a":{"l":7}},"end":1}`,
		`{"rooms":{"!a":{"l":[{"sender":"@x:e2ee-proxy.invalid"}]}}}`: `{"rooms":{"!a":{"l":["front !a","back !a"]}},"end":1}`,
		`{"secret":7}`: `{"end":1}`,
		`{}`:           `{"end":1}`,
	} {
		var saw []string
		f, err := filter.Parse([]byte(`{"room":{"not_rooms":["!out"]}}`))
		if err != nil {
			t.Fatal(err)
		}
		out := func(wanted bool) string { return map[bool]string{true: "", false: " unwanted"}[wanted] }
		live := false
		hooks := rewrite.Hooks{
			Enter: func(entry int, room id.RoomID, wanted bool) {
				live = wanted
				saw = append(saw, fmt.Sprintf("enter %d %s%s", entry, room, out(wanted)))
			},
			Event: func(e *rewrite.Event) error {
				saw = append(saw, fmt.Sprintf("event %d %s", e.Place, e.Type))
				return nil
			},
			Leave: func(*rewrite.Found) error {
				saw = append(saw, "leave")
				return nil
			},
			Value: func(f *rewrite.Found) error {
				saw = append(saw, fmt.Sprintf("value %d %s", f.Tag, f.Raw))
				switch {
				case f.Tag == 1:
					return f.Extend(1)
				case f.Tag == 2:
					return f.Remove()
				case live && f.Kind == '[':
					return f.ExtendList()
				}
				return nil
			},
		}
		added := func(tag int, room id.RoomID) ([]byte, error) {
			switch tag {
			case rewrite.Front:
				return fmt.Appendf(nil, `"front %s"`, room), nil
			case rewrite.Back:
				return fmt.Appendf(nil, `"back %s"`, room), nil
			}
			return []byte(`"end":1`), nil
		}
		got, err := rewritten(t, rewrite.New(grows(), rewrite.Options{}), body, rewrite.Pass{Filter: f, Hooks: hooks}, rewrite.Output{Device: &opener{}, Added: added})
		if err != nil || got != want {
			t.Errorf("%s: %v (-want +got):\n%s", body, err, cmp.Diff(want, got))
		}
		if said := strings.Join(saw, ", "); strings.Count(said, "enter") != strings.Count(body, `"!`) || strings.Count(said, "leave") != strings.Count(body, `"!`) ||
			strings.Count(said, "event") != strings.Count(body, `[{`) || strings.Contains(body, `"secret"`) != strings.Contains(said, "value 2 7") ||
			strings.Contains(body, "!out") != strings.Contains(said, "enter 0 !out unwanted") || !strings.HasSuffix(said, "value 1 ") {
			t.Errorf("%s: the hooks saw %s", body, said)
		}
	}
}

// What goes wrong while a body is read is told in words for the client, and what the body was
// kept in is given back.
func TestFailuresAreForTheClient(t *testing.T) {
	t.Parallel()
	theirs := apierr.Forbidden("of the hook")
	for name, tt := range map[string]struct {
		body   string
		disk   int64
		hook   error
		status int
		text   string
	}{
		"no JSON":            {body: `<html>`, status: http.StatusBadGateway, text: "cannot be read"},
		"too deep":           {body: strings.Repeat("[", 200_000), status: http.StatusBadGateway, text: "cannot be read"},
		"no room":            {body: `{"a":"` + strings.Repeat("x", 3<<20) + `"}`, disk: 1 << 10, status: http.StatusBadGateway, text: "larger than"},
		"an error of a hook": {body: `{}`, hook: theirs, status: http.StatusForbidden, text: "of the hook"},
		"it is a cause only": {body: `{}`, hook: apierr.Forbidden("of the hook").Because(budget.ErrSpent), status: http.StatusForbidden, text: "of the hook"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := budget.New(max(tt.disk, 1<<30), max(tt.disk, 1<<30))
			if tt.disk > 0 {
				disk = budget.New(tt.disk, tt.disk)
			}
			r := rewrite.New(grows(), rewrite.Options{Spools: exchange.Spools{Dir: t.TempDir(), Disk: disk}})
			hooks := rewrite.Hooks{Value: func(*rewrite.Found) error { return tt.hook }}
			_, err := rewritten(t, r, tt.body, rewrite.Pass{Owner: "@a:hs", Hooks: hooks}, rewrite.Output{Device: &opener{}})
			said, ok := errors.AsType[*apierr.Error](err)
			if !ok || said.Status != tt.status || !strings.Contains(said.Text, tt.text) {
				t.Errorf("got %v", err)
			}
			if disk.Taken() != 0 {
				t.Errorf("%d are taken", disk.Taken())
			}
		})
	}
	// The engine fails before the answer has begun: it is an error, and no half answer.
	got, err := rewritten(t, rewrite.New(rewrite.Shape{Room: rewrite.RoomOfPath, Places: []rewrite.Place{{Path: "*", Kind: rewrite.Timeline}}}, rewrite.Options{}),
		`[`+sealed+`]`, rewrite.Pass{}, rewrite.Output{Device: &opener{err: io.ErrClosedPipe}})
	if !errors.Is(err, io.ErrClosedPipe) || got != "" {
		t.Errorf("answered %q, %v", got, err)
	}
}
