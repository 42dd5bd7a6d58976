package roomkeys

import (
	"context"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/internal/signkey"
	"e2ee-proxy/store"
)

// Inbound has the room keys that a device keeps: those that it was sent, its own, and those
// from a backup or a file.
type Inbound struct {
	*core.Device
	cache *Cache
	host  InboundHost

	// opens is held while the sessions of a batch of events are loaded, and while its indices are
	// reserved and stored.
	opens  locks.Mutex
	stored int // how often room keys were stored; guarded by the device's lock
}

// InboundHost is what an Inbound needs of the other parts of a device.
type InboundHost interface {
	// CancelKeyRequests stages that requests for keys that came end; done sends that. The
	// caller holds the device's lock.
	CancelKeyRequests(ctx context.Context, ch *store.Changes, by map[store.SessionRef]id.DeviceID) (done func(), err error)
	// WakeWaiting ends waiting syncs of the client. The caller holds the device's lock.
	WakeWaiting()
}

// NewInbound returns the room keys of a device; they are loaded when they are needed.
func NewInbound(dev *core.Device, cache *Cache, host InboundHost) Inbound {
	return Inbound{Device: dev, cache: cache, host: host, opens: locks.Mutex{Place: dev.Env.Order.At(locks.RankOpens)}}
}

// findSessions sets the session of every event, from the cache or with two queries, and a
// third if several owners claim one.
func (in *Inbound) findSessions(ctx context.Context, events []*Event) error {
	var missing []store.SessionRef
	looked := make(map[store.SessionRef]*inboundSession) // one for all events of a batch
	for _, ev := range events {
		s, ok := looked[ev.Ref]
		if !ok {
			if s, ok = in.cache.sessions.Get(inboundKey{in.keys(), ev.Ref}); !ok {
				missing = append(missing, ev.Ref)
			}
			looked[ev.Ref] = s
		}
		ev.session = s
	}
	if len(missing) > 0 {
		if err := in.loadSessions(ctx, events, missing); err != nil {
			return err
		}
	}
	return in.findOwners(ctx, events)
}

// loadSessions loads the sessions of events from the store. A session that was read while
// better keys were stored serves these events only: it must not replace the better ones in
// the cache.
func (in *Inbound) loadSessions(ctx context.Context, events []*Event, missing []store.SessionRef) error {
	before := in.Stored()
	rows, err := in.Env.Store.InboundSessions(ctx, in.Account.Row, in.RowID, missing)
	if err != nil {
		return fmt.Errorf("load room keys: %w", err)
	}
	last, err := in.Env.Store.LastIndices(ctx, in.Account.Row, in.RowID, missing)
	if err != nil {
		return err
	}
	loaded := make(map[store.SessionRef]*inboundSession, len(rows))
	for ref, row := range rows {
		kept := megolm.ReadOwner(row.Owner)
		s := &inboundSession{row: row, owner: kept.Owner, contested: kept.Contested, sharedBy: kept.SharedBy, last: -1, mu: locks.Mutex{Place: in.Env.Order.At(locks.RankSession)}}
		if index, ok := last[ref]; ok {
			s.last = int64(index)
		}
		if err := s.sess.UnpickleLibOlm(row.Pickle.Reveal()); err != nil {
			return fmt.Errorf("unpickle room key: %w", err)
		}
		s.row.Pickle = nil // the unpickled one is enough
		if key, err := signkey.NewKey(s.sess.SigningKey); err == nil {
			s.key = key
		}
		loaded[ref] = s
	}
	in.keepLoaded(loaded, before)
	for _, ev := range events {
		if ev.session == nil {
			ev.session = loaded[ev.Ref]
		}
	}
	return nil
}

// keepLoaded caches sessions, unless room keys were stored since they were read (before is
// stored at that time). Storing keys first clears cache entries and then counts, under the
// device's lock.
func (in *Inbound) keepLoaded(loaded map[store.SessionRef]*inboundSession, before int) {
	in.Mu.Lock()
	defer in.Mu.Unlock()
	if in.stored != before {
		return
	}
	for ref, s := range loaded {
		in.cache.sessions.Add(inboundKey{in.keys(), ref}, s)
	}
}

// inCache reports whether a session is the cached one: its row has not changed since it was
// read, for as long as the caller holds the device's lock; and with opens held no other has been
// loaded since.
func (in *Inbound) inCache(s *inboundSession) bool {
	now, ok := in.cache.sessions.Peek(inboundKey{in.keys(), s.row.SessionRef})
	return ok && now == s
}

// Stored returns how often room keys were stored.
func (in *Inbound) Stored() int {
	in.Mu.Lock()
	defer in.Mu.Unlock()
	return in.stored
}

// StoredLocked returns how often room keys were stored. The caller holds the device's lock.
func (in *Inbound) StoredLocked() int { return in.stored }

// RecordStored records that room keys were stored: the next use reads them. The caller holds
// the device's lock.
func (in *Inbound) RecordStored(rows []store.InboundSession) {
	if len(rows) == 0 {
		return
	}
	for i := range rows {
		in.cache.sessions.Remove(inboundKey{in.keys(), rows[i].SessionRef})
	}
	in.stored++
	in.host.WakeWaiting()
}

// Cache has the room keys in memory of all devices.
type Cache struct {
	sessions *lru.Cache[inboundKey, *inboundSession]
	tables   *signkey.Tables // of what everybody may know: devices share them
}

// maxTables bounds the tables of keys that messages are signed by, of about 30 kB each.
const maxTables = 128

// NewCache returns a cache for a number of room keys.
func NewCache(size int) (*Cache, error) {
	sessions, err := lru.New[inboundKey, *inboundSession](size)
	if err != nil {
		return nil, fmt.Errorf("make room key cache: %w", err)
	}
	tables, err := signkey.NewTables(maxTables)
	if err != nil {
		return nil, err
	}
	return &Cache{sessions, tables}, nil
}

// ForgetUnused drops what makes reading faster of room keys that were not used since.
func (c *Cache) ForgetUnused(since time.Time) { c.tables.Forget(since) }

// Forget removes the room keys of devices, each with its user.
func (c *Cache) Forget(devices map[DeviceKeys]id.UserID) {
	for _, k := range c.sessions.Keys() {
		if _, gone := devices[k.device]; gone {
			c.sessions.Remove(k)
		}
	}
}

// inboundKey is a room key's name in the engine's cache. Devices do not share entries: no
// device reaches another's keys.
type inboundKey struct {
	device DeviceKeys
	store.SessionRef
}

// DeviceKeys names the room keys of a device in the cache, which are worth nothing once its
// account was somebody else's.
type DeviceKeys struct {
	Tenure uint64 // of the account
	Row    int64  // of the device
}

// KeysOf returns the name of a device's room keys.
func KeysOf(d *core.Device) DeviceKeys { return DeviceKeys{d.Account.Tenure, d.RowID} }

func (in *Inbound) keys() DeviceKeys { return KeysOf(in.Device) }
