package controlroom

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/secret"
)

// stand is the control and the room of a device, which record what is done.
type stand struct {
	exchange.Control
	exchange.ControlRoom

	done  []string
	view  *e2ee.ControlView
	given e2ee.ControlGiven
	fresh bool // what is said is new
}

type standDevice struct {
	exchange.Device
	s *stand
}

func (d standDevice) Control() exchange.Control { return d.s }

func (s *stand) Tell(context.Context, json.RawMessage) (id.EventID, error) {
	s.done = append(s.done, "told")
	r := s.view.Room
	r.Last++
	r.Lines = append(r.Lines, e2ee.ControlLine{Seq: r.Last, ID: id.EventID("$" + strconv.FormatInt(r.Last, 10)), Content: json.RawMessage(`{}`)})
	return r.Lines[len(r.Lines)-1].ID, nil
}

func (s *stand) Give(from, to int64) { s.given = s.given.With(from, to, time.Now()) }

func (s *stand) Given() e2ee.ControlGiven { return s.given }

// syncs hands everything out that was said, some time ago.
func (s *stand) syncs(ago time.Duration) {
	s.given = s.given.With(0, s.view.Last, time.Now().Add(-ago))
}

func (s *stand) ConfirmEmoji(_ context.Context, flow string, same bool) (e2ee.Verification, error) {
	if same {
		s.done = append(s.done, "confirmed "+flow)
	}
	return e2ee.Verification{}, nil
}

func newTurn(t *testing.T) (*turn, *stand) {
	t.Helper()
	s := &stand{view: &e2ee.ControlView{User: "@me:hs", Room: &e2ee.ControlRecord{Opened: 1}}}
	return &turn{
		rooms: &Rooms{}, talk: &talk{now: time.Now}, ctx: t.Context(),
		call: &call{dev: standDevice{s: s}, room: s, view: s.view},
	}, s
}

func (s *stand) View(context.Context) (*e2ee.ControlView, error) { return s.view, nil }

func (s *stand) Said(context.Context, e2ee.ControlLine) (bool, error) { return s.fresh, nil }

// A client did not get the answer to a message, and sends it again with the same transaction ID.
// By then something else is asked, such as a password: what is sent again must not answer it.
func TestWhatIsSentAgainAnswersNothing(t *testing.T) {
	t.Parallel()
	w, s := newTurn(t)
	rooms, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	rooms.talks.all.Add("@me:hs", w.talk)
	event := e2ee.ControlEventOf("@me:hs", "DEV", "txn")
	s.view = &e2ee.ControlView{User: "@me:hs", Room: &e2ee.ControlRecord{Opened: 1, Lines: []e2ee.ControlLine{{ID: event, Content: json.RawMessage(`{}`)}}}}
	w.ask("?", question{secret: true, then: func(*turn, secret.String) { t.Error("it was taken for the answer") }})
	out := httptest.NewRecorder()
	w.call.Exchange = &exchange.Exchange{
		Writer: out, Identity: exchange.Identity{UserID: "@me:hs", DeviceID: "DEV"},
		Request:  httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/", strings.NewReader(`{"msgtype":"m.text","body":"status"}`)),
		Endpoint: exchange.Endpoint{Params: map[string]string{"eventType": "m.room.message", "txnId": "txn"}},
	}
	if err := rooms.send(w.call); err != nil || !strings.Contains(out.Body.String(), string(event)) {
		t.Errorf("answered %s, %v", out.Body, err)
	}
	if w.talk.asked == nil {
		t.Error("the question is gone")
	}
}

