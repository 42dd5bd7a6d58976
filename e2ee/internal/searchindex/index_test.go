package searchindex

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// What is indexed is found: by all of its words, by the member it stands in, by type, sender,
// room and URL, the newest or the shortest first, page by page; and the same after a restart.
func TestSearch(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		r := newRig(t, url, Options{})
		r.want(query("lighthouse"))
		name := said(4, "")
		name.Type, name.Texts = "m.room.name", Texts{KeyName: "the lighthouse", KeyTopic: "keepers"}
		image := said(5, "lighthouse.png with a long description of what is on it")
		image.URL, image.Sender = true, "@carol:hs"
		elsewhere := said(6, "lighthouse")
		elsewhere.Room = "!other:hs"
		r.add(said(1, "to the lighthouse"), said(2, "東京タワー lighthouse"), said(3, "nothing"))
		r.add(name, image, elsewhere)
		for range 2 {
			r.want(query("Lighthouse"), 5, 4, 2, 1)
			r.want(query("the lighthouse"), 4, 1)
			r.want(query("タワー"), 2)
			r.want(query("lighthouse keepers"), 4)
			r.want(query("light"))
			q := query("lighthouse")
			q.Keys = []Key{KeyName}
			r.want(q, 4)
			q.Keys = []Key{KeyTopic}
			r.want(q)
			q = query("lighthouse")
			q.Rooms = nil
			r.want(q)
			q.Rooms = []id.RoomID{"!other:hs", "!none:hs"}
			r.want(q, 6)
			q.Rooms = append(q.Rooms, "!r:hs")
			q.Types = []string{"m.room.name", "m.sticker"}
			r.want(q, 4)
			q.Types = []string{}
			r.want(q)
			q.Types, q.URL = nil, true
			r.want(q, 5)
			q.URL, q.Senders = false, []id.UserID{"@carol:hs"}
			r.want(q, 5)
			q.Senders, q.NotSenders = nil, q.Senders
			r.want(q, 6, 4, 2, 1)
			q = query("lighthouse")
			q.Recent = false
			found := r.want(q, 4, 1, 2, 5) // of 3, 3, 7 and 10 words
			if found.Count != 4 || found.Hits[0].Rank <= found.Hits[3].Rank || found.Hits[0].Rank > 1 {
				t.Errorf("%+v", found)
			}
			for _, recent := range []bool{true, false} {
				q.Recent, q.Limit, q.After = recent, 1, nil
				var pages []id.EventID
				for {
					page := r.search(q)
					if len(page.Hits) == 0 {
						break
					}
					pages = append(pages, page.Hits[0].Event)
					q.After = &page.Hits[0].Position
				}
				if len(pages) != 4 || slices.Contains(pages[1:], pages[0]) {
					t.Errorf("pages: %v", pages)
				}
			}
			if s := r.search(query("x")).State; s.Messages != 6 || !s.Rooms["!other:hs"] || s.Rooms["!none:hs"] || s.Refilling {
				t.Errorf("state: %+v", s)
			}
			r.restart()
		}
	})
}

// An event is in the index once, however often it is read; edits count by their time, and
// only the sender's own; what was redacted is gone, with its edits.
func TestEditsAndRedactions(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		r := newRig(t, url, Options{})
		r.add(said(1, "first words"), said(1, "first words"), said(2, "second words"))
		r.add(said(1, "other words"))
		r.want(query("words"), 2, 1)
		r.want(query("other"))
		if n := r.search(query("words")).State.Messages; n != 2 {
			t.Errorf("%d messages", n)
		}

		r.add(edit(10, 1, "newer text"), edit(9, 1, "older text"))
		r.add(edit(8, 1, "oldest text"), said(1, "first words"))
		found := r.want(query("newer text"), 1)
		if found.Hits[0].Source != "$event10" || found.Hits[0].At != 1 {
			t.Errorf("the edited message is %+v", found.Hits[0])
		}
		r.want(query("first"))
		r.want(query("older"))

		// Somebody who edits the message of another does not keep it out, before or after.
		theirs := edit(11, 2, "forged text")
		theirs.Sender = "@eve:hs"
		early := edit(12, 3, "forged text")
		early.Sender = "@eve:hs"
		r.add(theirs, early)
		r.add(said(3, "third words"))
		r.want(query("forged"))
		r.want(query("words"), 3, 2)

		r.update(Update{Gone: []Gone{{"!other:hs", "$event2"}, {"!r:hs", "$none"}}})
		r.want(query("second"), 2) // not in that room
		r.update(Update{Gone: []Gone{{"!r:hs", "$event2"}}})
		r.want(query("second"))
		r.update(Update{Gone: []Gone{{"!r:hs", "$event10"}}}) // the edit
		r.want(query("newer"))
		r.update(Update{Entries: []Entry{said(7, "short life")}, Gone: []Gone{{"!r:hs", "$event7"}}})
		r.want(query("short"))
		r.restart()
		r.want(query("words"), 3)
		if n := r.search(query("words")).State.Messages; n != 1 {
			t.Errorf("%d messages", n)
		}
	})
}

