package verification

import (
	"errors"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/strictjson"
)

// play has alice ask bob, and both say that the emoji match whenever they are asked, whatever they
// see: what is left is what the protocol itself refuses.
func (w *world) play(txn string) {
	w.t.Helper()
	var to []id.DeviceID
	if w.room == "" {
		to = []id.DeviceID{w.b.us.Device}
	}
	f, eff, err := Begin(w.known(w.a), w.room, txn, to)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.room != "" {
		f = f.InRoom("$request")
	}
	w.take(w.a, f, eff)
	steps := []struct {
		who    *person
		decide Decide
	}{{w.b, Flow.Accept}, {w.a, Flow.Emoji}, {w.a, confirm(true)}, {w.b, confirm(true)}}
	for _, s := range steps {
		switch next, eff, err := s.decide(s.who.flow, w.known(s.who)); {
		case err == nil:
			w.take(s.who, next, eff)
		case !errors.Is(err, core.ErrVerificationStep):
			w.t.Fatal(err)
		}
	}
}

// again returns another verification between the same two.
func (w *world) again() *world {
	side := func(p *person) *person { return &person{us: p.us, users: p.users} }
	return &world{t: w.t, now: w.now, a: side(w.a), b: side(w.b), room: w.room}
}

// kinds are the messages of a verification by emoji, in order; alice starts.
func kinds() []string {
	return []string{typeRequest, typeReady, typeStart, typeAccept, typeKey, typeMac, typeDone}
}

// is reports whether a message is of a kind; a request in a room is a message of the room.
func (m *Message) is(kind string) bool {
	return m.Type == Prefix+kind || kind == typeRequest && m.Type == "m.room.message"
}

// Attack: two verifications between the same two people go on at once, and the homeserver gives
// the messages of one to the other, under its name, in either direction. Nobody is verified by
// what belongs to another, even if both people say yes without looking; what is the same in both
// verifications, because it has nothing of them in it, may pass.
func TestAttackMessagesOfAnotherFlow(t *testing.T) {
	t.Parallel()
	swaps := 0
	for _, room := range []id.RoomID{"", dm} {
		for _, kind := range kinds() {
			for _, side := range []string{"alice", "bob"} {
				w := twoUsers(t)
				w.room = room
				other := w.again()
				other.play("other")
				if other.a.got == nil || other.b.got == nil {
					t.Fatal("the other one does not verify")
				}
				swapped := false
				w.tamper = func(from *person, m Message) *Message {
					by := other.a
					if from == w.b {
						by = other.b
					}
					at := slices.IndexFunc(by.sent, func(o Message) bool { return o.is(kind) })
					if (from == w.a) != (side == "alice") || !m.is(kind) || at < 0 {
						return &m
					}
					obj, err := strictjson.Parse(by.sent[at].Content)
					if err != nil {
						t.Fatal(err)
					}
					if room == "" {
						obj = obj.Set("transaction_id", strictjson.Quote("txn"))
					}
					swapped, m.Content = true, obj.Encode()
					return &m
				}
				w.play("txn")
				victim := w.b // who got it
				if side == "bob" {
					victim = w.a
				}
				if !swapped || !slices.Contains([]string{typeAccept, typeKey, typeMac}, kind) {
					continue
				}
				swaps++
				if victim.got != nil || w.a.flow.state == Done && w.b.flow.state == Done {
					t.Errorf("%s of %s in %q: alice is %s, bob is %s", kind, side, room, w.a.flow.state, w.b.flow.state)
				}
			}
		}
	}
	if swaps != 2*5 { // an accept, two keys and two lists of codes, in each
		t.Errorf("%d messages were swapped", swaps)
	}
}

// Attack: the homeserver, or the other side, cancels at each step, or a message is held back for
// ever. Both are left with nothing verified that was not proved, no secret stays, and what a
// person says afterwards is too late.
func TestAttackCancelledAtEachStep(t *testing.T) {
	t.Parallel()
	for _, room := range []id.RoomID{"", dm} {
		for _, kind := range kinds()[1:] {
			for _, held := range []bool{false, true} {
				w := twoUsers(t)
				w.room = room
				var victims []*person
				w.tamper = func(from *person, m Message) *Message {
					if !m.is(kind) {
						return &m
					}
					victims = append(victims, w.other(from))
					if held {
						return nil
					}
					m.Type, m.Content = Prefix+typeCancel, from.flow.content(text("code", codeUser))
					return &m
				}
				w.play("txn")
				for _, p := range victims {
					if kind != typeDone && p.got != nil {
						t.Errorf("%s, held back %t, in %q: %s verified somebody", kind, held, room, p.us.User)
					}
					if held {
						w.now = w.now.Add(2 * lifetime)
						p.flow, _ = p.flow.Expire(w.now)
					}
					if !p.flow.state.Over() || p.flow.sas.shared != nil || p.flow.qr.secret != nil {
						t.Errorf("%s, held back %t, in %q: %s is %s, or keeps secrets", kind, held, room, p.us.User, p.flow.state)
					}
					if _, _, err := p.flow.Confirm(w.known(p), true); p.flow.state == Cancelled && !errors.Is(err, core.ErrVerificationStep) {
						t.Errorf("%s: confirmed afterwards: %v", kind, err)
					}
				}
				if len(victims) == 0 {
					t.Errorf("no %s was sent", kind)
				}
			}
		}
	}
}

// Attack: in a room the messages of a verification are edited, redacted, or made state, or relate
// to their verification in another way than by a reference. None of these is part of one.
func TestAttackEditedInTheRoom(t *testing.T) {
	t.Parallel()
	const request = `"msgtype":"m.key.verification.request","from_device":"BOB","methods":["m.sas.v1"],"to":"@alice:hs"`
	const head = `"sender":"@bob:hs","event_id":"$e","origin_server_ts":1777636800000`
	for name, event := range map[string]string{
		"an edit that asks":        `{"type":"m.room.message",` + head + `,"content":{` + request + `,"m.relates_to":{"rel_type":"m.replace","event_id":"$request"},"m.new_content":{` + request + `}}}`,
		"an edit of a text":        `{"type":"m.room.message",` + head + `,"content":{"msgtype":"m.text","body":"* x","m.relates_to":{"rel_type":"m.replace","event_id":"$t"},"m.new_content":{` + request + `}}}`,
		"a request as state":       `{"type":"m.room.message","state_key":"",` + head + `,"content":{` + request + `}}`,
		"a request of that type":   `{"type":"m.key.verification.request",` + head + `,"content":{` + request + `}}`,
		"a redacted request":       `{"type":"m.room.message",` + head + `,"content":{}}`,
		"a redacted key":           `{"type":"m.key.verification.key",` + head + `,"content":{}}`,
		"an edited key":            `{"type":"m.key.verification.key",` + head + `,"content":{"key":"k","m.relates_to":{"rel_type":"m.replace","event_id":"$request"}}}`,
		"a key in a thread":        `{"type":"m.key.verification.key",` + head + `,"content":{"key":"k","m.relates_to":{"rel_type":"m.thread","event_id":"$request"}}}`,
		"a key that names its own": `{"type":"m.key.verification.key",` + head + `,"content":{"key":"k","transaction_id":"$request"}}`,
	} {
		if ev, ok := OfRoom(dm, []byte(event)); ok {
			t.Errorf("%s is %s of %s", name, ev.kind, ev.txn)
		}
	}
	if _, ok := OfRoom(dm, []byte(`{"type":"m.room.message",`+head+`,"content":{`+request+`}}`)); !ok {
		t.Error("a request is none")
	}
}
