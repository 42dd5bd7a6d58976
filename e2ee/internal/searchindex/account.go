package searchindex

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// Account is the index of one account. It has a lock of its own.
type Account struct {
	acct   *core.Account
	shared *Shared

	mu      locks.Mutex
	loaded  atomic.Pointer[index] // nil: not in memory; replaced under mu only, but for nil
	merging bool
	gone    goneLately
}

// New returns the index of an account. It is read when it is needed.
func New(acct *core.Account, shared *Shared) Account {
	return Account{
		acct: acct, shared: shared, mu: locks.Mutex{Place: acct.Env.Order.At(locks.RankSearch)}, gone: goneLately{seed: maphash.MakeSeed()},
	}
}

// On reports whether there are indexes at all.
func (a *Account) On() bool { return a.shared != nil && !a.shared.options.Off }

// index is what is in memory of an account's index.
type index struct {
	head     head
	segments []*segment
}

const headVersion = 1

// head says what belongs to an index. It is stored with every change.
type head struct {
	Version  int           `json:"version"`
	Key      []byte        `json:"key"`
	Next     int64         `json:"next"` // number of the next segment
	Segments []headSegment `json:"segments"`
	Began    int64         `json:"began"` // milliseconds since 1970
	// Refill is set while an index that was lost is filled again.
	Refill *refill `json:"refill,omitempty"`
}

type headSegment struct {
	ID      int64 `json:"id"`
	Entries int   `json:"n"`
}

// entries returns how many entries there are.
func (x *index) entries() int {
	n := 0
	for _, s := range x.segments {
		n += len(s.entries)
	}
	return n
}

// part returns the head as it is stored.
func (h *head) part() (store.SearchPart, error) {
	raw, err := json.Marshal(h)
	if err != nil {
		return store.SearchPart{}, fmt.Errorf("write the search index's head: %w", err)
	}
	return store.SearchPart{SearchPartRef: store.SearchPartRef{Part: partHead}, Data: raw}, nil
}

// load returns the index; one that cannot be read is begun anew. The caller holds mu.
func (a *Account) load(ctx context.Context, device int64) (*index, error) {
	if x := a.loaded.Load(); x != nil {
		a.shared.use(a, x)
		return x, nil
	}
	x, err := a.read(ctx)
	switch {
	case err == nil:
	case isDamage(err):
		if x, err = a.beginAnew(ctx, device, err); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	a.loaded.Store(x)
	a.shared.use(a, x)
	return x, nil
}

// isDamage reports whether what is stored cannot be used. Everything else may be right the
// next time.
func isDamage(err error) bool { return errors.Is(err, errDamaged) || errors.Is(err, store.ErrSealed) }

// read reads the stored index, or makes one that is not stored yet.
func (a *Account) read(ctx context.Context) (*index, error) {
	parts, err := a.acct.Env.Store.SearchNumbered(ctx, a.acct.Row, []int64{partHead, partWhole, partColumns})
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		if has, err := a.acct.Env.Store.HasSearch(ctx, a.acct.Row); err != nil || has {
			return nil, errors.Join(err, errDamaged)
		}
		return a.newIndex(), nil
	}
	if first := parts[0]; first.Part != partHead || first.Segment != 0 {
		return nil, errDamaged
	}
	x := &index{}
	if json.Unmarshal(parts[0].Data.Reveal(), &x.head) != nil || x.head.Version != headVersion || len(x.head.Key) != keySize {
		return nil, errDamaged
	}
	columns := make(map[int64]store.SearchPart, len(parts))
	for _, p := range parts[1:] {
		columns[p.Segment] = p
	}
	if len(columns) != len(x.head.Segments) || len(columns) != len(parts)-1 {
		return nil, errDamaged
	}
	for _, s := range x.head.Segments {
		p, ok := columns[s.ID]
		data := p.Data.Reveal()
		if p.Part == partWhole {
			w, err := openWhole(data)
			if err != nil {
				return nil, err
			}
			data = w.columns
		}
		if !ok || p.Part == partWhole != (s.Entries <= maxWhole) || s.ID >= x.head.Next {
			return nil, errDamaged
		}
		seg, err := openSegment(s.ID, s.Entries, data)
		if err != nil {
			return nil, err
		}
		x.segments = append(x.segments, seg)
	}
	return x, nil
}

const keySize = 32

func (a *Account) newIndex() *index {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // crypto/rand never returns an error
	return &index{head: head{Version: headVersion, Key: key, Next: 1, Began: a.acct.Env.Now().UnixMilli()}}
}

// beginAnew drops what is stored, and has the index filled again. The caller holds mu.
func (a *Account) beginAnew(ctx context.Context, device int64, why error) (*index, error) {
	a.acct.Env.Log.Error().Err(why).Msg("A search index could not be read; it is filled again")
	x := a.newIndex()
	x.head.Refill = &refill{}
	part, err := x.head.part()
	if err != nil {
		return nil, err
	}
	if err := a.acct.Env.Store.Save(ctx, a.acct.Row, device, &store.Changes{DropSearch: true, Search: []store.SearchPart{part}}); err != nil {
		return nil, fmt.Errorf("begin the search index anew: %w", err)
	}
	return x, nil
}

// lost is called with an error of something that was read after the index was loaded, and
// returns the one that takes its place. The caller holds mu.
func (a *Account) lost(ctx context.Context, device int64, err error) (*index, error) {
	if !isDamage(err) {
		return nil, err
	}
	x, err := a.beginAnew(ctx, device, err)
	if err != nil {
		a.forget()
		return nil, err
	}
	a.loaded.Store(x)
	a.shared.use(a, x) // it may be out of memory again by the time this returns
	return x, nil
}

// forget has the index read again. The caller holds mu.
func (a *Account) forget() {
	a.loaded.Store(nil)
	a.shared.drop(a)
}

// Forget has the index read again: what is stored may have been deleted.
func (a *Account) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forget()
}

func (x *index) hasher() *hasher { return newHasher(secret.Bytes(x.head.Key)) }

// State is what is in an index.
type State struct {
	Messages int
	Began    time.Time // messages from before were found only if somebody read them since
	// Refilling reports whether it was lost, and is filled again.
	Refilling bool
	// Rooms are those of which it has any message.
	Rooms map[id.RoomID]bool
}

func (x *index) state() State {
	s := State{
		Messages: x.entries(), Began: time.UnixMilli(x.head.Began).UTC(), Refilling: x.head.Refill != nil,
		Rooms: make(map[id.RoomID]bool),
	}
	for _, seg := range x.segments {
		for _, room := range seg.rooms {
			s.Rooms[id.RoomID(room)] = true
		}
	}
	return s
}