// The process ends after it has kept a message and before it has answered, and the message is sent
// again, to the next one. It is told that nothing came of it, once.
func TestWhatARestartLostIsSaid(t *testing.T) {
	t.Parallel()
	w, s := newTurn(t)
	rooms, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	event := e2ee.ControlEventOf("@me:hs", "DEV", "txn")
	s.view.Lines = []e2ee.ControlLine{{ID: event, Content: json.RawMessage(`{}`)}}
	for range 2 {
		out := httptest.NewRecorder()
		w.call.Exchange = &exchange.Exchange{
			Writer: out, Identity: exchange.Identity{UserID: "@me:hs", DeviceID: "DEV"},
			Request:  httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/", strings.NewReader(`{"msgtype":"m.text","body":"reset"}`)),
			Endpoint: exchange.Endpoint{Params: map[string]string{"eventType": "m.room.message", "txnId": "txn"}},
		}
		if err := rooms.send(w.call); err != nil || !strings.Contains(out.Body.String(), string(event)) {
			t.Errorf("answered %s, %v", out.Body, err)
		}
	}
	if !slices.Equal(s.done, []string{"told"}) {
		t.Errorf("done: %q", s.done)
	}
}

// Somebody follows one verification again and again, or has many things followed, so that nobody
// else's verification is followed any more. A thing is followed once, and a user has few.
func TestNobodyTakesAllTheWork(t *testing.T) {
	t.Parallel()
	work := NewWork()
	t.Cleanup(work.Close)
	runs := 0
	begin := func(user id.UserID, name string) bool {
		started, ok := work.start(user, name, func() { <-work.ctx.Done() })
		if started {
			runs++
		}
		return ok
	}
	for range 2 * maxWork {
		if !begin("@mallory:hs", "one") {
			t.Fatal("what is followed already is refused")
		}
	}
	for i := range 2 * maxWork {
		begin("@mallory:hs", strconv.Itoa(i))
	}
	if runs != maxOwnWork || begin("@mallory:hs", "more") {
		t.Errorf("%d tasks of one user run", runs)
	}
	if !begin("@bob:hs", "one") {
		t.Error("another user's task does not run")
	}
	work.Close()
	if len(work.of) != 0 || work.n != 0 {
		t.Errorf("after the end %d users have tasks", len(work.of))
	}
}

// Somebody whom the user verifies waits until the user is asked whether to accept @carol, and
// only then lets it come to comparing emoji, or ends the verification and begins another. The
// yes that was meant for carol must not confirm emoji; the question about carol stays.
func TestAnAnswerIsForItsOwnQuestion(t *testing.T) {
	t.Parallel()
	w, s := newTurn(t)
	compare := e2ee.Verification{ID: "one", UserID: "@mallory:hs", State: e2ee.VerificationCompare}
	w.ask("?", question{then: func(*turn, secret.String) { s.done = append(s.done, "carol") }})
	s.syncs(time.Minute)
	if w.tellStep(&compare) {
		t.Error("emoji are asked about while another question is open")
	}
	w.tellStep(&e2ee.Verification{ID: "two", State: e2ee.VerificationCancelled})
	w.run(w.talk.understand(said{text: "yes", given: s.given}))
	if slices.Contains(s.done, "confirmed one") || !slices.Contains(s.done, "carol") {
		t.Errorf("after the answer about carol: %q", s.done)
	}
	if !w.tellStep(&compare) {
		t.Error("emoji are not asked about when nothing else is open")
	}
	other := compare
	other.ID = "two"
	if w.tellStep(&other) {
		t.Error("two verifications ask at once")
	}
	w.tellStep(&e2ee.Verification{ID: "two", State: e2ee.VerificationCancelled})
	s.syncs(time.Minute)
	w.run(w.talk.understand(said{text: "yes", given: s.given}))
	if !slices.Contains(s.done, "confirmed one") {
		t.Errorf("after the answer about the emoji: %q", s.done)
	}
}

