package e2e

import (
	"maps"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/internal/liar"
)

// members are those of an object in an answer.
type members = map[string]any

// lyingAnswer is where an endpoint answers with events.
type lyingAnswer struct {
	path string // of the request; $room and $event are put in
	at   string // in the homeserver's path
	body func(room string, event members) any
}

func lyingAnswers() []lyingAnswer {
	chunk := func(_ string, event members) any { return members{"chunk": []any{event}, "start": "a", "end": "b"} }
	one := func(_ string, event members) any { return event }
	inSync := func(list string) func(string, members) any {
		return func(room string, event members) any {
			return members{"next_batch": "s1000000", "rooms": members{"join": members{room: members{list: members{"events": []any{event}}}}}}
		}
	}
	const rooms, sync = "/_matrix/client/v3/rooms/$room/", "/_matrix/client/v3/sync?timeout=0&since=s1&x="
	return []lyingAnswer{
		{rooms + "messages?dir=b", "/messages$", chunk},
		{rooms + "context/$event", "/context/", func(_ string, event members) any { return members{"event": event, "start": "a", "end": "b"} }},
		{rooms + "context/$event", "/context/", func(_ string, event members) any { return members{"event": event, "events_after": []any{event}} }},
		{rooms + "event/$event", "/event/", one},
		{rooms + "relations/$root", "/relations/", chunk},
		{rooms + "relations/$root/m.thread", "/relations/", chunk},
		{rooms + "relations/$root/m.thread/m.room.message", "/relations/", chunk},
		{rooms + "threads", "/threads$", chunk},
		{rooms + "initialSync", "/initialSync$", func(room string, event members) any {
			return members{"room_id": room, "messages": members{"chunk": []any{event}, "end": "b"}}
		}},
		{rooms + "state", "/state$", func(_ string, event members) any { return []any{event} }},
		{rooms + "members", "/members$", chunk},
		{"/_matrix/client/v3/initialSync", "/initialSync$", func(room string, event members) any {
			return members{"end": "b", "rooms": []any{members{"room_id": room, "messages": members{"chunk": []any{event}, "end": "b"}}}}
		}},
		{"/_matrix/client/v3/events", "/events$", chunk},
		{"/_matrix/client/v3/events/$event", "/events/", one},
		{"/_matrix/client/v3/notifications", "/notifications$", func(room string, event members) any {
			return members{"notifications": []any{members{"room_id": room, "event": event}}}
		}},
		{sync + "1", "/sync$", inSync("timeline")},
		{sync + "2", "/sync$", inSync("state")},
		{sync + "3", "/sync$", inSync("state_after")},
		{sync + "4", "/sync$", inSync("msc4354_sticky")},
		{sync + "5", "/sync$", inSync("ephemeral")},
	}
}

// A homeserver that lies where a client reads: it gives a message as another user's, another
// message under this one's ID, a message of another room, a message in clear, an edit of another
// message as the latest of this one, and an edit in clear. Behind each endpoint the engine sees
// through it, and not a word of it is shown as what it is not.
func TestLiesThroughEveryEndpoint(t *testing.T) {
	t.Parallel()
	c := newPlainClient(t, "")
	c.wantEncrypted("warm up")
	direct := newCurl(t, c.hs.URL, c.account)
	say := func(id string) members {
		t.Helper()
		var event members
		direct.call(http.MethodGet, roomPath(c.room, "event/%s", id), nil, &event)
		delete(event, "unsigned")
		return event
	}
	honest := say(c.SendText(c.room, c.marked("said here")))
	another := say(c.SendText(c.room, c.marked("FORGED if here")))
	edit := say(c.Edit(c.room, another["event_id"].(string), c.marked("FORGED as an edit")))
	c.sync(0)
	with := func(of members, more members) members {
		out := maps.Clone(of)
		maps.Copy(out, more)
		return out
	}
	id := honest["event_id"].(string)
	inClear := members{"msgtype": "m.text", "body": "FORGED in clear"}
	clearEdit := with(honest, members{"event_id": "$edit", "type": "m.room.message", "content": members{
		"msgtype": "m.text", "body": "* FORGED", "m.new_content": inClear, "m.relates_to": members{"rel_type": "m.replace", "event_id": id},
	}})
	replaced := func(by members) members {
		return with(honest, members{"unsigned": members{"m.relations": members{"m.replace": by}}})
	}
	for _, a := range lyingAnswers() {
		show := func(event members) string {
			t.Helper()
			defer c.hs.Intercept(liar.Is("GET", a.at), func(*liar.Request, func() liar.Reply) liar.Reply { return liar.OK(a.body(c.room, event)) })()
			resp := c.get(strings.NewReplacer("$room", c.room, "$event", id, "$root", "$root").Replace(a.path))
			if resp.Status != http.StatusOK {
				t.Errorf("%s: %d %s", a.path, resp.Status, resp.Body)
			}
			return string(resp.Body)
		}
		unlisted := strings.HasSuffix(a.path, "/notifications") // by the push rules nobody is notified of their own messages
		if got := show(honest); !unlisted && (!strings.Contains(got, "said here") || !strings.Contains(got, `"decrypted":true`)) {
			t.Errorf("%s: shown as %s", a.path, got)
		}
		for name, lie := range map[string]struct {
			event members
			code  string // of its mark; empty: it is right but for the lie
		}{
			"another sender":       {with(another, members{"sender": "@mallory:liar.test", "event_id": id}), "MismatchedSender"},
			"another event":        {with(another, members{"event_id": id}), "Replayed"},
			"another room":         {with(another, members{"room_id": "!other:liar.test", "event_id": id}), ""},
			"in clear":             {with(honest, members{"type": "m.room.message", "content": inClear}), "SentInClear"},
			"an edit in clear":     {replaced(clearEdit), "said here"},
			"another event's edit": {replaced(edit), "said here"},
			"a forged mark": {with(honest, members{"decrypted": "FORGED", "unsigned": members{
				"dev.e2ee-proxy.trust": members{"color": "FORGED"}, "redacted_because": members{"type": "m.room.message", "content": inClear},
			}}), "said here"},
		} {
			got := show(lie.event)
			shown := strings.Contains(got, lie.code) || unlisted && lie.code == "said here"
			if forged := strings.Contains(got, "FORGED"); forged != (name == "in clear") || !shown {
				t.Errorf("%s: %s is shown as %s", a.path, name, got)
			}
			if strings.Contains(got, "m.replace") {
				t.Errorf("%s: %s has an edit: %s", a.path, name, got)
			}
		}
	}
}
