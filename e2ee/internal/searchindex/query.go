package searchindex

import (
	"context"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
)

// Query is what somebody looks for, and where.
type Query struct {
	Term Term
	Keys []Key // in one of these

	Rooms      []id.RoomID // in these only
	Senders    []id.UserID // by one of these; nil: by anybody
	NotSenders []id.UserID
	Types      []string // of one of these; nil: of any type
	URL        bool     // with a url only

	Recent bool      // the newest first; else the best
	After  *Position // behind this one
	Limit  int
}

// Position is the place of a hit among all.
type Position struct {
	Length uint8  `json:"l"`
	At     int64  `json:"t"`
	Event  uint64 `json:"e,string"`
}

// Hit is an event that may have what was looked for: the hashes say so, not the text.
type Hit struct {
	Room   id.RoomID
	Event  id.EventID
	Source id.EventID // the edit that the text is from; empty: the event itself
	Rank   float64
	Position
}

// Result is what was found.
type Result struct {
	Hits  []Hit
	Count int // of all hits
	State State
}

// Search looks for a term.
func (a *Account) Search(ctx context.Context, dev *core.Device, q Query) (Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	x, err := a.load(ctx, dev.RowID)
	if err != nil {
		return Result{}, err
	}
	r, err := a.search(ctx, x, &q)
	if err == nil {
		r.State = x.state()
		return r, nil
	}
	if x, err = a.lost(ctx, dev.RowID, err); err != nil {
		return Result{}, err
	}
	return Result{State: x.state()}, nil
}

// clause are hashes of which an entry has at least one.
type clause map[uint32]bool

// clauses returns what an entry must have.
func (q *Query) clauses(h *hasher) []clause {
	var all []clause
	for _, r := range q.Term.runs {
		r.wanted(func(w string) {
			one := make(clause)
			for _, key := range q.Keys {
				one[h.word(key, w)] = true
			}
			all = append(all, one)
		})
	}
	if q.Types != nil {
		one := make(clause)
		for _, t := range q.Types {
			one[h.word(keyType, t)] = true
		}
		all = append(all, one)
	}
	if q.URL {
		all = append(all, clause{h.word(keyURL, ""): true})
	}
	return all
}

// found is an entry that fits.
type found struct {
	seg *segment
	at  int
}

func (f found) column() *column { return &f.seg.entries[f.at] }

// search looks for a term in an index. The caller holds mu.
func (a *Account) search(ctx context.Context, x *index, q *Query) (Result, error) {
	if q.Term.Empty() || len(q.Keys) == 0 || len(x.segments) == 0 {
		return Result{}, nil
	}
	clauses := q.clauses(x.hasher())
	var numbers []int64
	for _, c := range clauses {
		for hash := range c {
			numbers = append(numbers, wordNumbers(hash)...)
		}
	}
	parts, err := a.acct.Env.Store.SearchNumbered(ctx, a.acct.Row, numbers)
	if err != nil {
		return Result{}, err
	}
	lists := make(map[int64]map[int64]words, len(x.segments))
	small := make(map[int64]store.SearchPart)
	for _, p := range parts {
		if lists[p.Segment] == nil {
			lists[p.Segment] = make(map[int64]words)
		}
		list := words(p.Data.Reveal())
		if p.Part == partWhole {
			w, err := openWhole(list)
			if err != nil {
				return Result{}, err
			}
			list, small[p.Segment] = w.words, p
		}
		lists[p.Segment][p.Part] = list
	}
	var hits []found
	count := 0
	wanted := q.filter()
	for _, s := range x.segments {
		some, err := s.search(clauses, lists[s.id])
		if err != nil {
			return Result{}, err
		}
		for _, at := range some {
			if wanted(s, &s.entries[at]) {
				count++
				if q.behind(&s.entries[at]) {
					hits = append(hits, found{s, at})
				}
			}
		}
	}
	slices.SortFunc(hits, func(a, b found) int { return a.column().compare(b.column(), q.Recent) })
	out, err := a.name(ctx, hits[:min(len(hits), q.Limit)])
	return Result{Hits: out, Count: count}, err
}

