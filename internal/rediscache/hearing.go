package rediscache

import (
	"slices"
	"time"
)

const (
	// dropMemory is how long at least a drop is remembered. No entry may hold for longer.
	dropMemory = 3 * time.Minute
	// skewMemory is how long nothing is believed after clocks were seen to differ. Every replica says
	// something more often.
	skewMemory = 10 * time.Second
	// maxDropped is how many drops are remembered for each such time. With more, everything made
	// before counts as dropped.
	maxDropped = 100_000
	// maxUntold is how many drops wait for being told. With more, everything is dropped.
	maxUntold = 10_000
)

// subject is a name of a kind.
type subject struct {
	kind Kind
	name string
}

// hearing is what this process heard from the others.
type hearing struct {
	// since is when it began to hear, zero while it does not.
	since time.Time
	// subscribed is when Redis accepted the subscription. It counts once a beat came back.
	subscribed time.Time
	// sent and beat are the numbers of its own last beat that was sent, and that came back, at when.
	sent, beat int64
	beatAt     time.Time
	// skewed is when another replica last said something at a time that is not now.
	skewed time.Time
	// recent and older are the names dropped in this span of dropMemory and in the one before.
	recent, older map[subject]struct{}
	turned        time.Time
}

// drop remembers names until no entry made before can be in use.
func (h *hearing) drop(kind Kind, names []string, now time.Time) {
	h.turn(now)
	if len(h.recent)+len(names) > maxDropped {
		h.recent, h.older = nil, nil
		h.dropAll(now)
		return
	}
	if h.recent == nil {
		h.recent = make(map[subject]struct{}, len(names))
	}
	for _, name := range names {
		h.recent[subject{kind, name}] = struct{}{}
	}
}

// dropAll has everything that was made before count as dropped.
func (h *hearing) dropAll(now time.Time) {
	if !h.since.IsZero() {
		h.since = now
	}
}

// turn forgets drops that are older than dropMemory.
func (h *hearing) turn(now time.Time) {
	if now.Sub(h.turned) < dropMemory {
		return
	}
	h.recent, h.older, h.turned = nil, h.recent, now
}

func (h *hearing) dropped(s subject) bool {
	_, recent := h.recent[s]
	_, older := h.older[s]
	return recent || older
}

// Dropped reports whether a name was dropped, here or by another replica, so short a time ago
// that an entry from before could still be in use.
func (c *Cache) Dropped(kind Kind, name string) bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hearing.dropped(subject{kind, name})
}

// heardAll returns the listeners of every kind.
func (c *Cache) heardAll() []Listener {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Listener, 0, len(c.listeners))
	for _, l := range c.listeners {
		out = append(out, l)
	}
	return out
}

func (c *Cache) listener(kind Kind) Listener {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listeners[kind]
}

// startHearing is called when the first own beat came over a new subscription: every drop since
// that stands is heard.
func (c *Cache) startHearing(since time.Time) {
	c.mu.Lock()
	c.hearing.since = since
	c.mu.Unlock()
	c.interrupt()
	c.metrics.listening.Set(1)
	c.log.Info().Msg("listening to what other replicas say, over Redis")
}

// stopHearing is called when the subscription is over; without a reason when it is not needed any
// more.
func (c *Cache) stopHearing(why error) {
	c.mu.Lock()
	heard := !c.hearing.since.IsZero()
	c.hearing.since, c.hearing.subscribed = time.Time{}, time.Time{}
	c.mu.Unlock()
	if !heard {
		return
	}
	c.metrics.listening.Set(0)
	if why != nil {
		c.metrics.interruptions.Inc()
		c.log.Warn().Err(safe(why)).Msg("not listening to what other replicas say: Redis is not used until it can be heard again")
	}
	c.interrupt()
}

// everythingDropped is called when a replica dropped more than it can say.
func (c *Cache) everythingDropped() {
	c.mu.Lock()
	c.hearing.dropAll(c.now())
	c.mu.Unlock()
	c.interrupt()
}

// compareClocks looks whether another replica's clock agrees with this one, by when it said what
// came just now. While they differ no entry is believed: its age would not be what it says.
func (c *Cache) compareClocks(said time.Time) {
	now := c.now()
	differ := now.Sub(said)
	if differ.Abs() <= maxSkew {
		return
	}
	c.mu.Lock()
	known := now.Sub(c.hearing.skewed) < skewMemory
	c.hearing.skewed = now
	c.mu.Unlock()
	if !known {
		c.log.Warn().Dur("differ_ms", differ).Msg("the clock of another replica differs, or what it says comes late: nothing in Redis is used while that is so")
	}
}

func (c *Cache) interrupt() {
	for _, l := range c.heardAll() {
		if l.Interrupted != nil {
			l.Interrupted()
		}
	}
}

// untold are drops that the other replicas could not be told yet.
type untold struct {
	names map[Kind][]string
	count int
	// all says that there were too many to remember.
	all bool
}

func (u *untold) add(kind Kind, names []string) {
	if u.all {
		return
	}
	if u.count += len(names); u.count > maxUntold {
		*u = untold{all: true}
		return
	}
	if u.names == nil {
		u.names = make(map[Kind][]string)
	}
	u.names[kind] = append(u.names[kind], slices.Clone(names)...)
}

// takeUntold returns what is still to be told. What cannot be told is added again.
func (c *Cache) takeUntold() untold {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.untold
	c.untold = untold{}
	return u
}

func (c *Cache) addUntold(kind Kind, names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.untold.add(kind, names)
}