// The oldest messages go when there are too many, whatever order they came in.
func TestOldestGoFirst(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		r := newRig(t, url, Options{Messages: 160})
		var all []Entry
		for i := range 170 {
			all = append(all, said(i, "word"))
		}
		slices.Reverse(all)
		r.add(all[:100]...)
		r.add(all[100:]...)
		if n := r.search(query("word")).Count; n != 170 {
			t.Errorf("%d messages, before there are a sixteenth too many", n)
		}
		r.add(said(1000, "word"))
		found := r.search(query("word"))
		if found.Count != 160 || found.Hits[0].At != 1000 || found.State.Messages != 160 {
			t.Errorf("%d messages of %d", found.Count, found.State.Messages)
		}
		q := query("word")
		q.After, q.Limit = &found.Hits[99].Position, 100
		if found = r.search(q); found.Hits[len(found.Hits)-1].At != 11 {
			t.Errorf("the oldest is %+v", found.Hits[len(found.Hits)-1])
		}
	})
}

// Many small writes make few segments, beside what goes on; nothing is lost by that.
func TestSegmentsAreMerged(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		r := newRig(t, url, Options{})
		random := rand.New(rand.NewPCG(1, 2))
		words := strings.Fields("alpha beta gamma delta epsilon zeta eta theta iota kappa 東京 lambda")
		have := make(map[string][]int)
		gone := make(map[int]bool)
		for n := 0; n < 2500; {
			var u Update
			for range 1 + random.IntN(40) {
				text := ""
				for range 1 + random.IntN(4) {
					text += words[random.IntN(len(words))] + " "
				}
				for _, w := range slices.Compact(slices.Sorted(slices.Values(strings.Fields(text)))) {
					have[w] = append(have[w], n)
				}
				u.Entries = append(u.Entries, said(n, text))
				n++
			}
			if random.IntN(10) == 0 {
				at := random.IntN(n)
				gone[at] = true
				u.Gone = append(u.Gone, Gone{"!r:hs", id.EventID(fmt.Sprintf("$event%d", at))})
			}
			r.update(u)
		}
		r.env.WG.Wait()
		check := func() {
			t.Helper()
			for w, in := range have {
				want := slices.DeleteFunc(slices.Clone(in), func(n int) bool { return gone[n] })
				slices.Reverse(want)
				q := query(w)
				q.Limit = 5000
				r.want(q, want...)
			}
		}
		check()
		x := r.acct.loaded.Load()
		if len(x.segments) > 30 {
			t.Errorf("there are %d segments", len(x.segments))
		}
		r.restart()
		check()
	})
}

