package interceptors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// killed is the error of everything that a replica still does when it was killed.
var errKilled = errors.New("killed")

// roomMaker is a homeserver with rooms, and the database of replicas before it. It kills the
// replica at one of the points at which it does something.
type roomMaker struct {
	w *world
	Devices
	rooms map[id.RoomID][]stateEvent

	steps  int  // how many were made
	killAt int  // before which the replica is killed; -1 never
	late   bool // the step is made all the same
	dead   bool
	looked func() // when a room was looked at
}

func newRoomMaker(t *testing.T) *roomMaker {
	t.Helper()
	w := newWorld(t, e2ee.ModeProxied)
	return &roomMaker{w: w, Devices: w.devices, rooms: map[id.RoomID][]stateEvent{}, killAt: -1}
}

// step does one thing, unless the replica is dead, or dies now.
func (m *roomMaker) step(do func()) error {
	if m.dead {
		return errKilled
	}
	m.dead = m.steps == m.killAt
	m.steps++
	if !m.dead || m.late {
		do()
	}
	if m.dead {
		return errKilled
	}
	return nil
}

func (m *roomMaker) Intents(ctx context.Context, user id.UserID) (all []e2ee.Intent, err error) {
	return all, errors.Join(m.step(func() { all, err = m.w.devices.Intents(ctx, user) }), err)
}

func (m *roomMaker) PutIntent(ctx context.Context, user id.UserID, in e2ee.Intent) error {
	return m.step(func() { _ = m.w.devices.PutIntent(ctx, user, in) })
}

func (m *roomMaker) DropIntent(ctx context.Context, user id.UserID, request string) error {
	return m.step(func() { _ = m.w.devices.DropIntent(ctx, user, request) })
}

// make makes a room as a homeserver does.
func (m *roomMaker) make(sender id.UserID, body string) id.RoomID {
	var want struct {
		Name, Topic string
		Invite      []string
	}
	_ = json.Unmarshal([]byte(body), &want)
	room := id.RoomID(fmt.Sprintf("!made%d:hs.example", len(m.rooms)))
	event := func(typ, key string) stateEvent { return stateEvent{Type: typ, Sender: string(sender), StateKey: key} }
	state := []stateEvent{event("m.room.create", ""), event("m.room.name", ""), event("m.room.topic", "")}
	state[1].Content.Name, state[2].Content.Topic = want.Name, want.Topic
	for _, user := range want.Invite {
		member := event(typeMember, user)
		member.Content.Membership = membershipInvite
		state = append(state, member)
	}
	m.rooms[room] = state
	return room
}

// Do implements Upstream.
func (m *roomMaker) Do(x *Exchange, c Change) (*http.Response, error) {
	answer := any(map[string]any{})
	err := m.step(func() {
		switch {
		case c.Pattern == "" && strings.HasSuffix(x.Endpoint.Pattern, "/createRoom"):
			body, _ := io.ReadAll(x.Request.Body)
			answer = map[string]any{"room_id": m.make(x.Identity.UserID, string(body))}
		case strings.HasSuffix(c.Pattern, "/joined_rooms"):
			joined := []id.RoomID{}
			for room := range m.rooms {
				joined = append(joined, room)
			}
			slices.Sort(joined)
			answer = map[string]any{"joined_rooms": joined}
		case strings.HasSuffix(c.Pattern, "/state"):
			answer = m.rooms[id.RoomID(c.Params["roomId"])]
			if m.looked != nil {
				defer m.looked()
			}
		}
	})
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(answer)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(raw)))}, err
}

func (m *roomMaker) Forward(*Exchange) error { return errors.New("not here") }

func (m *roomMaker) Relay(x *Exchange, resp *http.Response) error {
	return m.step(func() { _, _ = io.Copy(x.Writer, resp.Body) })
}

// ask makes the request of a client, and returns the room that it is told.
func (m *roomMaker) ask(body, request string, again bool) (id.RoomID, error) {
	rec := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(m.w.t.Context(), http.MethodPost, "/", strings.NewReader(body))
	err := m.w.handlers[CreateRoom](&Exchange{
		Writer: rec, Request: req, Upstream: m, Devices: m, Identity: m.w.who, RequestID: request, Again: again,
		Endpoint: Endpoint{Pattern: "/_matrix/client/{version}/createRoom", Version: "v3", Params: map[string]string{}},
	})
	var said struct {
		Room id.RoomID `json:"room_id"`
	}
	if err == nil {
		err = json.Unmarshal(rec.Body.Bytes(), &said)
	}
	return said.Room, err
}

// takeOver gives the account to another replica.
func (m *roomMaker) takeOver() {
	m.dead, m.killAt = false, -1
	for i := range m.w.devices.intents {
		m.w.devices.intents[i].Left = true
	}
}

const wantedBody = `{"name":"Ours","topic":"x","invite":["@bob:hs.example"]}`

