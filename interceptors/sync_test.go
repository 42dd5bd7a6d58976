package interceptors_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
)

const emptySync = `{"next_batch":"s2"}`

func TestSyncPassesDevicesThatAreNotProxied(t *testing.T) {
	t.Parallel()
	for _, mode := range []e2ee.Mode{e2ee.ModeForeign, e2ee.ModeNone, e2ee.ModeUnknown} {
		w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
		w.dev.mode = mode
		out, err := w.sync(t, "filter=5")
		if err != nil || out.Code != http.StatusTeapot || w.up.forwarded != 1 || len(w.up.syncs)+w.up.gets+len(w.dev.began) > 0 {
			t.Errorf("mode %v: %d, %v", mode, out.Code, err)
		}
	}
}

func TestSyncLeavesWhatItNeedNotTouchByteForByte(t *testing.T) {
	t.Parallel()
	const body = " {\"next_batch\" : \"s2\" ,\n\t\"rooms\":{ \"join\" : {\"!a:hs\":{\"timeline\":{\"events\":[ {\"type\" : \"m.room.message\",\"n\":1.50,\"s\":\"\\u00e9\xff\"} ]}}}}} \n"
	w := newSyncWorld(t, body, interceptors.SyncOptions{})
	out, err := w.sync(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := out.Body.String(); got != body {
		t.Errorf("got %q", got)
	}
	if len(w.dev.batches) > 0 {
		t.Error("something was opened")
	}
}

func TestSyncAnswersWithTheHeadersOfTheHomeserver(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
	w.up.header = http.Header{"X-Some": {"a", "b"}}
	out, err := w.sync(t, "")
	if err != nil || out.Code != http.StatusOK {
		t.Fatal(out.Code, err)
	}
	want := http.Header{"X-Some": {"a", "b"}, "Content-Type": {"application/json"}, "Content-Length": {"19"}}
	if diff := cmp.Diff(want, out.Result().Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

// A short answer has a length; one that is long is sent as it is made.
func TestSyncAnswerThatIsLong(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, string(syncBody(1<<20, 10)), interceptors.SyncOptions{})
	out, err := w.sync(t, "")
	if err != nil || out.Result().Header.Get("Content-Length") != "" || !json.Valid(out.Body.Bytes()) {
		t.Errorf("%v, %v", out.Result().Header, err)
	}
}

func TestSyncQuery(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		query, want string
		leaving     bool
	}{
		{"since=s1&timeout=30000", "since=s1&timeout=30000", false},
		{"since=s1&timeout=600000", "since=s1&timeout=60000", false},
		{"since=s1&timeout=600000", "since=s1&timeout=0", true},
		{"since=s1", "since=s1&timeout=0", true},
		{"timeout=abc", "timeout=abc", false},
		{"timeout=-1", "timeout=-1", false},
		{"full_state=true&set_presence=offline&use_state_after=true&x=y", "full_state=true&set_presence=offline&use_state_after=true&x=y", false},
		{"since=s1&since=s2&filter={}&filter=7", "filter=%7B%7D&since=s1", false},
		{"access_token=secret", "", false},
	} {
		w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
		w.dev.leaving = tt.leaving
		if _, err := w.sync(t, tt.query); err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		if got := w.up.syncs[0].Encode(); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.query, got, tt.want)
		}
	}
}

func TestSyncRelaysErrorsOfTheHomeserver(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 401, 403, 429, 500, 502} {
		const body = `{"errcode":"M_SOMETHING"}`
		w := newSyncWorld(t, body, interceptors.SyncOptions{})
		w.up.status = status
		out, err := w.sync(t, "since=s1")
		if err != nil || out.Code != status || out.Body.String() != body {
			t.Errorf("%d: got %d %s, %v", status, out.Code, out.Body, err)
		}
		if len(w.dev.committed) > 0 {
			t.Errorf("%d: something was committed", status)
		}
	}
}

// What is not a sync response is 502, nothing is committed and nothing is answered.
func TestSyncRefusesBadBodies(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"empty":         ``,
		"cut short":     `{"next_batch":"s2","rooms":{"join":{"!a:hs":{"timeline":{"events":[{"type":"m.room.me`,
		"not JSON":      `<html>`,
		"no object":     `["next_batch"]`,
		"a string":      `"next_batch"`,
		"no position":   `{"rooms":{}}`,
		"odd position":  `{"next_batch":5}`,
		"two values":    `{"next_batch":"s2"}{}`,
		"trailing dirt": `{"next_batch":"s2"}x`,
		"too deep":      `{"next_batch":"s2","x":` + strings.Repeat("[", 2<<20),
	} {
		w := newSyncWorld(t, body, interceptors.SyncOptions{})
		out, err := w.sync(t, "")
		var e *apierr.Error
		if !errors.As(err, &e) || e.Status != http.StatusBadGateway || e.ErrCode != "M_UNKNOWN" {
			t.Errorf("%s: error is %v", name, err)
		}
		if len(w.dev.committed) > 0 || out.Body.Len() > 0 {
			t.Errorf("%s: committed %v, answered %q", name, w.dev.committed, out.Body)
		}
	}
}