// An index that was damaged, or whose key is another, is not believed: it is begun anew,
// says so, and finds what is read from then on. Everything that can be damaged is.
func TestDamagedIndexIsBegunAnew(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		for _, damage := range []string{
			"DELETE FROM search_parts WHERE part = 1",
			"DELETE FROM search_parts WHERE part = 2 AND segment = 2",
			"UPDATE search_parts SET sealed_data = (SELECT sealed_data FROM search_parts WHERE part = 2 AND segment = 2) WHERE part = 2 AND segment = 3",
			"UPDATE search_parts SET segment = 9 WHERE part = 2 AND segment = 2",
			"DELETE FROM search_parts WHERE part = 3",
			"DELETE FROM search_parts WHERE part >= 1024 AND part < 2048",
			"DELETE FROM search_parts WHERE part >= 1048576",
			"UPDATE search_parts SET sealed_data = (SELECT sealed_key FROM accounts) WHERE part = 1",
			"UPDATE search_parts SET sealed_data = (SELECT sealed_key FROM accounts) WHERE part >= 1048576",
		} {
			r := newRig(t, url, Options{})
			var many []Entry
			for i := range 100 {
				many = append(many, said(i, fmt.Sprintf("lighthouse %d", i)))
			}
			r.add(many...)
			r.add(said(200, "lighthouse"))
			r.add(said(201, "lighthouse"))
			r.raw(damage)
			for range 2 { // whoever finds it out first, it stays so
				if found := r.search(query("lighthouse")); len(found.Hits) != 0 || !found.State.Refilling || found.State.Messages != 0 {
					t.Errorf("%s: %d hits in %+v", damage, len(found.Hits), found.State)
				}
				r.restart()
			}
			r.add(said(300, "the lighthouse again"))
			r.want(query("lighthouse"), 300)
			if left, known := r.acct.ToRefill(); known || left != nil {
				t.Errorf("%s: to be read are %v", damage, left)
			}
			rooms := map[id.RoomID]string{"!r:hs": "t1", "!other:hs": ""}
			if err := r.acct.Refill(t.Context(), r.dev, rooms); err != nil {
				t.Fatal(err)
			}
			r.restart()
			r.search(query("lighthouse"))
			if left, known := r.acct.ToRefill(); !known || left["!r:hs"] != "t1" || len(left) != 2 || !r.acct.Refilling() {
				t.Errorf("%s: to be read are %v", damage, left)
			}
			if err := r.acct.Refill(t.Context(), r.dev, nil); err != nil || r.search(query("x")).State.Refilling {
				t.Errorf("%s: still refilling: %v", damage, err)
			}
			r.raw("DELETE FROM search_parts")
			r.end()
		}
	})
}

// A part that is damaged while the index is in memory is found out by a change too.
func TestDamageIsFoundByAChange(t *testing.T) {
	t.Parallel()
	r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "e2ee.db"), Options{})
	r.add(said(1, "one"), said(2, "two"))
	if err := r.db.Save(t.Context(), r.acct.acct.Row, r.dev.RowID, &store.Changes{DeleteSearch: []int64{1}}); err != nil {
		t.Fatal(err)
	}
	r.update(Update{Entries: []Entry{said(3, "three")}, Gone: []Gone{{"!r:hs", "$event1"}}})
	r.want(query("two"))
	if found := r.want(query("three"), 3); !found.State.Refilling {
		t.Errorf("state: %+v", found.State)
	}
}

// A failing write changes nothing, and the next one is as if it had not been tried. With
// indexes switched off, there are none, and those that there were are deleted.
func TestFailedWriteAndSwitchedOff(t *testing.T) {
	t.Parallel()
	r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "e2ee.db"), Options{})
	r.add(said(1, "one"))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.acct.Update(ended, r.dev, Update{Entries: []Entry{said(2, "two")}}); err == nil {
		t.Error("a write without time is no error")
	}
	r.want(query("two"))
	r.add(said(2, "two"))
	r.want(query("two"), 2)
	r.opts.Off = true
	r.restart()
	r.add(said(3, "three"))
	if has, err := r.db.HasSearch(t.Context(), r.acct.acct.Row); err != nil || has || r.acct.On() {
		t.Errorf("with no index: %t %v", has, err)
	}
}

// Only some indexes are in memory. Those that are not lose nothing.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "e2ee.db"), Options{InMemory: 5})
	row, err := r.db.Account(t.Context(), "@bob:hs")
	if err != nil {
		t.Fatal(err)
	}
	dev, err := r.db.CreateDevice(t.Context(), row, store.Device{DeviceID: "B"})
	if err != nil {
		t.Fatal(err)
	}
	bob := *r.dev.Account
	bob.Row, bob.User = row, "@bob:hs"
	other := New(&bob, r.acct.shared)
	theirs := *r
	theirs.acct, theirs.dev = &other, newDevice(r, &bob, dev.ID)
	for i := range 6 {
		r.add(said(i, "alice"))
		theirs.add(said(i, "bob"))
		if r.acct.loaded.Load() != nil && other.loaded.Load() != nil && i >= 3 {
			t.Error("both indexes are in memory")
		}
	}
	r.want(query("alice"), 5, 4, 3, 2, 1, 0)
	theirs.want(query("bob"), 5, 4, 3, 2, 1, 0)
	theirs.want(query("alice"))
	if s := r.acct.shared; s.entries > 6 {
		t.Errorf("%d entries are counted", s.entries)
	}
}

