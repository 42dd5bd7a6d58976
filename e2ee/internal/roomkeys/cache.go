package roomkeys

import (
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"

	"e2ee-proxy/store"
)

// Cache has the room keys in memory of all devices.
type Cache struct {
	sessions *lru.Cache[inboundKey, *inboundSession]
}

// NewCache returns a cache for a number of room keys.
func NewCache(size int) (*Cache, error) {
	sessions, err := lru.New[inboundKey, *inboundSession](size)
	if err != nil {
		return nil, fmt.Errorf("make room key cache: %w", err)
	}
	return &Cache{sessions: sessions}, nil
}

// Forget removes the room keys of devices, by the IDs of their rows.
func (c *Cache) Forget(devices map[int64]struct{}) {
	for _, k := range c.sessions.Keys() {
		if _, gone := devices[k.device]; gone {
			c.sessions.Remove(k)
		}
	}
}

// inboundKey is a room key's name in the engine's cache. Devices do not share entries: no
// device reaches another's keys.
type inboundKey struct {
	device int64
	store.SessionRef
}
