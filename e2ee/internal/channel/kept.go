package channel

import (
	"context"
	"fmt"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
)

// Olm sessions in use are kept in memory as they are stored, so that a room key for a thousand
// devices reads none of them. What is kept is replaced once a change is stored, and only then.
// If anybody else has changed the sessions meanwhile, the store refuses the change (OlmChanges).

const (
	// maxKept bounds the bytes of what all devices keep, about; maxKeepers their number.
	maxKept    = 32 << 20
	maxKeepers = 10_000
	// maxPeers bounds the devices of which one device keeps the sessions, or that there are none:
	// anybody can send what makes it look for some.
	maxPeers = 20_000
	// keptOverhead is about what a session takes beside its pickle, and keptStep a position.
	keptOverhead = 300
	keptStep     = 160
)

// Shared bounds what the devices of an engine keep of their sessions.
type Shared struct {
	mu   locks.Mutex
	used *simplelru.LRU[*kept, int] // bytes, the least recently used first
	size int
}

// NewShared returns the bound of an engine.
func NewShared(env *core.Env) (*Shared, error) {
	s := &Shared{mu: locks.Mutex{Place: env.Order.At(locks.RankLeaf)}}
	used, err := simplelru.NewLRU(maxKeepers, func(k *kept, size int) {
		s.size -= size
		k.all = nil
	})
	if err != nil {
		return nil, fmt.Errorf("make the list of Olm sessions in memory: %w", err)
	}
	s.used = used
	return s, nil
}

// kept is what a device keeps. Its shared lock guards it: another device may have it dropped.
type kept struct {
	all *sessionsKept
}

// sessionsKept is not changed under the shared lock but under the device's.
type sessionsKept struct {
	rows    map[id.Curve25519][]store.OlmSession // none: known to have no session
	steps   *olm.Steps
	changes int64 // how often they were changed
	size    int
}

// put replaces what is kept of devices.
func (k *sessionsKept) put(rows map[id.Curve25519][]store.OlmSession) {
	if len(k.rows)+len(rows) > maxPeers {
		clear(k.rows)
		k.size = 0
	}
	for key, list := range rows {
		if before, ok := k.rows[key]; ok {
			k.size -= sizeOf(before)
		}
		k.size += sizeOf(list)
		k.rows[key] = list
	}
}

func sizeOf(list []store.OlmSession) int {
	size := keptOverhead
	for i := range list {
		size += keptOverhead + len(list[i].Pickle)
	}
	return size
}

// sessions returns what is kept, read first if that is nothing. The caller holds mu.
func (o *Olm) sessions(ctx context.Context) (*sessionsKept, error) {
	if all := o.shared.get(o.kept); all != nil {
		return all, nil
	}
	rows, changes, err := o.Env.Store.OlmSteps(ctx, o.Account.Row, o.RowID)
	if err != nil {
		return nil, err
	}
	steps, err := olm.ReadSteps(rows)
	if err != nil {
		return nil, err
	}
	all := &sessionsKept{rows: make(map[id.Curve25519][]store.OlmSession), steps: steps, changes: changes}
	o.shared.use(o.kept, all)
	return all, nil
}

func (s *Shared) get(k *kept) *sessionsKept {
	s.mu.Lock()
	defer s.mu.Unlock()
	return k.all
}

// use records that something is kept, and has others dropped if that is too much.
func (s *Shared) use(k *kept, all *sessionsKept) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := all.size + all.steps.Len()*keptStep + keptOverhead
	if before, ok := s.used.Peek(k); ok {
		s.size -= before
	}
	k.all = all
	s.size += size
	s.used.Add(k, size)
	for s.size > maxKept && s.used.Len() > 0 {
		s.used.RemoveOldest()
	}
}

// ForgetSessions drops what is kept: it is read again.
func (o *Olm) ForgetSessions() {
	o.shared.mu.Lock()
	defer o.shared.mu.Unlock()
	o.shared.used.Remove(o.kept)
	o.kept.all = nil
}

// rowsOf returns the sessions with devices of these keys, reading with one query those that are
// not kept. The caller holds mu.
func (o *Olm) rowsOf(ctx context.Context, keys []id.Curve25519) (map[id.Curve25519][]store.OlmSession, error) {
	all, err := o.sessions(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[id.Curve25519][]store.OlmSession, len(keys))
	var missing []string
	for _, key := range keys {
		list, ok := all.rows[key]
		if !ok {
			missing = append(missing, key.String())
		} else if len(list) > 0 {
			out[key] = list
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	read, err := o.Env.Store.OlmSessions(ctx, o.Account.Row, o.RowID, missing)
	if err != nil {
		return nil, fmt.Errorf("load Olm sessions: %w", err)
	}
	fresh := make(map[id.Curve25519][]store.OlmSession, len(missing))
	for _, name := range missing {
		key, list := id.Curve25519(name), read[name]
		all.steps.Advance(list)
		fresh[key] = list
		if len(list) > 0 {
			out[key] = list
		}
	}
	all.put(fresh)
	o.shared.use(o.kept, all)
	return out, nil
}

// LoadSessions loads the sessions with devices of these keys. The caller holds mu.
func (o *Olm) LoadSessions(ctx context.Context, keys []id.Curve25519) (*olm.Sessions, error) {
	rows, err := o.rowsOf(ctx, keys)
	if err != nil {
		return nil, err
	}
	return olm.LoadSessions(rows)
}

// StageSessions stages what changed in sessions. The caller holds mu.
func (o *Olm) StageSessions(ctx context.Context, s *core.Step, sessions *olm.Sessions) error {
	all, err := o.sessions(ctx)
	if err != nil {
		return err
	}
	moves := sessions.Collect(s.Changes, all.steps)
	rows := sessions.Rows()
	if len(rows) == 0 {
		return nil
	}
	expected := all.changes
	s.Changes.OlmChanges = &expected
	s.After(func() {
		all.changes = expected + 1
		all.steps.Apply(moves)
		all.put(rows)
		if o.shared.get(o.kept) == all {
			o.shared.use(o.kept, all)
		}
	})
	return nil
}
