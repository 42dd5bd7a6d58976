package main

import (
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

const (
	searchedMessages = 100_000
	// rareIn is in how many of them the word stands that is looked for.
	rareIn = 1000
)

// BenchmarkSearch looks in an index of 100,000 messages for a word that stands in 1,000 of
// them, and takes the ten newest, also with the memory of the index empty. The messages were
// read and decrypted as a client's are.
func BenchmarkSearch(b *testing.B) {
	const batch = 2000
	r, _ := newReaders(b, 0, nil)
	d, who := r.next()
	for from := 0; from < searchedMessages; from += batch {
		said := make([]string, batch)
		for i := range said {
			said[i] = wordy(from + i)
		}
		talk := newConversationOf(b, r.from.user, said)
		r.from.sendRoomKey(who, benchRoom, talk.id, talk.key)
		knows(b, d, talk.events[0])
		for i := 0; i < batch; i += openBatch {
			if _, err := d.Open(b.Context(), talk.events[i:min(i+openBatch, batch)]); err != nil {
				b.Fatal(err)
			}
		}
	}
	q := e2ee.SearchQuery{
		Term: e2ee.NewSearchTerm("needle"), Keys: []e2ee.SearchKey{e2ee.SearchBody, e2ee.SearchName, e2ee.SearchTopic},
		Rooms: []id.RoomID{benchRoom}, Recent: true, Limit: 10,
	}
	search := func() {
		found, err := d.Search(b.Context(), q)
		if err != nil || found.Count != rareIn || len(found.Hits) != q.Limit {
			b.Fatalf("%d are found, and %d shown: %v", found.Count, len(found.Hits), err)
		}
	}
	var m meter
	for b.Loop() {
		m.measure(search)
	}
	b.ReportMetric(m.p50()/1e3, "p50-ms")
	b.ReportMetric(m.perUnit(1)/1e3, "cpu-ms")
	plain(b)
}

// wordy is a message of a dozen words, some of them frequent and some rare.
func wordy(n int) string {
	text := fmt.Sprintf("message %d is about word%d and word%d, nothing of interest, but as long as what people write", n, n%977, n%30011)
	if n%(searchedMessages/rareIn) == 0 {
		text += " needle"
	}
	return text
}
