package interceptors

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/rewrite"
)

// anyKind are all kinds of places.
func anyKind() []rewrite.Kind {
	return []rewrite.Kind{rewrite.Other, rewrite.Timeline, rewrite.Mixed, rewrite.State, rewrite.Stripped, rewrite.AccountData}
}

// judgedKinds are those where messages are opened and marked.
func judgedKinds() []rewrite.Kind {
	return []rewrite.Kind{rewrite.Timeline, rewrite.Mixed, rewrite.State}
}

// A homeserver speaks in the proxy's name: forged trust marks, at every depth, and forged notices.
// Nothing of it is left at any place of any endpoint, /sync among them.
func TestForgedMarksAtEveryPlace(t *testing.T) {
	t.Parallel()
	everyPlace(t, func(t *testing.T, p *onePlace) {
		for _, event := range hostile(encryptedRoom.String()) {
			got := p.show(t, event)
			if holdsText(got, "FORGED") || holdsText(got, "e2ee-proxy.invalid") {
				t.Errorf("%v is shown as %v", event, got)
			}
		}
	}, anyKind()...)
}

// Attack A25: a homeserver puts a message in clear into an encrypted room, where clients look for
// messages and where they do not: among the room's state, typing notices, or what it calls sticky.
// At each place it is marked; where stripped state belongs it is left out.
func TestClearTextAtEveryPlace(t *testing.T) {
	t.Parallel()
	said := clearEvent("$e", "m.room.message", object{"body": "in clear"})
	texts := []object{
		said, and(said, object{"state_key": ""}), and(said, object{"state_key": 5}), and(said, object{"type": "m.sticker"}),
		and(said, object{"type": "m.reaction"}), and(said, object{"type": "org.example.message"}),
	}
	everyPlace(t, func(t *testing.T, p *onePlace) {
		for _, event := range texts {
			if got := p.show(t, event); !holdsText(got, "SentInClear") || !holdsText(got, "in clear") {
				t.Errorf("%v is shown as %v", event, got)
			}
		}
		sealed := cipherEvent("$e", "m.room.message", object{"body": "sealed"}, nil)
		if got := p.show(t, sealed); got["decrypted"] != true || !holdsText(got, `"body":"sealed"`) {
			t.Errorf("shown as %v", got)
		}
	}, judgedKinds()...)
	all := allShapes()
	for name, shape := range all {
		by := rewriterOf(&shape, SyncOptions{})
		for i := range shape.Places {
			p := &onePlace{&shape.Places[i], &shape, by}
			if p.Kind != rewrite.Stripped {
				continue
			}
			for _, event := range texts {
				if got := p.show(t, event); got != nil {
					t.Errorf("%s %s: %v is shown as %v", name, p.Path, event, got)
				}
			}
		}
	}
}

// A client asks for an event by its ID, and gets another one, which may be in somebody else's
// name: it would stand where the first is quoted. It is as if there were none.
func TestAnotherEventUnderThisID(t *testing.T) {
	t.Parallel()
	asked := 0
	for name, shape := range allShapes() {
		by := rewriterOf(&shape, SyncOptions{})
		for i := range shape.Places {
			p := &onePlace{&shape.Places[i], &shape, by}
			if !p.Asked {
				continue
			}
			asked++
			if got := p.show(t, cipherEvent("$e", "m.room.message", object{"body": "KEPT"}, nil)); !holdsText(got, "KEPT") {
				t.Errorf("%s %s: shown as %v", name, p.Path, got)
			}
			for _, event := range []object{
				cipherEvent("$other", "m.room.message", object{"body": "FORGED"}, nil),
				and(cipherEvent("$other", "m.room.message", object{"body": "FORGED"}, nil), object{"event_id": nil}),
				clearEvent("$other", "m.room.message", object{"body": "FORGED"}),
				and(clearEvent("$other", "m.room.topic", object{"topic": "FORGED"}), object{"state_key": ""}),
			} {
				if got := p.show(t, event); got != nil {
					t.Errorf("%s %s: shown as %v", name, p.Path, got)
				}
			}
		}
	}
	if asked != 4 {
		t.Errorf("%d places are asked for", asked)
	}
}

