package e2ee_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// syncMoving makes one sync, for which the token is moved, if the homeserver lets it, when it
// would stand still. It returns what is said in the control room.
func (p *person) syncMoving(since string) (texts []string, next string) {
	p.t.Helper()
	extras, next := p.sync(since)
	return said(p.t, extras.Control), next
}

// Whatever a client does with what it is answered, it gets each message of the control room once
// and in order: it may get no answer and ask again, two programs may go on from one token, the
// homeserver may refuse to move its token, and the proxy may be started anew. Which answers it
// took says which messages it has: never one too few, never one twice.
func TestEachMessageOnceWhateverTheTokens(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		alice := inControl(t, true)
		refuses := false
		alice.hs.Intercept(liar.Of(alice.UserID, liar.Is(http.MethodPut, "sendToDevice/"+e2ee.TypeMoved+"/")), func(_ *liar.Request, next func() liar.Reply) liar.Reply {
			if refuses {
				return liar.Failure(429, "M_LIMIT_EXCEEDED", "too many")
			}
			return next()
		})
		type client struct {
			since string
			got   []string
		}
		clients := []client{{}}
		all := []string{}
		for step := range 60 {
			c := &clients[rnd.IntN(len(clients))]
			switch rnd.IntN(8) {
			case 0, 1:
				text := fmt.Sprint("message ", step)
				if _, err := alice.dev.ControlRoom().Tell(t.Context(), e2ee.ControlText(text)); err == nil {
					all = append(all, text)
				}
			case 2:
				alice.hs.SendToDevice(alice.UserID, alice.DeviceID, "@bob:liar.test", "org.example.other", map[string]any{})
			case 3:
				if refuses = !refuses; !refuses {
					alice.rig.later(6 * time.Minute)
				}
			case 4: // no answer arrives
				alice.syncMoving(c.since)
			case 5:
				if len(clients) < 3 {
					clients = append(clients, client{c.since, slices.Clone(c.got)})
				}
			case 6:
				if step%20 == 6 {
					alice.restart()
				}
			default:
				texts, next := alice.syncMoving(c.since)
				if len(texts) > 0 && next == c.since {
					t.Fatalf("seed %d: something is shown with the token that the client came with", seed)
				}
				c.got, c.since = append(c.got, texts...), next
			}
		}
		refuses = false
		for i := range clients {
			c := &clients[i]
			for range 3 {
				alice.rig.later(6 * time.Minute)
				texts, next := alice.syncMoving(c.since)
				c.got, c.since = append(c.got, texts...), next
			}
			if len(c.got) == 0 || !strings.Contains(c.got[0], "Write help") || !slices.Equal(c.got[1:], all) {
				t.Errorf("seed %d: client %d got %q, of %q", seed, i, c.got, all)
			}
		}
	}
}

// A homeserver takes the proxy's message and never moves its token, to have the proxy send it one
// after the other, or to keep from the client what the proxy says. The messages get rarer and
// rarer, the client is told nothing with a token that it has, and gets all with the next one.
func TestTokenThatNeverMoves(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]liar.Reply{
		"accepted": liar.OK(map[string]any{}), "refused": liar.Failure(403, "M_FORBIDDEN", "no"),
		"too many": liar.Failure(429, "M_LIMIT_EXCEEDED", "no"), "broken": liar.Failure(502, "M_UNKNOWN", "no"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alice := inControl(t, true)
			_, since := alice.sync("")
			moves := 0
			alice.hs.Intercept(liar.Of(alice.UserID, liar.Is(http.MethodPut, "sendToDevice/"+e2ee.TypeMoved+"/")), func(*liar.Request, func() liar.Reply) liar.Reply {
				moves++
				return reply
			})
			if _, err := alice.dev.ControlRoom().Tell(t.Context(), e2ee.ControlText("kept back")); err != nil {
				t.Fatal(err)
			}
			for range 200 { // three syncs a second, for a minute
				in, err := alice.dev.BeginSync(t.Context(), since)
				if err != nil {
					t.Fatal(err)
				}
				if stands, err := in.Stands(t.Context(), since); err != nil || !stands || !in.Waiting() {
					t.Fatalf("there is nothing for the client: %v", err)
				}
				if in.MoveIn() == 0 && in.Move(t.Context()) == nil {
					in.Stood()
				}
				if extras, err := in.Commit(t.Context(), e2ee.SyncUpdate{Since: since, NextBatch: since}); err != nil || extras.Control != nil {
					t.Fatalf("with the token that the client has: %+v, %v", extras.Control, err)
				}
				in.End()
				alice.rig.later(300 * time.Millisecond)
			}
			if moves == 0 || moves > 8 {
				t.Errorf("%d moves in a minute", moves)
			}
			alice.hs.SendToDevice(alice.UserID, alice.DeviceID, "@bob:liar.test", "org.example.other", map[string]any{})
			if texts, _ := alice.syncMoving(since); !slices.Equal(texts, []string{"kept back"}) {
				t.Errorf("with the next token: %q", texts)
			}
		})
	}
}