// Attack 59: somebody reads the database. No word, room, sender or event of the index stands
// in it, and equal words of two accounts, or of one account's two lives, look different.
func TestNoClearWordAtRest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, "sqlite:"+filepath.Join(dir, "e2ee.db"), Options{})
	e := said(1, "canaryword canaryword")
	e.Room, e.Event, e.Sender, e.Type = "!canaryroom:hs", "$canaryevent", "@canarysender:hs", "canarytype"
	var many []Entry
	for i := range 300 {
		more := e
		more.Event = id.EventID(fmt.Sprintf("$canaryevent%d", i))
		many = append(many, more)
	}
	r.add(e)
	r.add(many...)
	x := r.acct.loaded.Load()
	hash := x.hasher().word(KeyBody, "canaryword")
	if other := r.acct.newIndex().hasher().word(KeyBody, "canaryword"); other == hash {
		t.Error("a word has the same hash under two keys")
	}
	key := bytes.Clone(x.head.Key)
	r.end()
	size := 0
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		size += len(raw)
		if bytes.Contains(raw, []byte("canary")) || bytes.Contains(raw, key) {
			t.Errorf("something of the index is in %s", f.Name())
		}
	}
	if size < 50_000 {
		t.Errorf("only %d bytes were looked through", size)
	}
}

// What cannot have been written is refused, and does not crash.
func FuzzSegments(f *testing.F) {
	var docs []doc
	h := newHasher(bytes.Repeat([]byte{1}, keySize))
	for i := range 70 {
		e := said(i, fmt.Sprintf("a few words %d", i))
		docs = append(docs, h.doc(&e, h.event(e.Event)))
	}
	_, parts := newSegment(1, docs)
	for i := range parts {
		f.Add(parts[i].Data.Reveal(), 70)
	}
	_, parts = newSegment(1, docs[:3])
	f.Add(parts[0].Data.Reveal(), 3)
	f.Fuzz(func(_ *testing.T, data []byte, n int) {
		n = min(max(n, 0), 300)
		if w, err := openWhole(data); err == nil {
			_, _ = openSegment(1, n, w.columns)
			_ = w.ids.into(make([]doc, n))
			_ = w.words.each(n, func(uint32, int) {})
		}
		if s, err := openSegment(1, n, data); err == nil {
			_, _ = s.docs([]store.SearchPart{{Data: data, SearchPartRef: store.SearchPartRef{Part: partWhole}}})
		}
		_ = words(data).find(n, clause{}, func(int) {})
	})
}

// Attack: a page of history that was asked for before a redaction comes after it, with the redacted
// message, and with an edit that is gone; or the message was never in the index before. None of it
// comes into the index, in its own room, for as long as such a page may be under way, and whatever
// becomes of what is in memory of the index. Not for ever: how much is remembered is bounded.
func TestOldPagesBringNothingBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "e2ee.db"), Options{})
	now := time.Now()
	r.env.Now = func() time.Time { return now }
	elsewhere := said(4, "lighthouse")
	elsewhere.Room = "!other:hs"
	page := []Entry{said(1, "lighthouse"), said(2, "lighthouse"), edit(3, 2, "keeper"), said(4, "lighthouse")}
	r.add(page[:3]...)
	r.update(Update{Gone: []Gone{{"!r:hs", "$event1"}, {"!r:hs", "$event3"}, {"!r:hs", "$event4"}}})
	again := func() {
		t.Helper()
		r.add(page...)
		r.want(query("lighthouse"), 2)
		r.want(query("keeper"))
	}
	again()
	r.acct.Forget()
	again()
	now = now.Add(goneFor - time.Second)
	again()
	r.add(elsewhere)
	q := query("lighthouse")
	q.Rooms = []id.RoomID{"!other:hs"}
	r.want(q, 4)

	many := make([]Gone, 10*maxGone)
	for i := range many {
		many[i] = Gone{"!r:hs", id.EventID(fmt.Sprint("$x", i))}
	}
	r.update(Update{Gone: many[:maxGone-3]})
	again()
	r.update(Update{Gone: many})
	if n := len(r.acct.gone.young) + len(r.acct.gone.old); n > 2*maxGone {
		t.Errorf("%d are remembered", n)
	}
	r.update(Update{Gone: []Gone{{"!r:hs", "$event1"}}})
	for range 2 {
		now = now.Add(goneFor)
		r.update(Update{Gone: []Gone{{"!r:hs", "$another"}}})
	}
	r.add(said(1, "lighthouse"))
	r.want(query("lighthouse"), 2, 1)
}
