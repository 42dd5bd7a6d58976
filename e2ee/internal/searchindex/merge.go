package searchindex

import (
	"bytes"
	"context"
	"math/bits"
	"slices"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
)

// Segments of about the same size are merged, so that there are few of them: a search reads
// something of each. That is done beside the requests that added to them.

const (
	// mergeShift is the logarithm of how many segments of a size are merged, and of how much
	// the sizes differ.
	mergeShift = 3
	maxMerged  = 32 << 10 // entries in the largest segment that is merged with others
)

func sizeClass(n int) int { return (bits.Len(uint(n)) - 1) / mergeShift }

// due returns segments to merge; nil when there are few.
func (x *index) due() []*segment {
	classes := make(map[int][]*segment)
	for _, s := range x.segments {
		n := len(s.entries)
		if n >= maxMerged {
			continue
		}
		class := sizeClass(n)
		classes[class] = append(classes[class], s)
		if len(classes[class]) == 1<<mergeShift {
			return classes[class]
		}
	}
	return nil
}

// mergeLater merges what is due, once at a time. The caller holds mu.
func (a *Account) mergeLater(dev *core.Device) {
	x := a.loaded.Load()
	ctx := a.acct.Env.Context
	if a.merging || x == nil || x.due() == nil || ctx.Err() != nil {
		return
	}
	a.merging = true
	a.acct.Env.WG.Go(func() {
		for a.mergeOnce(ctx, dev.RowID) {
		}
	})
}

// mergeOnce merges some segments and reports whether there may be more to do.
func (a *Account) mergeOnce(ctx context.Context, device int64) (more bool) {
	a.mu.Lock()
	x, err := a.load(ctx, device)
	var from []*segment
	if err == nil {
		from = x.due()
	}
	if from == nil {
		a.merging = false
	}
	a.mu.Unlock()
	if from == nil {
		return false
	}
	docs, err := a.allDocs(ctx, from)
	a.mu.Lock()
	defer a.mu.Unlock()
	if now, again := a.load(ctx, device); again == nil && (!now.hasAll(from) || !bytes.Equal(now.head.Key, x.head.Key)) {
		return true // something was removed from them meanwhile
	}
	if err == nil {
		err = a.swap(ctx, device, from, docs)
	}
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		a.acct.Env.Log.Warn().Err(err).Msg("Parts of a search index could not be merged")
	}
	a.merging = false
	a.forget() // if it is damaged, reading it again tells
	return false
}

// hasAll reports whether segments are all still there.
func (x *index) hasAll(all []*segment) bool {
	return !slices.ContainsFunc(all, func(s *segment) bool {
		return !slices.ContainsFunc(x.segments, func(o *segment) bool { return o.id == s.id })
	})
}

func (a *Account) allDocs(ctx context.Context, from []*segment) ([]doc, error) {
	var all []doc
	for _, s := range from {
		docs, err := a.docs(ctx, s)
		if err != nil {
			return nil, err
		}
		all = append(all, docs...)
	}
	return all, nil
}

// swap puts a merged segment in the place of others. The caller holds mu.
func (a *Account) swap(ctx context.Context, device int64, from []*segment, docs []doc) error {
	x, err := a.load(ctx, device)
	if err != nil {
		return err
	}
	next := &index{head: x.head}
	ch := &store.Changes{}
	for _, s := range x.segments {
		if slices.ContainsFunc(from, func(f *segment) bool { return f.id == s.id }) {
			ch.DeleteSearch = append(ch.DeleteSearch, s.id)
		} else {
			next.segments = append(next.segments, s)
		}
	}
	next.take(docs, 0, ch)
	return a.save(ctx, device, next, ch)
}