// The user answers a question with yes, and in haste writes yes a second time. Meanwhile somebody
// whom the user verifies lets it come to comparing emoji, so that the second yes finds that
// question. It must not confirm emoji that nobody has seen: neither when the room was not handed
// out since, nor when it was handed out to another device, nor when that was so short a time ago
// that the message was on its way, or nobody can have compared. The question stays.
func TestASecondYesComparesNothing(t *testing.T) {
	t.Parallel()
	w, s := newTurn(t)
	w.ask("?", question{then: func(*turn, secret.String) { s.done = append(s.done, "first") }})
	s.syncs(time.Minute)
	before := s.given
	w.run(w.talk.understand(said{text: "yes", given: before}))
	if !w.tellStep(&e2ee.Verification{ID: "one", UserID: "@mallory:hs", State: e2ee.VerificationCompare}) {
		t.Fatal("emoji are not asked about")
	}
	for name, given := range map[string]e2ee.ControlGiven{
		"not handed out since": before, "nothing handed out": {}, "handed out just now": before.With(0, s.view.Last, time.Now()),
		"another page": before.With(1, s.view.Last-1, time.Now().Add(-time.Minute)),
	} {
		for _, word := range []string{"yes", "y", "Yes"} {
			if w.run(w.talk.understand(said{text: word, given: given})); slices.Contains(s.done, "confirmed one") {
				t.Fatalf("%s: %q confirmed emoji", name, word)
			}
		}
	}
	w.run(w.talk.understand(said{text: "no", given: before}))
	if w.talk.asked == nil {
		t.Fatal("the question is gone")
	}
	s.syncs(compareFor)
	w.run(w.talk.understand(said{text: "yes", given: s.given}))
	if !slices.Contains(s.done, "confirmed one") || !slices.Contains(s.done, "first") {
		t.Errorf("done: %q", s.done)
	}
}

// A yes comes while the question is being asked: the message waits until that is done, and by then
// the client has been sent the question. What counts is what it had when the message came.
func TestAYesThatWaited(t *testing.T) {
	t.Parallel()
	w, s := newTurn(t)
	rooms, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.fresh = true
	rooms.talks.all.Add("@me:hs", w.talk)
	w.talk.mu.Lock()
	body := &readThen{Reader: strings.NewReader(`{"msgtype":"m.text","body":"yes"}`), then: func() {
		w.ask("?", question{then: func(*turn, secret.String) { t.Error("it was taken for the answer") }})
		s.syncs(time.Minute)
		w.talk.mu.Unlock()
	}}
	w.call.Exchange = &exchange.Exchange{
		Writer: httptest.NewRecorder(), Identity: exchange.Identity{UserID: "@me:hs", DeviceID: "DEV"},
		Request:  httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/", body),
		Endpoint: exchange.Endpoint{Params: map[string]string{"eventType": "m.room.message", "txnId": "txn"}},
	}
	if err := rooms.send(w.call); err != nil {
		t.Fatal(err)
	}
	if w.talk.asked == nil {
		t.Error("the question is gone")
	}
}

// readThen does something once, before it is read.
type readThen struct {
	*strings.Reader
	then func()
}

func (r *readThen) Read(p []byte) (int, error) {
	if r.then != nil {
		r.then()
		r.then = nil
	}
	return r.Reader.Read(p)
}

// What a page of the history shows counts as handed out, and nothing else does.
func TestPagesAreHandedOut(t *testing.T) {
	t.Parallel()
	w, s := newTurn(t)
	for range 9 {
		w.say("x")
	}
	for query, want := range map[string][]int64{"dir=b&limit=2": {8, 9}, "dir=f&limit=3": {1, 2, 3}, "dir=b&from=control-5&limit=1": {4}, "dir=b&from=control-1": nil} {
		s.given = e2ee.ControlGiven{}
		w.call.Exchange = &exchange.Exchange{Writer: httptest.NewRecorder(), Request: httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?"+query, nil)}
		if err := w.call.messages(); err != nil {
			t.Fatal(err)
		}
		var got []int64
		for seq := range int64(12) {
			if _, has := s.given.Has(seq); has {
				got = append(got, seq)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s hands out %d, want %d", query, got, want)
		}
	}
}