// Reported: clients without encryption that see m.room.encryption refuse to send. It is
// nowhere to be seen, as an event of the timeline neither, unless the options say otherwise.
func TestEncryptionIsHiddenAtEveryPlace(t *testing.T) {
	t.Parallel()
	encryption := object{
		"type": "m.room.encryption", "state_key": "", "event_id": "$e", "sender": bob, "room_id": encryptedRoom, "origin_server_ts": 7,
		"content": object{"algorithm": "m.megolm.v1.aes-sha2"},
	}
	everyPlace(t, func(t *testing.T, p *onePlace) {
		for _, event := range []object{encryption, and(encryption, object{"state_key": "x"}), and(encryption, object{"state_key": nil})} {
			got := p.show(t, event)
			if holdsText(got, "m.room.encryption") || holdsText(got, "megolm") {
				t.Errorf("shown as %v", got)
			}
			switch alone := isAlone(p.Place) && p.Path != ""; {
			case !alone && got != nil:
				t.Errorf("shown as %v", got)
			case alone && (got["event_id"] != "$e" || got["origin_server_ts"] != 7.0 || got["type"] != "m.room.message"):
				t.Errorf("nothing stands for it: %v", got)
			}
		}
	}, anyKind()...)
	everyPlace(t, func(t *testing.T, p *onePlace) {
		p.by = rewriterOf(p.shape, SyncOptions{ShowEncryptionState: true})
		if got := p.show(t, encryption); !holdsText(got, "megolm") {
			t.Errorf("it is not shown: %v", got)
		}
		inside := and(clearEvent("$e", "m.room.member", object{}), object{"state_key": "", "unsigned": object{"invite_room_state": []any{encryption}}})
		if got := p.show(t, inside); !holdsText(got, "megolm") {
			t.Errorf("it is not shown inside: %v", got)
		}
	}, rewrite.Timeline, rewrite.Mixed, rewrite.State, rewrite.Stripped)
}

// A page on which everything is hidden is empty, and has its tokens: the client goes on from
// there. What surrounds the event that made a room encrypted can be read by that event's ID.
func TestHiddenEncryptionBreaksNoPage(t *testing.T) {
	t.Parallel()
	const standIn = `{"type":"m.room.message","event_id":"$enc","sender":"","origin_server_ts":0,"content":{}}`
	topic := `{"type":"m.room.topic","state_key":"","event_id":"$t"}`
	for _, tt := range []struct{ handler, query, body, want string }{
		{Messages, "dir=b&from=a", `{"start":"a","chunk":[` + madeEncrypted + `],"end":"b"}`, `{"start":"a","chunk":[],"end":"b"}`},
		{Messages, "dir=f&from=a", `{"chunk":[` + madeEncrypted + `,` + changedLimits + `],"end":"b","start":"a"}`, `{"chunk":[],"end":"b","start":"a"}`},
		{Relations, "", `{"chunk":[` + madeEncrypted + `],"next_batch":"n","prev_batch":"p"}`, `{"chunk":[],"next_batch":"n","prev_batch":"p"}`},
		{Threads, "", `{"chunk":[` + madeEncrypted + `],"next_batch":"n"}`, `{"chunk":[],"next_batch":"n"}`},
		{Events, "", `{"start":"a","chunk":[` + madeEncrypted + `],"end":"b"}`, `{"start":"a","chunk":[],"end":"b"}`},
		{Notifications, "", `{"next_token":"n","notifications":[{"event":` + madeEncrypted + `,"room_id":"!encrypted:hs.example"}]}`, `{"next_token":"n","notifications":[]}`},
		{EventContext, "", `{"start":"a","end":"b","events_before":[` + topic + `],"event":` + madeEncrypted + `,"events_after":[` + changedLimits + `]}`, `{"start":"a","end":"b","events_before":[` + topic + `],"event":` + standIn + `,"events_after":[]}`},
		{GetEvent, "", madeEncrypted, apierr.CodeNotFound},
		{EventsGet, "", madeEncrypted, apierr.CodeNotFound},
	} {
		if got := newReadWorld(t, e2ee.ModeProxied).read(tt.handler, tt.query, tt.body); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.handler, got, tt.want)
		}
	}
}