// Attack 57, for rooms: a replica is killed at each point of making a room, before and after what it
// does there, and another one makes the request again. There is one room in the end, which the
// client is told; rooms that the account had, entered or makes meanwhile are not taken for it.
func TestRoomIsMadeOnceWhereverAReplicaDies(t *testing.T) {
	t.Parallel()
	point := 0
	for ; ; point++ {
		finished := false
		for _, late := range []bool{false, true} {
			for _, byItself := range []bool{false, true} { // the client, which got no answer
				synctest.Test(t, func(t *testing.T) {
					m := newRoomMaker(t)
					old := m.make(alice, wantedBody)
					m.killAt, m.late = point, late
					if _, err := m.ask(wantedBody, "r-1", false); err == nil {
						finished = true
						return
					}
					theirs, other := m.make(bob, wantedBody), m.make(alice, `{"name":"Another"}`)
					m.takeOver()
					request := "r-1"
					if byItself {
						request = "r-2"
					}
					before := len(m.rooms)
					told, err := m.ask(wantedBody, request, !byItself)
					if err != nil {
						t.Fatalf("point %d: %v", point, err)
					}
					made := []id.RoomID{}
					for room, state := range m.rooms {
						if room != old && state[0].Sender == string(alice) && state[1].Content.Name == "Ours" {
							made = append(made, room)
						}
					}
					answered := byItself && len(made) == 2 && before == len(m.rooms)-1 // see below
					if !answered && (len(made) != 1 || made[0] != told) || told == theirs || told == other || told == old {
						t.Errorf("point %d, late %v, by itself %v: made %q, told %q", point, late, byItself, made, told)
					}
					// What was stored as answered is not taken for what the client says again.
					if answered && !slices.ContainsFunc(m.w.devices.intents, func(in e2ee.Intent) bool { return in.Request == "r-1" && in.Room != "" }) {
						t.Errorf("point %d, late %v: two rooms", point, late)
					}
				})
			}
		}
		if finished {
			break
		}
	}
	if point < 6 {
		t.Errorf("a room was made in %d steps", point)
	}
}

// A room that is still in the making is waited for; one that is made twice by the client itself,
// by two requests, is two rooms, also when both are made again.
func TestRoomsThatLookAlike(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newRoomMaker(t)
		for _, request := range []string{"r-1", "r-2"} {
			m.killAt, m.late, m.dead, m.steps = 2, true, false, 0
			if _, err := m.ask(wantedBody, request, false); err == nil {
				t.Fatal("it was not killed")
			}
		}
		first, second := m.make(alice, wantedBody), m.make(alice, wantedBody)
		m.takeOver()
		one, err1 := m.ask(wantedBody, "r-1", true)
		two, err2 := m.ask(wantedBody, "r-2", true)
		if err := errors.Join(err1, err2); err != nil || one == two || len(m.rooms) != 2 || m.rooms[one] == nil || m.rooms[two] == nil {
			t.Errorf("%v: told %q and %q of %q and %q", err, one, two, first, second)
		}
		// The same again is answered with the same.
		if again, err := m.ask(wantedBody, "r-1", true); again != one || err != nil {
			t.Errorf("%v: told %q, then %q", err, one, again)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m := newRoomMaker(t)
		m.killAt, m.late = 2, true
		if _, err := m.ask(wantedBody, "r-1", false); err == nil {
			t.Fatal("it was not killed")
		}
		m.takeOver()
		slow := m.make(alice, wantedBody)
		whole := m.rooms[slow]
		m.rooms[slow] = whole[:1]
		m.looked = func() { m.rooms[slow] = whole }
		told, err := m.ask(wantedBody, "r-1", true)
		if err != nil || told != slow || len(m.rooms) != 1 {
			t.Errorf("%v: told %q of %v", err, told, m.rooms)
		}
	})
}

// After a minute, or for another request, nothing is taken for what was made.
func TestWhatIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(m *roomMaker) (body string){
		"another body":   func(*roomMaker) string { return `{"name":"Ours"}` },
		"after a while":  func(*roomMaker) string { <-time.After(intentAge); return wantedBody }, // of the fake clock
		"the same owner": func(m *roomMaker) string { m.w.devices.intents[0].Left = false; return wantedBody },
		"another device": func(m *roomMaker) string { m.w.who.DeviceID = "OTHER"; return wantedBody },
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newRoomMaker(t)
			m.killAt, m.late = 3, true
			if _, err := m.ask(wantedBody, "r-1", false); err == nil || len(m.rooms) != 1 {
				t.Fatalf("it was not killed: %d rooms", len(m.rooms))
			}
			m.takeOver()
			if _, err := m.ask(change(m), "r-2", false); err != nil || len(m.rooms) != 2 {
				t.Errorf("%s: %v, %d rooms", name, err, len(m.rooms))
			}
		})
	}
}
