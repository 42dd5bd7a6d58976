package searchindex

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
)

// Gone is an event that must not be found any more, nor what was edited by it.
type Gone struct {
	Room  id.RoomID
	Event id.EventID
}

// Update is what events say about the index.
type Update struct {
	Entries []Entry
	Gone    []Gone // comes after Entries
}

// Update changes the index, in one write; nothing is changed on an error. What is in it is
// ignored, and so is what was gone lately: a page of history that was asked for before a redaction
// still has the text. dev is the device that read the events.
func (a *Account) Update(ctx context.Context, dev *core.Device, u Update) error {
	if !a.On() || len(u.Entries)+len(u.Gone) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if u.Entries = a.gone.without(u, a.acct.Env.Now()); len(u.Entries)+len(u.Gone) == 0 {
		return nil
	}
	x, err := a.load(ctx, dev.RowID)
	if err != nil {
		return err
	}
	err = a.update(ctx, dev.RowID, x, u)
	if err != nil && isDamage(err) {
		if x, err = a.lost(ctx, dev.RowID, err); err == nil {
			err = a.update(ctx, dev.RowID, x, u)
		}
	}
	if err != nil {
		a.forget()
		return err
	}
	a.mergeLater(dev)
	return nil
}

const (
	// goneFor is for how long it is remembered at least that an event is gone: longer than any
	// answer is under way.
	goneFor = 15 * time.Minute
	// maxGone is how many events are remembered whatever happens; it is twice as many at most.
	maxGone = 4096
)

// goneLately are the events that were gone last, as hashes, in two halves: when the young half is
// full or old, the old one is dropped and the young one takes its place. They are in memory only: what
// was asked for before a restart, or at another replica, is not answered after it.
type goneLately struct {
	seed       maphash.Seed
	young, old map[uint64]struct{}
	since      time.Time // of the young half
}

// without returns the entries of an update but for those that were gone before it, and remembers
// which are gone with it.
func (g *goneLately) without(u Update, now time.Time) []Entry {
	if now.Sub(g.since) >= goneFor {
		g.turn(now)
	}
	entries := u.Entries
	if len(g.young)+len(g.old) > 0 {
		entries = slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool {
			return g.has(Gone{e.Room, e.Event}) || e.Source != "" && g.has(Gone{e.Room, e.Source})
		})
	}
	for _, event := range u.Gone {
		if len(g.young) >= maxGone {
			g.turn(now)
		}
		if g.young == nil {
			g.young = make(map[uint64]struct{}, 1)
		}
		g.young[maphash.Comparable(g.seed, event)] = struct{}{}
	}
	return entries
}

func (g *goneLately) has(event Gone) bool {
	hash := maphash.Comparable(g.seed, event)
	_, young := g.young[hash]
	_, old := g.old[hash]
	return young || old
}

func (g *goneLately) turn(now time.Time) { g.young, g.old, g.since = nil, g.young, now }

// pick chooses what changes.
type pick struct {
	x       *index
	fresh   []doc
	at      map[uint64]int // in fresh
	removed map[*segment]map[int]bool
}

// update is [Account.Update] for an index in memory. The caller holds mu.
func (a *Account) update(ctx context.Context, device int64, x *index, u Update) error {
	p := &pick{x: x, fresh: make([]doc, 0, len(u.Entries)), at: make(map[uint64]int, len(u.Entries)), removed: make(map[*segment]map[int]bool)}
	h := x.hasher()
	for i := range u.Entries {
		e := &u.Entries[i]
		if e.Event == "" || len(e.Texts) == 0 && e.Source == "" {
			continue
		}
		known := h.event(e.Event)
		if e.Source == "" && p.keeps(known, e) {
			continue
		}
		p.add(h.doc(e, known))
	}
	p.remove(h, u.Gone)
	p.retain(a.shared.options.Messages)
	if len(p.fresh)+len(p.removed) == 0 {
		return nil
	}
	ch := &store.Changes{}
	next, err := a.rewrite(ctx, x, p.removed, ch)
	if err != nil {
		return err
	}
	if len(p.fresh) > 0 {
		next.take(p.fresh, len(next.segments), ch)
	}
	return a.save(ctx, device, next, ch)
}

// keeps reports whether an event's own text is in the index already, or gives way to that
// of an edit. It saves the work of hashing its words.
func (p *pick) keeps(event uint64, e *Entry) bool {
	if at, ok := p.at[event]; ok {
		d := &p.fresh[at]
		return d.sender == e.Sender && d.room == e.Room
	}
	s, at := p.x.find(event)
	if s == nil {
		return false
	}
	old := &s.entries[at]
	return s.senders[old.sender] == string(e.Sender) && s.rooms[old.room] == string(e.Room)
}

// find returns where an event is; nil if it is not in the index.
func (x *index) find(event uint64) (*segment, int) {
	for _, s := range x.segments {
		if !s.has(event) {
			continue
		}
		for i := range s.entries {
			if s.entries[i].event == event {
				return s, i
			}
		}
	}
	return nil, 0
}