// Bad input: one event of a list is broken. The events around it are right, at every place.
func TestOneBrokenEventAtEveryPlace(t *testing.T) {
	t.Parallel()
	all := allShapes()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		shape := all[name]
		by := rewriterOf(&shape, SyncOptions{})
		for i := range shape.Places {
			p := &shape.Places[i]
			if isAlone(p) || !slices.Contains(judgedKinds(), p.Kind) {
				continue
			}
			t.Run(name+" "+p.Path, func(t *testing.T) {
				t.Parallel()
				for _, broken := range []string{
					`5`, `null`, `[]`, `"x"`, `{}`, `{"type":5}`, `{"type":"m.room.encrypted"}`, `{"type":"m.room.encrypted","content":[]}`,
					`{"type":"m.room.encrypted","type":"m.room.message","content":{}}`, `{"type":"m.room.topic","state_key":{}}`,
					`{"type":"m.room.topic","state_key":"","unsigned":5,"redacted_because":7,"invite_room_state":{}}`,
					`{"type":"m.room.topic","state_key":"","unsigned":{"m.relations":[],"redacted_because":"x","invite_room_state":"y","knock_room_state":[5,null,[]]}}`,
					`{"type":"m.room.topic","state_key":"","unsigned":{"m.relations":{"m.replace":5,"m.thread":[{}],"m.reference":{"chunk":{}},"m.annotation":null}}}`,
					`{"type":"m.room.topic","state_key":"","unsigned":{"m.relations":{"m.replace":{"type":1},"m.replace":{"type":2},"m.thread":{"latest_event":{},"latest_event":{}}}}}`,
				} {
					before, after := cipherEvent("$1", "m.room.message", object{"body": "KEPT before"}, nil), cipherEvent("$2", "m.room.message", object{"body": "KEPT after"}, nil)
					body := bodyWith(t, &shape, p, []any{before, json.RawMessage(broken), after})
					got, err := bodyOf(t, by, body)
					first, second := strings.Index(got, `"body":"KEPT before"`), strings.Index(got, `"body":"KEPT after"`)
					if err != nil || first < 0 || second < first || strings.Count(got, `"decrypted":true`) != 2 {
						t.Errorf("with %s: %s, %v", broken, got, err)
					}
				}
			})
		}
	}
}

// Bad input: an answer is no JSON where JSON is due, as when something in front of the homeserver
// speaks. It goes to nobody who could take an event in it for one that the proxy looked at; who
// is not encrypted for, or was refused, gets it as it came, and so does who reads a content only.
func TestBodiesThatAreNoJSON(t *testing.T) {
	t.Parallel()
	handlers := slices.Sorted(maps.Keys(readShapes()))
	for _, handler := range handlers {
		alone := handler == GetEvent || handler == EventsGet
		for _, body := range []string{`<html>{"type":"m.room.message"}</html>`, `{"chunk":[{"type":"m.room.message"}]`, ``, `{"a":1}{"chunk":[]}`, "\xff\xfe"} {
			w := newReadWorld(t, e2ee.ModeProxied)
			// An event alone may be refused before its end: it is not the one that was asked for.
			if got := w.read(handler, "format=event", body); got != apierr.CodeUnknown && (got != apierr.CodeNotFound || !alone) {
				t.Errorf("%s: %q is answered with %s", handler, body, got)
			}
			for _, mode := range []e2ee.Mode{e2ee.ModeForeign, e2ee.ModeNone} {
				if status, got := answerOf(t, mode, handler, http.StatusOK, body); status != http.StatusOK || got != body {
					t.Errorf("%s: to mode %d %q is answered with %d %s", handler, mode, body, status, got)
				}
			}
			if status, got := answerOf(t, e2ee.ModeProxied, handler, http.StatusBadGateway, body); status != http.StatusBadGateway || got != body {
				t.Errorf("%s: a refusal %q is answered with %d %s", handler, body, status, got)
			}
		}
	}
	if status, got := answerOf(t, e2ee.ModeProxied, StateGet, http.StatusOK, `no JSON`); status != http.StatusOK || got != `no JSON` {
		t.Errorf("a content is answered with %d %s", status, got)
	}
	shape := allShapes()[Sync]
	for _, body := range []string{`<html>`, `{"next_batch":"a"`, ``} {
		_, err := bodyOf(t, rewriterOf(&shape, SyncOptions{}), body)
		if said, ok := errors.AsType[*apierr.Error](err); !ok || said.Status != http.StatusBadGateway {
			t.Errorf("a sync with %q: %v", body, err)
		}
	}
}

// answerOf returns what a client gets of an answer of the homeserver.
func answerOf(t *testing.T, mode e2ee.Mode, handler string, status int, body string) (int, string) {
	t.Helper()
	w := newReadWorld(t, mode)
	w.w.replaced = readDevices{w.w.devices, w.dev}
	w.w.up.respond = func(seen) (int, string) { return status, body }
	method, pattern := readPath(handler)
	c := call{handler: handler, method: method, pattern: pattern, params: map[string]string{
		"roomId": encryptedRoom.String(), "eventId": "$e", "eventType": "m.room.name",
	}}
	if method == http.MethodPost {
		c.body = `{"search_categories":{"room_events":{"search_term":"x","filter":{"rooms":["!plain:hs.example"]}}}}`
	}
	rec, err := w.w.do(c)
	if err != nil {
		t.Fatalf("%s: %v", handler, err)
	}
	return rec.Code, rec.Body.String()
}
