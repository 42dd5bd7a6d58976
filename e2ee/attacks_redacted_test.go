package e2ee_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// Attack vector: a message cannot be shown at first, its sender's device is not signed or its key
// is missing, so it waits as it came. Meanwhile it is redacted, and the client is told. Then it
// can be decrypted.
//
// Expected: what was redacted is not shown any more, by either form of a redaction, also not
// when the redaction was seen only because a page has the event without its content.
func TestWhatWaitsIsNotShownOnceItWasRedacted(t *testing.T) {
	t.Parallel()
	for name, redact := range map[string]func(st *stage, room, by, event string){
		"by its member": func(st *stage, room, by, event string) {
			st.hs.Inject(room, liar.Event{Type: "m.room.redaction", Sender: by, Content: json.RawMessage(`{}`), Redacts: event})
		},
		"by its content": func(st *stage, room, by, event string) {
			st.hs.Inject(room, liar.Event{Type: "m.room.redaction", Sender: by, Content: json.RawMessage(`{"redacts":"` + event + `"}`)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, nil)
			bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
			late := newPuppet(t, st.hs, "bob", "LATE")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			said := late.newMegolm(room)
			said.share(st.target())
			event, other := said.say("to be redacted"), said.say("to stay")
			st.wantHidden(event, "to be redacted")
			st.wantHidden(other, "to stay")
			redact(st, room, bob.UserID, event)
			st.sync()
			own.confirm(late)
			st.awaitText(other, "to stay")
			st.sync()
			if holds(st.shown[event], "to be redacted") {
				t.Errorf("the client is shown %v", st.shown[event])
			}
		})
	}
}

// Attack vector: a message is redacted, and somebody looks at what the proxy has stored of it
// since. Redactions in a sync are not opened like messages: they are in clear.
//
// Expected: a sync that says that a message was redacted removes it from the search index, and
// from what waits, whether or not anything is opened.
func TestSyncsTellWhatWasRedacted(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice, bob := newPerson(t, hs, "alice", "FIRST"), newPerson(t, hs, "bob", "BOBS")
	room := alice.newRoom(bob)
	first, second := bob.send(room, "to the lighthouse"), bob.send(room, "the lighthouse keeper")
	alice.awaitRead(room, "the lighthouse keeper")
	wantFound(t, alice.dev, room, "lighthouse", second, first)
	in, err := alice.dev.BeginSync(t.Context(), "s0")
	if err != nil {
		t.Fatal(err)
	}
	defer in.End()
	said := e2ee.UnreadUpdate{Rooms: []e2ee.UnreadRoom{{RoomID: id.RoomID(room), Redacted: []id.EventID{id.EventID(second)}}}}
	if _, err := in.Commit(t.Context(), e2ee.SyncUpdate{Since: "s0", NextBatch: "s1", Unread: said}); err != nil {
		t.Fatal(err)
	}
	wantFound(t, alice.dev, room, "lighthouse", first)
}

// Attack vector: the client asks for a page of history; while the answer is under way, a message in it
// is redacted, which a sync tells. Then the page arrives, with the message as it was.
//
// Expected: the message is not found any more.
func TestOldPageBringsNoRedactedMessageBack(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice, bob := newPerson(t, hs, "alice", "FIRST"), newPerson(t, hs, "bob", "BOBS")
	room := alice.newRoom(bob)
	first, second := bob.send(room, "to the lighthouse"), bob.send(room, "the lighthouse keeper")
	alice.awaitRead(room, "the lighthouse keeper")
	wantFound(t, alice.dev, room, "lighthouse", second, first)
	var page struct {
		Chunk []json.RawMessage `json:"chunk"`
	}
	call(t, hs, alice.Session, http.MethodGet, "rooms/"+url.PathEscape(room)+"/messages?dir=b&limit=1000", nil, &page)
	in, err := alice.dev.BeginSync(t.Context(), "s0")
	if err != nil {
		t.Fatal(err)
	}
	defer in.End()
	said := e2ee.UnreadUpdate{Rooms: []e2ee.UnreadRoom{{RoomID: id.RoomID(room), Redacted: []id.EventID{id.EventID(second)}}}}
	if _, err := in.Commit(t.Context(), e2ee.SyncUpdate{Since: "s0", NextBatch: "s1", Unread: said}); err != nil {
		t.Fatal(err)
	}
	wantFound(t, alice.dev, room, "lighthouse", first)
	all := make([]e2ee.Incoming, len(page.Chunk))
	for i, raw := range page.Chunk {
		all[i] = e2ee.Incoming{RoomID: id.RoomID(room), Event: raw}
	}
	if _, err := alice.dev.Open(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	wantFound(t, alice.dev, room, "lighthouse", first)
}