// add adds an entry, in the place of the one that it replaces. Of several edits the newest
// counts, and nobody edits what somebody else wrote: who claims to does not keep the sender's
// own text out.
func (p *pick) add(d doc) {
	var old column
	var sender, room string
	s, at := p.x.find(d.entry.event)
	if i, ok := p.at[d.entry.event]; ok {
		old, sender, room, s = p.fresh[i].entry, string(p.fresh[i].sender), string(p.fresh[i].room), nil
		at = i
	} else if s != nil {
		if p.removed[s][at] {
			s = nil
		} else {
			old, sender, room = s.entries[at], s.senders[s.entries[at].sender], s.rooms[s.entries[at].room]
		}
	}
	if room != "" {
		same := sender == string(d.sender) && room == string(d.room)
		edits := d.entry.source != 0
		switch {
		case edits && (!same || d.entry.sourceAt <= old.sourceAt && old.source != 0):
			return
		case !edits && (same || old.source == 0):
			return
		case edits:
			d.entry.at = old.at
		}
	}
	if i, ok := p.at[d.entry.event]; ok {
		p.fresh[i] = d
		return
	}
	if s != nil {
		p.mark(s, at)
	}
	p.at[d.entry.event] = len(p.fresh)
	p.fresh = append(p.fresh, d)
}

func (p *pick) mark(s *segment, at int) {
	if p.removed[s] == nil {
		p.removed[s] = make(map[int]bool)
	}
	p.removed[s][at] = true
}

// remove removes what is gone.
func (p *pick) remove(h *hasher, gone []Gone) {
	if len(gone) == 0 {
		return
	}
	rooms := make(map[uint64]id.RoomID, len(gone))
	for _, g := range gone {
		rooms[h.event(g.Event)] = g.Room
	}
	delete(rooms, 0)
	is := func(c *column, room string) bool {
		if in, ok := rooms[c.event]; ok && string(in) == room {
			return true
		}
		in, ok := rooms[c.source]
		return ok && string(in) == room
	}
	p.fresh = slices.DeleteFunc(p.fresh, func(d doc) bool { return is(&d.entry, string(d.room)) })
	for _, s := range p.x.segments {
		for i := range s.entries {
			if is(&s.entries[i], s.rooms[s.entries[i].room]) {
				p.mark(s, i)
			}
		}
	}
}

// retain removes the oldest entries when there are too many: a sixteenth more than that, so
// that it is not done each time.
func (p *pick) retain(most int) {
	n := p.x.entries() + len(p.fresh)
	if n <= most+most/16 {
		return
	}
	times := make([]int64, 0, n)
	for _, s := range p.x.segments {
		for i := range s.entries {
			times = append(times, s.entries[i].at)
		}
	}
	for i := range p.fresh {
		times = append(times, p.fresh[i].entry.at)
	}
	slices.Sort(times)
	oldest := times[n-most]
	for _, s := range p.x.segments {
		for i := range s.entries {
			if s.entries[i].at < oldest {
				p.mark(s, i)
			}
		}
	}
	p.fresh = slices.DeleteFunc(p.fresh, func(d doc) bool { return d.entry.at < oldest })
}

// rewrite returns the index without what is removed, and what must be stored for that.
func (a *Account) rewrite(ctx context.Context, x *index, removed map[*segment]map[int]bool, ch *store.Changes) (*index, error) {
	next := &index{head: x.head}
	for _, s := range x.segments {
		if removed[s] == nil {
			next.segments = append(next.segments, s)
			continue
		}
		docs, err := a.docs(ctx, s)
		if err != nil {
			return nil, err
		}
		ch.DeleteSearch = append(ch.DeleteSearch, s.id)
		left := docs[:0]
		for i := range docs {
			if !removed[s][i] {
				left = append(left, docs[i])
			}
		}
		if len(left) > 0 {
			next.take(left, len(next.segments), ch)
		}
	}
	return next, nil
}

// docs reads all entries of a segment.
func (a *Account) docs(ctx context.Context, s *segment) ([]doc, error) {
	var refs []store.SearchPartRef
	for _, number := range partNumbers(len(s.entries)) {
		refs = append(refs, store.SearchPartRef{Segment: s.id, Part: number})
	}
	parts, err := a.acct.Env.Store.SearchParts(ctx, a.acct.Row, refs)
	if err != nil {
		return nil, err
	}
	return s.docs(parts)
}

// take makes a segment of entries, at a place among the others.
func (x *index) take(docs []doc, at int, ch *store.Changes) {
	s, parts := newSegment(x.head.Next, docs)
	x.head.Next++
	x.segments = slices.Insert(x.segments, at, s)
	ch.Search = append(ch.Search, parts...)
}

// save stores a changed index, which then is the account's. The caller holds mu.
func (a *Account) save(ctx context.Context, device int64, x *index, ch *store.Changes) error {
	x.head.Segments = make([]headSegment, len(x.segments))
	for i, s := range x.segments {
		x.head.Segments[i] = headSegment{s.id, len(s.entries)}
	}
	part, err := x.head.part()
	if err != nil {
		return err
	}
	ch.Search = append(ch.Search, part)
	if err := a.acct.Env.Store.Save(ctx, a.acct.Row, device, ch); err != nil {
		return fmt.Errorf("store the search index: %w", err)
	}
	a.loaded.Store(x)
	a.shared.use(a, x)
	return nil
}
