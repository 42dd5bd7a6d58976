package interceptors

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/e2ee"
)

const (
	madeEncrypted = `{"type":"m.room.encryption","state_key":"","event_id":"$enc","room_id":"!encrypted:hs.example","content":{"algorithm":"m.megolm.v1.aes-sha2"},"unsigned":{"age":1}}`
	changedLimits = `{"type":"m.room.encryption","state_key":"","event_id":"$enc","room_id":"!encrypted:hs.example","content":{"algorithm":"m.megolm.v1.aes-sha2"},"unsigned":{"replaces_state":"$old"}}`
)

// said returns a message in clear.
func said(name string) string {
	return `{"type":"m.room.message","event_id":"$` + name + `","room_id":"!encrypted:hs.example","content":{"body":"` + name + `"}}`
}

// orders returns how events were said to stand, as b, a or ? and their names, in order.
func (w *readWorld) orders(t *testing.T) string {
	t.Helper()
	var out []string
	for _, in := range w.dev.in {
		var e struct {
			EventID string `json:"event_id"`
		}
		if err := json.Unmarshal(in.Event, &e); err != nil {
			t.Fatal(err)
		}
		out = append(out, map[e2ee.Order]string{e2ee.OrderBefore: "before", e2ee.OrderAfter: "after", e2ee.OrderUnknown: "?"}[in.Order]+e.EventID)
	}
	w.dev.in = nil
	return strings.Join(out, " ")
}

// Reported: messages from before a room was encrypted are said to be "in clear although the
// room is". Where a page of history, or the context of an event, shows the event that made
// the room encrypted, they are judged by the side of it on which they stand. What shows
// nothing, such as a list of state that lacks the event, proves nothing.
func TestReadsTellWhatWasBeforeEncryption(t *testing.T) {
	t.Parallel()
	chunk := func(events ...string) string { return `{"chunk":[` + strings.Join(events, ",") + `]}` }
	for _, tt := range []struct{ handler, query, body, want string }{
		{Messages, "dir=b", chunk(said("1"), madeEncrypted, said("2")), "after$1 before$2"},
		{Messages, "dir=f", chunk(said("1"), madeEncrypted, said("2")), "before$1 after$2"},
		{Messages, "", chunk(said("1"), madeEncrypted, said("2")), "before$1 after$2"},
		{Messages, "dir=b", chunk(said("1"), changedLimits, said("2")), "after$1 ?$2"},
		{Messages, "dir=b", chunk(said("1"), changedLimits, said("2"), madeEncrypted, said("3")), "after$1 after$2 before$3"},
		{Messages, "dir=b", chunk(said("1"), said("2")), "?$1 ?$2"},
		{Messages, "dir=b", `{"state":[],"chunk":[` + said("1") + `]}`, "?$1"},
		{Messages, "dir=b", `{"chunk":[` + said("1") + `],"state":[` + madeEncrypted + `]}`, "?$1"},
		{EventContext, "", `{"events_after":[` + said("1") + `,` + madeEncrypted + `,` + said("2") + `],"event":` + said("3") + `,"events_before":[` + said("4") + `]}`, "before$1 after$2 before$3 before$4"},
		{EventContext, "", `{"events_before":[` + said("1") + `,` + madeEncrypted + `,` + said("2") + `],"event":` + said("3") + `,"events_after":[` + said("4") + `]}`, "after$1 before$2 after$3 after$4"},
		{EventContext, "", `{"events_before":[` + said("1") + `],"event":` + said("3") + `,"events_after":[` + said("4") + `],"state":[]}`, "?$1 ?$3 ?$4"},
		{EventContext, "", `{"events_before":[` + said("1") + `],"event":` + said("3") + `,"state":[` + madeEncrypted + `]}`, "?$1 ?$3"},
		{GetEvent, "", said("1"), "?$1"},
		{Relations, "", chunk(said("1"), madeEncrypted, said("2")), "?$1 ?$2"},
		{RoomInitialSync, "", `{"messages":{"chunk":[` + said("1") + `,` + madeEncrypted + `,` + said("2") + `]},"state":[]}`, "before$1 after$2"},
		{InitialSync, "", `{"rooms":[{"room_id":"!encrypted:hs.example","messages":{"chunk":[` + said("1") + `,` + madeEncrypted + `]}},{"messages":{"chunk":[` + said("2") + `]},"room_id":"!encrypted:hs.example"}]}`, "before$1 ?$2"},
		{
			Search, "", `{"search_categories":{"room_events":{"results":[{"context":{"events_before":[` + said("1") + `],"events_after":[` + madeEncrypted + `]},"result":` + said("2") + `},{"result":` + said("3") + `}]}}}`,
			"before$1 before$2 ?$3",
		},
	} {
		w := newReadWorld(t, e2ee.ModeProxied)
		_ = w.read(tt.handler, tt.query, tt.body)
		if diff := cmp.Diff(tt.want, w.orders(t)); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", tt.handler, tt.query, diff)
		}
	}
}

// Whoever pages on beyond the event that encrypted a room sees nothing but what is older.
// That holds for the pages that follow from that one, in that room, for that user, and for
// no others.
func TestPagesBeforeEncryption(t *testing.T) {
	t.Parallel()
	w := newReadWorld(t, e2ee.ModeProxied)
	page := func(query, end, want string, events ...string) {
		t.Helper()
		_ = w.read(Messages, query, `{"chunk":[`+strings.Join(events, ",")+`],"end":"`+end+`"}`)
		if diff := cmp.Diff(want, w.orders(t)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	page("dir=b&from=p0", "p1", "?$1", said("1"))
	page("dir=b&from=p1", "p2", "after$2 before$3", said("2"), madeEncrypted, said("3"))
	page("dir=b&from=p2", "p3", "before$4", said("4"))
	page("dir=b&from=p3", "p4", "before$5", said("5"))
	page("dir=b&from=p1", "p2", "after$2 before$3", said("2"), madeEncrypted, said("3"))
	page("dir=f&from=p2", "p9", "?$4", said("4"))
	page("dir=b&from=p9", "p9", "?$4", said("4"))
	page("dir=b", "p1", "?$1", said("1"))
	w.w.who.UserID = bob
	page("dir=b&from=p3", "p4", "?$5", said("5"))
	w.w.who.UserID = alice
	// An older one was shown after all: what stands between them is not older.
	page("dir=b&from=p3", "p5", "after$5 before$6", said("5"), madeEncrypted, said("6"))
	page("dir=b&from=p5", "p6", "before$7", said("7"))
}
