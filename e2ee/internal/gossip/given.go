package gossip

import "time"

// maxGiven bounds what is remembered of the secrets, and of the room keys, that were given.
const maxGiven = 4096

// given remembers when something was given to a device, so that it is not given at every
// request (attack N5). The zero value is ready; the holder's lock guards it.
type given[K comparable] map[K]time.Time

// within reports whether it was given less than a duration ago.
func (g given[K]) within(every time.Duration, key K, now time.Time) bool {
	last, ok := g[key]
	return ok && now.Sub(last) < every
}

// add remembers that it was given now. When there is no more room, all else is forgotten.
func (g *given[K]) add(key K, now time.Time) {
	if *g == nil || len(*g) >= maxGiven {
		*g = make(given[K])
	}
	(*g)[key] = now
}
