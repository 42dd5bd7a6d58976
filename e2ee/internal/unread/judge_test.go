package unread

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"
)

// counting answers everything, and counts the questions.
type counting struct {
	Asker
	asked int
	err   error
}

func (c *counting) Power(context.Context, id.RoomID) (levels, create json.RawMessage, creator id.UserID, err error) {
	c.asked++
	return json.RawMessage(`{"users_default":100}`), json.RawMessage(`{}`), "", c.err
}

// Attack: members of very many rooms mention everybody, and each makes the proxy ask who may. A
// batch asks about a room once, and not for ever; what is not asked, or not answered, does not
// highlight.
func TestMentionsOfManyRoomsAreBounded(t *testing.T) {
	t.Parallel()
	rules, err := ForClear(json.RawMessage(defaults), me)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		err                     error
		rooms, asks, highlights int
	}{
		{nil, 1, 1, 100}, {nil, 100, maxAsks, maxAsks}, {errors.New("no answer"), 100, maxAsks, 0},
	} {
		ask := &counting{err: tt.err}
		j := judge{by: &known{clear: rules, sealed: rules}, ask: ask, user: me, facts: make(map[id.RoomID]*facts)}
		highlights := 0
		for i := range 100 {
			in := id.RoomID(fmt.Sprintf("!%d:hs", i%tt.rooms))
			v, ok := j.verdict(t.Context(), &log{room: in}, &Seen{
				RoomID: in, Raw: json.RawMessage(eventOf("m.room.encrypted", `{}`)), Clear: json.RawMessage(message(`{"body":"x","m.mentions":{"room":true}}`)),
			})
			if !ok || v.clear == nil || !v.clear.Notify {
				t.Fatalf("%+v, %v", v, ok)
			}
			highlights += int(number(v.clear.Highlight))
		}
		if ask.asked != tt.asks || highlights != tt.highlights {
			t.Errorf("%d rooms, %v: %d questions and %d highlights, want %d and %d", tt.rooms, tt.err, ask.asked, highlights, tt.asks, tt.highlights)
		}
	}
}

// An event that came late is judged by what the homeserver saw of it: a relation, and nothing of
// what was in the ciphertext.
func TestLateEventsAreJudgedByWhatTheHomeserverSaw(t *testing.T) {
	t.Parallel()
	rules, err := Parse(json.RawMessage(defaults))
	if err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]Outcome{
		`{"body":"me","m.mentions":{"user_ids":["@me:hs"]}}`:                   notifies,
		`{"body":"x","m.relates_to":{"rel_type":"m.replace","event_id":"$o"}}`: nothing,
	} {
		j := judge{by: &known{clear: rules, sealed: rules}, user: me, facts: make(map[id.RoomID]*facts)}
		v, ok := j.verdict(t.Context(), &log{room: room}, &Seen{RoomID: room, Clear: json.RawMessage(message(content))})
		if !ok || v.counted != want {
			t.Errorf("%s: %+v, want %+v", content, v.counted, want)
		}
	}
}
