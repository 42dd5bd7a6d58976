package e2ee_test

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// found looks for a term and returns the events, in the order of their IDs.
func found(t *testing.T, d *e2ee.Device, room, term string) (events []string, state e2ee.SearchState) {
	t.Helper()
	r, err := d.Search(t.Context(), e2ee.SearchQuery{
		Term: e2ee.NewSearchTerm(term), Keys: []e2ee.SearchKey{e2ee.SearchBody, e2ee.SearchName, e2ee.SearchTopic},
		Rooms: []id.RoomID{id.RoomID(room)}, Recent: true, Limit: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range r.Hits {
		events = append(events, h.Event.String())
	}
	slices.Sort(events) // some were sent in the same millisecond
	return events, r.State
}

func wantFound(t *testing.T, d *e2ee.Device, room, term string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got, _ := found(t, d, room, term); !slices.Equal(got, want) {
		t.Errorf("%q finds %v, want %v", term, got, want)
	}
}

// openAll opens everything in a room, also what is not encrypted.
func (p *person) openAll(room string) {
	p.t.Helper()
	var page struct {
		Chunk []json.RawMessage `json:"chunk"`
	}
	call(p.t, p.hs, p.Session, http.MethodGet, "rooms/"+url.PathEscape(room)+"/messages?dir=b&limit=1000", nil, &page)
	if _, err := p.dev.LoadRooms(p.t.Context(), []id.RoomID{id.RoomID(room)}); err != nil { // as handlers do
		p.t.Fatal(err)
	}
	in := make([]e2ee.Incoming, len(page.Chunk))
	for i, raw := range page.Chunk {
		in[i] = e2ee.Incoming{RoomID: id.RoomID(room), Event: raw}
	}
	if _, err := p.dev.Open(p.t.Context(), in); err != nil {
		p.t.Fatal(err)
	}
}

// What a client was shown is found, also after a restart, by all devices of its account and
// by nobody else; what was redacted is not, nor anything after the last device has logged out.
func TestSearchFindsWhatWasShown(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice, bob := newPerson(t, hs, "alice", "FIRST"), newPerson(t, hs, "bob", "BOBS")
	room := alice.newRoom(bob)
	first, second := bob.send(room, "to the lighthouse"), bob.send(room, "the lighthouse keeper")
	wantFound(t, alice.dev, room, "lighthouse")
	alice.awaitRead(room, "the lighthouse keeper")
	wantFound(t, alice.dev, room, "lighthouse", second, first)
	wantFound(t, bob.dev, room, "lighthouse")
	call(t, hs, bob.Session, http.MethodPut, "rooms/"+url.PathEscape(room)+"/state/m.room.topic", map[string]any{"topic": "all about lighthouses"}, nil)
	alice.openAll(room)
	if got, _ := found(t, alice.dev, room, "lighthouses"); len(got) != 1 {
		t.Errorf("by the topic %v are found", got)
	}
	alice.restart()
	wantFound(t, alice.dev, room, "lighthouse", second, first)

	call(t, hs, bob.Session, http.MethodPut, "rooms/"+url.PathEscape(room)+"/redact/"+url.PathEscape(second)+"/1", map[string]any{}, nil)
	alice.openAll(room)
	wantFound(t, alice.dev, room, "lighthouse", first)

	row := rowOf(t, alice.rig.db, alice.UserID)
	hs.Revoke(alice.Token)
	if err := alice.rig.eng.Forget(t.Context(), id.UserID(alice.UserID), id.DeviceID(alice.DeviceID)); err != nil {
		t.Fatal(err)
	}
	if has, err := alice.rig.db.HasSearch(t.Context(), row); err != nil || has {
		t.Errorf("after the logout there is an index: %t %v", has, err)
	}
}

// Attack: somebody sends from a device that its owner has not confirmed, and looks for traces
// of the message that the proxy held back. It is not in the index: nobody can find out by
// searching what stands in it.
func TestWithheldMessagesAreNotFound(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.Policy = func() trustcache.Policy { return trustcache.Policy{} } })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.told()
	var in []e2ee.Incoming
	for i, p := range []*puppet{bob, spy} {
		said := p.newMegolm(room)
		said.share(st.target())
		st.told()
		content := said.seal(said.text("the lighthouse"))
		in = append(in, e2ee.Incoming{RoomID: id.RoomID(room), Event: json.RawMessage(fmt.Sprintf(
			`{"type":"m.room.encrypted","sender":%q,"event_id":"$%d","origin_server_ts":%d,"content":%s}`, p.UserID, i, i, content))})
	}
	out, err := st.dev.Open(t.Context(), in)
	if err != nil || out[0].Withheld || !out[1].Withheld {
		t.Fatalf("got %+v %v", out, err)
	}
	wantFound(t, st.dev, room, "lighthouse", "$0")
}

// The index in the database was damaged: searches say so, and it is filled again from the
// history, also when that is interrupted by a restart.
func TestLostSearchIndexIsFilledAgain(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice, bob := newPerson(t, hs, "alice", "FIRST"), newPerson(t, hs, "bob", "BOBS")
	room := alice.newRoom(bob)
	var all []string
	for i := range 5 {
		all = append(all, bob.send(room, fmt.Sprintf("lighthouse %d", i)))
	}
	alice.awaitRead(room, "lighthouse 4")
	wantFound(t, alice.dev, room, "lighthouse", all...)

	alice.rig.stop()
	db, err := sql.Open("sqlite", alice.rig.path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "UPDATE search_parts SET sealed_data = (SELECT sealed_key FROM accounts)"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	open := hs.Intercept(liar.Of(alice.UserID, liar.Is(http.MethodGet, "/messages$")), liar.Fail(http.StatusBadGateway, "M_UNKNOWN"))
	alice.rig.start()
	alice.dev = alice.rig.device(alice.Session)
	if got, state := found(t, alice.dev, room, "lighthouse"); len(got) != 0 || !state.Refilling {
		t.Errorf("found %v in %+v", got, state)
	}
	asked := func() int { return len(hs.Requests(liar.Of(alice.UserID, liar.Is(http.MethodGet, "/messages$")))) }
	before := asked()
	await(t, "the history is not asked for", func() bool {
		_, _ = found(t, alice.dev, room, "lighthouse")
		return asked() > before
	})
	alice.restart()
	open()
	await(t, "the index is not filled again", func() bool {
		got, state := found(t, alice.dev, room, "lighthouse")
		return !state.Refilling && slices.Equal(got, all)
	})
}

// With indexes switched off nothing is found, and nothing is kept.
func TestNoSearchIndex(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	off := false
	alice := &person{t: t, hs: hs, rig: newRig(t, hs, func(o *e2ee.Options) { o.Search.Off = off }), Session: hs.Login("alice", "FIRST")}
	alice.dev = alice.rig.device(alice.Session)
	ready(t, alice.dev)
	room := alice.newRoom()
	alice.send(room, "the lighthouse")
	alice.awaitRead(room, "the lighthouse")
	off = true
	alice.restart()
	alice.awaitRead(room, "the lighthouse")
	if _, err := alice.dev.Search(t.Context(), e2ee.SearchQuery{}); err == nil || alice.dev.Searches() {
		t.Error("there is an index")
	}
	if has, err := alice.rig.db.HasSearch(t.Context(), rowOf(t, alice.rig.db, alice.UserID)); err != nil || has {
		t.Errorf("an index is kept: %t %v", has, err)
	}
}

func rowOf(t *testing.T, db *store.DB, user string) *store.Account {
	t.Helper()
	row, err := db.Account(t.Context(), id.UserID(user))
	if err != nil {
		t.Fatal(err)
	}
	return row
}