func TestSyncWhenTheHomeserverBreaksOff(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, "", interceptors.SyncOptions{})
	broken := errors.New("connection reset")
	w.up.body = func() io.Reader { return io.MultiReader(strings.NewReader(emptySync[:5]), iotest.ErrReader(broken)) }
	out, err := w.sync(t, "")
	var e *apierr.Error
	if !errors.As(err, &e) || e.Status != http.StatusBadGateway || !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	if len(w.dev.committed) > 0 || out.Body.Len() > 0 {
		t.Error("something was committed or answered")
	}
}

func TestSyncOfTheEngineFails(t *testing.T) {
	t.Parallel()
	want := errors.New("engine")
	for name, set := range map[string]func(*syncDevice){
		"begin":  func(d *syncDevice) { d.beginErr = want },
		"commit": func(d *syncDevice) { d.commitErr = want },
	} {
		w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
		set(w.dev)
		out, err := w.sync(t, "")
		if !errors.Is(err, want) || out.Body.Len() > 0 {
			t.Errorf("%s: %v, answered %q", name, err, out.Body)
		}
	}
}

// A parked sync returns when something arrives for the client, and asks the homeserver
// once more without waiting.
func TestSyncThatWaitsIsWoken(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
	synctest.Test(t, func(t *testing.T) {
		var arrive func()
		w.dev.arrived, arrive = context.WithCancel(context.Background())
		w.up.hold = func(q url.Values, ctx context.Context) error {
			if q.Get("timeout") == "0" {
				return nil
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}
		time.AfterFunc(5*time.Second, arrive)
		began := time.Now()
		out, err := w.sync(t, "since=s1&timeout=30000")
		if err != nil || out.Body.String() != emptySync {
			t.Errorf("got %q, %v", out.Body, err)
		}
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if len(w.up.syncs) != 2 || w.up.syncs[1].Get("timeout") != "0" || w.up.syncs[1].Get("since") != "s1" {
			t.Errorf("requests: %v", w.up.syncs)
		}
	})
}

func TestSyncEndsWithItsClient(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, emptySync, interceptors.SyncOptions{})
	synctest.Test(t, func(t *testing.T) {
		w.up.hold = func(_ url.Values, ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.get(ctx, httptest.NewRecorder(), "timeout=30000"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
		if w.dev.ended != 1 || len(w.up.syncs) != 1 {
			t.Errorf("ended %d, requests %v", w.dev.ended, w.up.syncs)
		}
	})
}

// A client that goes away while it is answered ends the second pass.
func TestSyncToAClientThatGoesAway(t *testing.T) {
	t.Parallel()
	w := newSyncWorld(t, string(syncBody(1<<20, 1000)), interceptors.SyncOptions{})
	err := w.get(t.Context(), brokenWriter{httptest.NewRecorder()}, "")
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error is %v", err)
	}
	if w.dev.ended != 1 {
		t.Error("the sync was not ended")
	}
}

type brokenWriter struct{ http.ResponseWriter }

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// Events go through Open in bounded batches, in order.
func TestSyncOpensInBatches(t *testing.T) {
	t.Parallel()
	const events, most = 4500, 1024
	body := syncBody(3<<20, events)
	w := newSyncWorld(t, string(body), interceptors.SyncOptions{})
	out, err := w.sync(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if w.dev.opened != events {
		t.Errorf("opened %d", w.dev.opened)
	}
	for _, n := range w.dev.batches {
		if n > most {
			t.Errorf("a batch of %d", n)
		}
	}
	if diff := cmp.Diff(eventIDs(t, body), eventIDs(t, out.Body.Bytes())); diff != "" {
		t.Errorf("the order of events (-want +got):\n%s", diff)
	}
	if bytes.Contains(out.Body.Bytes(), []byte(`"m.room.encrypted"`)) {
		t.Error("an event was not opened")
	}
}

// eventIDs returns the event IDs of the timelines by room.
func eventIDs(t testing.TB, body []byte) map[id.RoomID][]string {
	t.Helper()
	var sync struct {
		Rooms struct {
			Join map[id.RoomID]struct {
				Timeline struct {
					Events []struct {
						EventID string `json:"event_id"`
					}
				}
			}
		}
	}
	if err := json.Unmarshal(body, &sync); err != nil {
		t.Fatal(err)
	}
	ids := map[id.RoomID][]string{}
	for room, r := range sync.Rooms.Join {
		for _, e := range r.Timeline.Events {
			ids[room] = append(ids[room], e.EventID)
		}
	}
	return ids
}

// An event that is too large to be looked into stays, unless it could pass for what it
// is not (attack 63).
func TestSyncLargeEvents(t *testing.T) {
	t.Parallel()
	large := func(start, end string) string {
		return `{` + start + `,"pad":"` + strings.Repeat("x", 3<<20) + `"` + end + `}`
	}
	body := `{"next_batch":"s2","rooms":{"join":{"!a:hs":{"timeline":{"events":[` + strings.Join([]string{
		large(`"event_id":"$redaction","type":"m.room.redaction"`, ``),
		large(`"event_id":"$reaction","type":"m.reaction"`, ``), // nobody can see what it says
		large(`"event_id":"$sealed","type":"m.room.encrypted","content":{"ciphertext":{"type":"t","content":{}}}`, ``),
		large(`"event_id":"$clear","type":"m.room.message"`, ``),
		large(`"event_id":"$forged","type":"m.room.redaction"`, `,"decrypted":true`),
		`{"event_id":"$small","type":"m.room.encrypted","content":{"ciphertext":{"type":"t","content":{}}}}`,
	}, ",") + `]}}}}}`
	w := newSyncWorld(t, body, interceptors.SyncOptions{})
	w.dev.encrypted = func(id.RoomID) bool { return true }
	out, err := w.sync(t, "")
	if err != nil {
		t.Fatal(err)
	}
	want := map[id.RoomID][]string{"!a:hs": {"$redaction", "$sealed", "$small"}}
	if diff := cmp.Diff(want, eventIDs(t, out.Body.Bytes())); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// Attack A26: hostile events do not stop a sync, and what cannot be judged is not shown
// as a message of an encrypted room.
func TestSyncHostileEvents(t *testing.T) {
	t.Parallel()
	body := "{\"next_batch\":\"s2\",\"rooms\":{\"join\":{\"!a:hs\":{\"timeline\":{\"events\":[" + strings.Join([]string{
		`{"event_id":"$twice","type":"m.room.encrypted","content":{},"content":{"ciphertext":"x"}}`,
		`{"event_id":"$twotypes","type":"m.room.message","type":"m.room.encrypted","content":{"body":"x"}}`,
		"{\"event_id\":\"$utf8\",\"type\":\"m.room.message\",\"content\":{\"body\":\"\xff\"}}",
		`{"event_id":"$surrogate","type":"m.room.encrypted","content":{"ciphertext":"\ud800"}}`,
		`{"event_id":"$deep","type":"m.room.encrypted","content":{"ciphertext":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}}`,
		`{"event_id":"$number","type":"m.room.encrypted","content":{"ciphertext":1e400}}`,
		`{"event_id":"$forged","type":"m.reaction","decrypted":true,"unsigned":` + strings.Repeat(`{"redacted_because":{"unsigned":`, 5_000) + `{}` + strings.Repeat(`}}`, 5_000) + `}`,
		`{"event_id":"$good","type":"m.room.encrypted","content":{"ciphertext":{"type":"t","content":{}}}}`,
	}, ",") + "]}}}}}"
	w := newSyncWorld(t, body, interceptors.SyncOptions{})
	w.dev.encrypted = func(id.RoomID) bool { return true }
	out, err := w.sync(t, "")
	if err != nil {
		t.Fatal(err)
	}
	shown := func(event string) bool { return strings.Contains(out.Body.String(), `"$`+event+`"`) }
	for event, want := range map[string]bool{
		"twice": true, "twotypes": false, "utf8": false, "surrogate": true, "deep": true, "number": true, "forged": false, "good": true,
	} {
		if shown(event) != want {
			t.Errorf("%s: shown %v, want %v", event, shown(event), want)
		}
	}
}

// A response with very many members is no reason to hold them all: the rooms whose
// joins are left out count as limited, and departures are never left out (requirement 9.4).
func TestSyncWithVeryManyMembers(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`{"next_batch":"s2","rooms":{"join":{`)
	for room := range 3 {
		fmt.Fprintf(&b, `%s"!%d:hs":{"state":{"events":[{"type":"m.room.member","state_key":"@gone:hs","content":{"membership":"leave"}}`, []string{"", ",", ","}[room], room)
		for user := range 6000 {
			fmt.Fprintf(&b, `,{"type":"m.room.member","state_key":"@u%d:hs","content":{"membership":"join"}}`, user)
		}
		b.WriteString(`]}}`)
	}
	b.WriteString(`}}}`)
	w := newSyncWorld(t, b.String(), interceptors.SyncOptions{})
	if _, err := w.sync(t, "since=s1"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		limited bool
		changes int
	}{{false, 6001}, {true, 4001}, {true, 1}} {
		got := w.dev.committed[0].Rooms[i]
		if got.Limited != want.limited || len(got.Changes) != want.changes || string(got.Changes[0].Content) != `{"membership":"leave"}` {
			t.Errorf("room %d: limited %v with %d changes, want %+v", i, got.Limited, len(got.Changes), want)
		}
	}
}