// A homeserver goes back to tokens that it had before, or repeats one, so that the proxy loses
// count of what the client was shown. A message may be shown again then; none is lost.
func TestTokensThatGoBack(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		alice := inControl(t, true)
		_, since := alice.sync("")
		got, all := map[string]bool{}, []string{}
		sync := func(next string) {
			in, err := alice.dev.BeginSync(t.Context(), since)
			if err != nil {
				t.Fatal(err)
			}
			defer in.End()
			extras, err := in.Commit(t.Context(), e2ee.SyncUpdate{Since: since, NextBatch: next})
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range said(t, extras.Control) {
				got[text] = true
			}
			since = next
		}
		for step := range 40 {
			text := fmt.Sprint("message ", step)
			if _, err := alice.dev.ControlRoom().Tell(t.Context(), e2ee.ControlText(text)); err != nil {
				t.Fatal(err)
			}
			all = append(all, text)
			sync(fmt.Sprint("s", rnd.IntN(6)))
		}
		sync("new one")
		for _, text := range all {
			if !got[text] {
				t.Errorf("seed %d: %q was never shown", seed, text)
			}
		}
	}
}

// Somebody, or another device of the user's, sends the device what the proxy sends itself to move
// the token, in clear or over Olm, to show the client something or to have the proxy do something.
// Nobody is shown it.
func TestMovesOfOthers(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob := newPuppet(t, st.hs, "bob", "BOB")
	newIdentity(t, st.hs, bob.Session).confirm(bob)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "now bob is known")
	st.sync()
	for _, sender := range []string{bob.UserID, st.alice.UserID} {
		st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, sender, e2ee.TypeMoved, map[string]any{"body": "FORGED"})
	}
	bob.sendOlm(st.target(), bob.envelope(st.target(), e2ee.TypeMoved, map[string]any{"body": "FORGED"}))
	st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, bob.UserID, "org.example.last", map[string]any{})
	await(t, "what was sent last does not come", func() bool {
		st.sync()
		return slices.ContainsFunc(st.heard, func(e heard) bool { return e.Type == "org.example.last" })
	})
	for _, e := range st.heard {
		if e.Type != "org.example.last" {
			t.Errorf("the client is shown %+v", e)
		}
	}
}

// A client has a token that an earlier version made, with a mark behind the homeserver's. It goes
// on from there: what it was shown with that is not shown again, and what is new is.
func TestTokensOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	alice := inControl(t, true)
	_, since := alice.sync("")
	room := alice.dev.ControlRoom()
	if _, err := room.Tell(t.Context(), e2ee.ControlText("shown with the mark")); err != nil {
		t.Fatal(err)
	}
	marked := since + ".e2ee-proxy.1"
	if u, err := room.Stream(t.Context(), since, marked); err != nil || len(said(t, u)) != 1 { // as the earlier version did
		t.Fatalf("%+v, %v", u, err)
	}
	alice.restart()
	in, err := alice.dev.BeginSync(t.Context(), marked)
	if err != nil {
		t.Fatal(err)
	}
	extras, err := in.Commit(t.Context(), e2ee.SyncUpdate{Since: since, NextBatch: since})
	in.End()
	if err != nil || extras.Control != nil {
		t.Errorf("with the homeserver's token alone: %+v, %v", extras.Control, err)
	}
	for _, from := range []string{marked, since} {
		if _, err := alice.dev.ControlRoom().Tell(t.Context(), e2ee.ControlText("from "+from)); err != nil {
			t.Fatal(err)
		}
		texts, next := alice.syncMoving(from)
		if got := texts[len(texts)-1]; got != "from "+from || slices.Contains(texts, "shown with the mark") || strings.Contains(next, "e2ee") {
			t.Errorf("from %s: %q, then %s", from, texts, next)
		}
	}
}

// The homeserver has the message that moves the token, and nothing in it.
func TestMoveSaysNothing(t *testing.T) {
	t.Parallel()
	alice := inControl(t, true)
	_, since := alice.sync("")
	if _, err := alice.dev.ControlRoom().Tell(t.Context(), e2ee.ControlText("SECRET")); err != nil {
		t.Fatal(err)
	}
	in, err := alice.dev.BeginSync(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	defer in.End()
	if err := in.Move(t.Context()); err != nil {
		t.Fatal(err)
	}
	var resp struct {
		NextBatch string `json:"next_batch"`
		ToDevice  struct {
			Events []json.RawMessage `json:"events"`
		} `json:"to_device"`
	}
	call(t, alice.hs, alice.Session, http.MethodGet, "sync?timeout=0&since="+url.QueryEscape(since), nil, &resp)
	if len(resp.ToDevice.Events) != 1 || resp.NextBatch == since || string(fieldOf(t, resp.ToDevice.Events[0], "content")) != "{}" {
		t.Errorf("from %s to %s with %s", since, resp.NextBatch, resp.ToDevice.Events)
	}
}

func fieldOf(t *testing.T, raw json.RawMessage, name string) json.RawMessage {
	t.Helper()
	var o map[string]json.RawMessage
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatal(err)
	}
	return o[name]
}
