package searchindex

import (
	"encoding/binary"

	"maunium.net/go/mautrix/id"
)

// cursor reads what was encoded. After the first thing that does not fit it is broken.
type cursor struct {
	in     []byte
	broken bool
}

func (c *cursor) number() uint64 {
	v, n := binary.Uvarint(c.in)
	if n <= 0 {
		c.in, c.broken = nil, true
		return 0
	}
	c.in = c.in[n:]
	return v
}

func (c *cursor) signed() int64 {
	v, n := binary.Varint(c.in)
	if n <= 0 {
		c.in, c.broken = nil, true
		return 0
	}
	c.in = c.in[n:]
	return v
}

func (c *cursor) bytes(n uint64) []byte {
	if n > uint64(len(c.in)) {
		c.in, c.broken = nil, true
		return nil
	}
	out := c.in[:n]
	c.in = c.in[n:]
	return out
}

func (c *cursor) hash() uint64 {
	if b := c.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// ended reports whether everything was read, and fitted.
func (c *cursor) ended() bool { return !c.broken && len(c.in) == 0 }

func (c *cursor) names() []string {
	n := c.number()
	if n > uint64(len(c.in)) {
		c.broken = true
		return nil
	}
	all := make([]string, 0, n)
	for range n {
		all = append(all, string(c.bytes(c.number())))
	}
	return all
}

// encode encodes the columns of a segment.
func (s *segment) encode() []byte {
	out := make([]byte, 0, 64+16*len(s.entries))
	for _, names := range [][]string{s.rooms, s.senders} {
		out = binary.AppendUvarint(out, uint64(len(names)))
		for _, name := range names {
			out = appendBytes(out, []byte(name))
		}
	}
	before := int64(0)
	for i := range s.entries {
		e := &s.entries[i]
		out = binary.AppendVarint(out, e.at-before)
		before = e.at
		out = binary.AppendUvarint(out, uint64(e.room))
		out = binary.AppendUvarint(out, uint64(e.sender))
		out = append(out, e.length)
		out = binary.BigEndian.AppendUint64(out, e.event)
		out = binary.AppendVarint(out, e.sourceAt)
		if e.sourceAt != 0 {
			out = binary.BigEndian.AppendUint64(out, e.source)
		}
	}
	return out
}

// openSegment decodes the columns of a segment with n entries.
func openSegment(number int64, n int, data []byte) (*segment, error) {
	c := &cursor{in: data}
	s := &segment{id: number, rooms: c.names(), senders: c.names()}
	if n < 0 || n > len(c.in) {
		return nil, errDamaged
	}
	s.entries = make([]column, n)
	before := int64(0)
	for i := range s.entries {
		e := &s.entries[i]
		before += c.signed()
		room, sender := c.number(), c.number()
		if room >= uint64(len(s.rooms)) || sender >= uint64(len(s.senders)) {
			return nil, errDamaged
		}
		e.at, e.room, e.sender = before, uint32(room), uint32(sender)
		if b := c.bytes(1); b != nil {
			e.length = b[0]
		}
		e.event, e.sourceAt = c.hash(), c.signed()
		if e.sourceAt != 0 {
			e.source = c.hash()
		}
	}
	if !c.ended() {
		return nil, errDamaged
	}
	s.index()
	return s, nil
}

// ids are encoded event IDs.
type ids []byte

func encodeIDs(docs []doc) ids {
	out := make(ids, 0, 48*len(docs))
	for i := range docs {
		out = appendBytes(out, []byte(docs[i].event))
		out = appendBytes(out, []byte(docs[i].source))
	}
	return out
}

// into decodes the event IDs of all docs.
func (b ids) into(docs []doc) error {
	c := &cursor{in: b}
	for i := range docs {
		docs[i].event = id.EventID(c.bytes(c.number()))
		docs[i].source = id.EventID(c.bytes(c.number()))
	}
	if !c.ended() {
		return errDamaged
	}
	return nil
}

// words are encoded hashes of words: for each, in order, the entries that have it, with
// their length in bytes before them, so that those that nobody looks for are skipped.
type words []byte

// encodeWords encodes sorted pairs of a hash and an entry.
func encodeWords(pairs []uint64) words {
	out := make(words, 0, 5*len(pairs))
	var list []byte
	before := uint64(0)
	for i := 0; i < len(pairs); {
		hash := pairs[i] >> 32
		list = list[:0]
		for last := uint64(0); i < len(pairs) && pairs[i]>>32 == hash; i++ {
			at := pairs[i] & 0xffffffff
			list = binary.AppendUvarint(list, at-last)
			last = at
		}
		out = appendBytes(binary.AppendUvarint(out, hash-before), list)
		before = hash
	}
	return out
}

// each calls f for every hash and entry, of n entries.
func (w words) each(n int, f func(hash uint32, at int)) error {
	return w.lists(func(hash uint32, list []byte) error {
		return entriesOf(list, n, func(at int) { f(hash, at) })
	})
}

// find calls f for the entries that have one of the hashes, of n entries.
func (w words) find(n int, hashes map[uint32]bool, f func(at int)) error {
	return w.lists(func(hash uint32, list []byte) error {
		if !hashes[hash] {
			return nil
		}
		return entriesOf(list, n, f)
	})
}

// lists calls f for each hash with its encoded entries.
func (w words) lists(f func(hash uint32, list []byte) error) error {
	c := &cursor{in: w}
	hash := uint64(0)
	for len(c.in) > 0 {
		hash += c.number()
		list := c.bytes(c.number())
		if hash > 0xffffffff || c.broken {
			return errDamaged
		}
		if err := f(uint32(hash), list); err != nil {
			return err
		}
	}
	if c.broken {
		return errDamaged
	}
	return nil
}

// entriesOf decodes entries, of n.
func entriesOf(list []byte, n int, f func(at int)) error {
	c := &cursor{in: list}
	at := uint64(0)
	for len(c.in) > 0 {
		if at += c.number(); at >= uint64(n) || c.broken {
			return errDamaged
		}
		f(int(at))
	}
	return nil
}

// whole is the only part of a small segment.
type whole struct {
	columns []byte
	ids     ids
	words   words
}

func openWhole(data []byte) (whole, error) {
	c := &cursor{in: data}
	w := whole{columns: c.bytes(c.number()), ids: c.bytes(c.number())}
	if c.broken {
		return whole{}, errDamaged
	}
	w.words = c.in
	return w, nil
}