// search returns the entries of a segment that fit all clauses.
func (s *segment) search(clauses []clause, lists map[int64]words) ([]int, error) {
	n := len(s.entries)
	of := wordParts(n)
	fits := make([]uint16, n) // so many clauses
	for i, c := range clauses {
		done := make(map[int64]bool)
		any := false
		for hash := range c {
			number := int64(partWhole)
			if of > 0 {
				number = wordPart(of, hash)
			}
			if done[number] {
				continue
			}
			done[number] = true
			list, ok := lists[number]
			if !ok {
				return nil, errDamaged
			}
			err := list.find(n, c, func(at int) {
				if int(fits[at]) == i {
					fits[at]++
					any = true
				}
			})
			if err != nil {
				return nil, err
			}
		}
		if !any {
			return nil, nil
		}
	}
	var all []int
	for at, n := range fits {
		if int(n) == len(clauses) {
			all = append(all, at)
		}
	}
	return all, nil
}

// filter returns what decides by an entry's columns whether it is wanted.
func (q *Query) filter() func(*segment, *column) bool {
	rooms, senders, not := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	for _, r := range q.Rooms {
		rooms[string(r)] = true
	}
	for _, u := range q.Senders {
		senders[string(u)] = true
	}
	for _, u := range q.NotSenders {
		not[string(u)] = true
	}
	return func(s *segment, c *column) bool {
		sender := s.senders[c.sender]
		return rooms[s.rooms[c.room]] && !not[sender] && (q.Senders == nil || senders[sender])
	}
}

// behind reports whether an entry comes after the position from which a query goes on.
func (q *Query) behind(c *column) bool {
	if q.After == nil {
		return true
	}
	at := column{length: q.After.Length, at: q.After.At, event: q.After.Event}
	return at.compare(c, q.Recent) < 0
}

// name reads the event IDs of hits.
func (a *Account) name(ctx context.Context, hits []found) ([]Hit, error) {
	var refs []store.SearchPartRef
	ref := func(f found) store.SearchPartRef {
		if len(f.seg.entries) <= maxWhole {
			return store.SearchPartRef{Segment: f.seg.id, Part: partWhole}
		}
		return store.SearchPartRef{Segment: f.seg.id, Part: partIDs + int64(f.at/idsBlock)}
	}
	for _, f := range hits {
		refs = append(refs, ref(f))
	}
	parts, err := a.acct.Env.Store.SearchParts(ctx, a.acct.Row, refs)
	if err != nil {
		return nil, err
	}
	blocks := make(map[store.SearchPartRef][]doc)
	for _, p := range parts {
		list := ids(p.Data.Reveal())
		seg := hits[slices.IndexFunc(hits, func(f found) bool { return f.seg.id == p.Segment })].seg
		n := len(seg.entries)
		if p.Part == partWhole {
			w, err := openWhole(list)
			if err != nil {
				return nil, err
			}
			list = w.ids
		} else {
			n = min(n-int(p.Part-partIDs)*idsBlock, idsBlock)
		}
		docs := make([]doc, n)
		if err := list.into(docs); err != nil {
			return nil, err
		}
		blocks[p.SearchPartRef] = docs
	}
	out := make([]Hit, len(hits))
	for i, f := range hits {
		block, ok := blocks[ref(f)]
		if !ok {
			return nil, errDamaged
		}
		c, d := f.column(), &block[f.at%idsBlock]
		out[i] = Hit{
			Room: id.RoomID(f.seg.rooms[c.room]), Event: d.event, Source: d.source, Rank: rank(c.length),
			Position: Position{c.length, c.at, c.event},
		}
	}
	return out, nil
}

// rank is what BM25 makes of a message of so many words that has each word once, with its
// usual constants and a mean length of 10: between 0 and 1, the more the shorter.
func rank(length uint8) float64 {
	const k, b, mean = 1.2, 0.75, 10
	return 1 / (1 + k*(1-b+b*float64(length)/mean))
}
