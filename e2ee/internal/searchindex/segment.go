package searchindex

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// A segment is a number of entries that were stored together, and is not changed any more:
// what is removed from it makes another segment in its place. It is stored in parts, so that
// a search reads little of it:
//
//   - the columns of all entries, which are kept in memory while the index is in use;
//   - the event IDs, in blocks, of which a search reads those of the hits that it shows;
//   - the hashes of words, each with the entries it stands in, by the last bits of the hash.
//
// Of a small segment, all of it is one part.

// Numbers of parts.
const (
	partHead    = 1 // of segment 0
	partWhole   = 2
	partColumns = 3
	partIDs     = 1 << 10 // and the number of the block
	partWords   = 1 << 20 // and how many parts there are, << 8, and which of them it is
)

const (
	maxWhole  = 63
	idsBlock  = 256
	maxSliced = 64 // parts into which the words of the largest segments are divided
)

// wordParts returns into how many parts the words of a segment with n entries are divided.
func wordParts(n int) int {
	switch {
	case n <= maxWhole:
		return 0
	case n < 1024:
		return 1
	case n < 8192:
		return 8
	default:
		return maxSliced
	}
}

func wordPart(of int, hash uint32) int64 { return partWords + int64(of)<<8 + int64(hash)%int64(of) }

// wordNumbers returns the parts, of all segments, that may have a hash.
func wordNumbers(hash uint32) []int64 {
	return []int64{partWhole, wordPart(1, hash), wordPart(8, hash), wordPart(maxSliced, hash)}
}

// partNumbers returns all parts of a segment with n entries.
func partNumbers(n int) []int64 {
	if n <= maxWhole {
		return []int64{partWhole}
	}
	all := []int64{partColumns}
	for block := range (n + idsBlock - 1) / idsBlock {
		all = append(all, partIDs+int64(block))
	}
	of := wordParts(n)
	for i := range of {
		all = append(all, wordPart(of, uint32(i)))
	}
	return all
}

// segment is what is in memory of a segment.
type segment struct {
	id      int64
	rooms   []string
	senders []string
	entries []column
	known   []uint64 // hashes of the events, sorted
}

func (s *segment) has(event uint64) bool {
	_, ok := slices.BinarySearch(s.known, event)
	return ok
}

// newSegment makes a segment and its parts.
func newSegment(number int64, docs []doc) (*segment, []store.SearchPart) {
	s := &segment{id: number, entries: make([]column, len(docs))}
	rooms, senders := make(map[string]uint32), make(map[string]uint32)
	words := 0
	for i := range docs {
		d := &docs[i]
		d.entry.room = numberOf(string(d.room), rooms, &s.rooms)
		d.entry.sender = numberOf(string(d.sender), senders, &s.senders)
		s.entries[i] = d.entry
		words += len(d.words)
	}
	s.index()
	pairs := make([]uint64, 0, words)
	for i := range docs {
		for _, w := range docs[i].words {
			pairs = append(pairs, uint64(w)<<32|uint64(i))
		}
	}
	pairs = sortPairs(pairs)
	part := func(number int64, data []byte) store.SearchPart {
		return store.SearchPart{SearchPartRef: store.SearchPartRef{Segment: s.id, Part: number}, Data: data}
	}
	if len(docs) <= maxWhole {
		out := appendBytes(nil, s.encode())
		out = appendBytes(out, encodeIDs(docs))
		return s, []store.SearchPart{part(partWhole, append(out, encodeWords(pairs)...))}
	}
	parts := []store.SearchPart{part(partColumns, s.encode())}
	for block := 0; block*idsBlock < len(docs); block++ {
		parts = append(parts, part(partIDs+int64(block), encodeIDs(docs[block*idsBlock:min((block+1)*idsBlock, len(docs))])))
	}
	of := wordParts(len(docs))
	divided := [][]uint64{pairs}
	if of > 1 {
		divided = make([][]uint64, of)
		for _, p := range pairs {
			at := int(p>>32) % of
			divided[at] = append(divided[at], p)
		}
	}
	for i, some := range divided {
		parts = append(parts, part(wordPart(of, uint32(i)), encodeWords(some)))
	}
	return s, parts
}

// sortPairs sorts hashes with the entries that they stand in; those are in order already. What
// is hashed is spread evenly, so that sorting by one byte after another is much faster than
// comparing.
func sortPairs(pairs []uint64) []uint64 {
	const few = 256
	if len(pairs) < few {
		slices.Sort(pairs)
		return pairs
	}
	other := make([]uint64, len(pairs))
	for shift := 32; shift < 64; shift += 8 {
		var at [256]int
		for _, p := range pairs {
			at[byte(p>>shift)]++
		}
		sum := 0
		for i, n := range at {
			at[i], sum = sum, sum+n
		}
		for _, p := range pairs {
			b := byte(p >> shift)
			other[at[b]] = p
			at[b]++
		}
		pairs, other = other, pairs
	}
	return pairs
}

func numberOf(name string, numbers map[string]uint32, names *[]string) uint32 {
	n, ok := numbers[name]
	if !ok {
		n = uint32(len(*names))
		numbers[name], *names = n, append(*names, name)
	}
	return n
}

// index makes what follows from the entries.
func (s *segment) index() {
	s.known = make([]uint64, len(s.entries))
	for i := range s.entries {
		s.known[i] = s.entries[i].event
	}
	slices.Sort(s.known)
}

// docs returns the entries of a segment, from all of its parts.
func (s *segment) docs(parts []store.SearchPart) ([]doc, error) {
	docs := make([]doc, len(s.entries))
	for i := range docs {
		e := &s.entries[i]
		docs[i] = doc{room: id.RoomID(s.rooms[e.room]), sender: id.UserID(s.senders[e.sender]), entry: *e}
	}
	if want := partNumbers(len(docs)); len(parts) != len(want) {
		return nil, errDamaged
	}
	var lists []words
	for _, p := range parts {
		data := p.Data.Reveal()
		switch {
		case p.Part == partWhole:
			w, err := openWhole(data)
			if err != nil || w.ids.into(docs) != nil {
				return nil, errDamaged
			}
			lists = append(lists, w.words)
		case p.Part >= partWords:
			lists = append(lists, data)
		case p.Part >= partIDs:
			from := int(p.Part-partIDs) * idsBlock
			if from >= len(docs) || ids(data).into(docs[from:min(from+idsBlock, len(docs))]) != nil {
				return nil, errDamaged
			}
		}
	}
	counts := make([]int, len(docs))
	for _, list := range lists {
		if err := list.each(len(docs), func(_ uint32, at int) { counts[at]++ }); err != nil {
			return nil, err
		}
	}
	for i, n := range counts {
		docs[i].words = make([]uint32, 0, n)
	}
	for _, list := range lists {
		if err := list.each(len(docs), func(hash uint32, at int) { docs[at].words = append(docs[at].words, hash) }); err != nil {
			return nil, err
		}
	}
	return docs, nil
}

// compare orders hits: the first is the best, or the newest.
func (c *column) compare(o *column, recent bool) int {
	byTime := cmp.Or(cmp.Compare(o.at, c.at), cmp.Compare(c.event, o.event))
	if recent {
		return byTime
	}
	return cmp.Or(cmp.Compare(c.length, o.length), byTime)
}

var errDamaged = errors.New("the search index is damaged")

// appendBytes appends bytes with their length before them.
func appendBytes(out, b []byte) []byte {
	return append(binary.AppendUvarint(out, uint64(len(b))), b...)
}
